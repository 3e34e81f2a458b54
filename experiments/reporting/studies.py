"""Studies of very many episodes in a report: means over episodes, percentiles over all requests."""

from collections.abc import Sequence

from servegym.experiments.reporting.quantities import quantity
from servegym.experiments.reporting.runs import Run
from servegym.experiments.reporting.section import Section
from servegym.experiments.reporting.simulations import policy_name, scenario_name
from servegym.experiments.reporting.table import Cell, Table, interval_text, number_cell

SHOWN = ("mean_ttft_s", "mean_tpot_s", "mean_latency_s", "slo_attainment", "goodput_rps")
PERCENTILES = ("p50", "p99", "p99.9")
MEASURES = {"ttft_s": ("TTFT", "ms", 1e3), "latency_s": ("latency", "s", 1.0)}

Row = list[Cell]


def study_section(read: Sequence[tuple[Run, Row]]) -> Section | None:
    """A row for each study; nothing without studies."""
    if not read:
        return None
    columns = [("study", ""), ("scenario", ""), ("policy", ""), ("episodes", ""), ("requests", "")]
    columns += [(quantity(name).heading, quantity(name).unit) for name in SHOWN]
    columns += [
        (f"{percentile.upper()} {heading}", unit)
        for heading, unit, _ in MEASURES.values()
        for percentile in PERCENTILES
    ]
    return Section(
        "Studies",
        [
            "A study serves very many episodes. Means are over episodes, with Student's 95 % interval below, "
            "as episodes are independent; percentiles are over all requests that finished."
        ],
        [Table("Results of studies", "", columns, [row for _, row in read], ("scenario", "policy"))],
    )


def read_study(run: Run) -> Row:
    """The row of a study."""
    answer = run.json("metrics.json")
    row = [
        Cell(run.path.name, str(run.path.parent)),
        Cell(scenario_name(run)),
        Cell(policy_name(run)),
        number_cell(float(run.config["episodes"]), ",.0f"),
        number_cell(float(answer["counts"]["num_requests"]), ",.0f"),
    ]
    for name in SHOWN:
        factor = quantity(name).factor
        low, high = (_number(end) * factor for end in answer["intervals"].get(name, (None, None)))
        row.append(
            number_cell(_number(answer["metrics"].get(name)) * factor, detail=interval_text(low, high))
        )
    for name, (_, _, factor) in MEASURES.items():
        row += [number_cell(_number(answer["latencies"][name].get(each)) * factor) for each in PERCENTILES]
    return row


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
