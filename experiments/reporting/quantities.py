"""How quantities are named and shown, whichever command has measured them."""

from dataclasses import dataclass

from servegym.experiments.evaluation.tables import UNITS


@dataclass(frozen=True)
class Quantity:
    """A heading, the unit it is shown in, and how many of these are an SI unit."""

    heading: str
    unit: str = ""
    factor: float = 1.0


_OTHERS = {
    "p50_ttft_s": Quantity("P50 TTFT", "ms", 1e3),
    "p99_tpot_s": Quantity("P99 TPOT", "ms", 1e3),
    "goodput_rps": Quantity("goodput", "requests/s"),
    "good_rps": Quantity("goodput", "requests/s"),
    "throughput_rps": Quantity("throughput", "requests/s"),
    "bad_share": Quantity("bad requests", "%", 1e2),
    "attainment": Quantity("within limits", "%", 1e2),
    "utilisation": Quantity("utilisation", "%", 1e2),
    "mean_batch": Quantity("mean batch", "requests"),
    "mean_return": Quantity("mean return"),
    "mean_response_s": Quantity("mean response time", "ms", 1e3),
    "power_w": Quantity("power", "W"),
    "mean_total_s": Quantity("mean latency per token", "ms", 1e3),
    "mean_input_s": Quantity("mean TTFT per prompt token", "ms", 1e3),
    "mean_output_s": Quantity("mean TPOT", "ms", 1e3),
    "cost": Quantity("cost"),
}

QUANTITIES: dict[str, Quantity] = {
    **{name: Quantity(unit.heading, unit.unit, unit.factor) for name, unit in UNITS.items()},
    **_OTHERS,
}
"""By the names of metrics in answers and files."""


def capitalised(heading: str) -> str:
    """A heading at the start of a sentence."""
    return heading[:1].upper() + heading[1:]


def quantity(name: str) -> Quantity:
    """That of a metric; one without a heading of its own is called what it is in the files."""
    return QUANTITIES.get(name, Quantity(name))
