"""Errors of cost models and of the simulator in a report: what `servegym validate` found."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from servegym.experiments.reporting.figure import Axis, Figure, Series, file_name
from servegym.experiments.reporting.runs import Run
from servegym.experiments.reporting.section import Choice, Part, Section
from servegym.experiments.reporting.table import Cell, Table, number_cell
from servegym.experiments.validation.predictions import PREDICTIONS_FILE

MOST_POINTS = 1500
"""Of a scatter plot and model; more could not be told apart."""


def cost_model_section(read: Sequence[tuple[Run, list[Part]]]) -> Section | None:
    """What each validation found; nothing without any."""
    if not read:
        return None
    return Section(
        "Errors of the cost models",
        [
            "Predictions of what models were not fitted to, against measurements. Points on the diagonal are "
            "right; both axes are logarithmic, so that equal distances from it are equal relative errors."
        ],
        [part for _, parts in read for part in parts],
    )


def read_validation(run: Run) -> list[Part]:
    """The figures and tables of what was validated. KeyError for what is not known here."""
    answer = run.json("validation.json")
    return DRAWN[answer["what"]](run, answer)


def _kernels(run: Run, answer: dict[str, Any]) -> list[Part]:
    """Error by table of timings and model; measured against predicted, of each table."""
    mape = answer["mape"]
    models = list(dict.fromkeys(model for each in mape.values() for model in each["all"]))
    bars = [
        Series(
            model,
            [label for label in mape if model in mape[label]["all"]],
            _floats(each["all"][model] for each in mape.values() if model in each["all"]),
            drawn="bars",
        )
        for model in models
    ]
    errors = Figure(
        file_name("validate kernels error"),
        f"Error by operator: {answer['device']}",
        f"Mean absolute percentage error on shape groups left out whole ({answer['folds']} folds); lower is "
        "better.",
        Axis("operator"),
        Axis("mean absolute error", share=True),
        bars,
    )
    rows = [
        [Cell(label), Cell(region), Cell(model), number_cell(100 * _float(value), ",.2f")]
        for label, regions in mape.items()
        for region, by_model in regions.items()
        for model, value in by_model.items()
    ]
    columns = [("operator", ""), ("region", ""), ("model", ""), ("mean absolute error", "%")]
    caption = "By region of shapes; all: every shape."
    table = Table(
        f"Errors by operator, {answer['device']}", caption, columns, rows, ("operator", "region", "model")
    )
    return [errors, *_scatters(run), table]


def _scatters(run: Run) -> list[Choice]:
    path = run.path / PREDICTIONS_FILE
    if not path.is_file():
        return []
    columns = pq.read_table(path, columns=["table", "model", "measured_s", "predicted_s"])
    tables, models = (np.array(columns[key].to_pylist()) for key in ("table", "model"))
    measured, predicted = (columns[key].to_numpy() for key in ("measured_s", "predicted_s"))
    figures = {}
    for label in dict.fromkeys(tables.tolist()):
        series = []
        for model in dict.fromkeys(models[tables == label].tolist()):
            rows = np.flatnonzero((tables == label) & (models == model) & np.isfinite(predicted))
            few = np.sort(np.random.default_rng(0).permutation(rows)[:MOST_POINTS])
            series.append(Series(model, measured[few] * 1e3, predicted[few] * 1e3, drawn="points"))
        figures[label] = _against_diagonal(
            file_name("validate kernels", label),
            f"Measured and predicted: {label}",
            "kernel time",
            "ms",
            series,
        )
    return [Choice("Operator", figures)]


def _e2e(run: Run, answer: dict[str, Any]) -> list[Part]:
    """Measured against simulated TPOT and TTFT; medians by what points share."""
    parts: list[Part] = []
    points = [point for point in answer["points"] if "measured_tpot_s" in point]
    groups = list(dict.fromkeys(point["group"] for point in points))
    for key, title in (("tpot", "TPOT"), ("ttft", "TTFT")):
        series = []
        for group in groups:
            of = [point for point in points if point["group"] == group]
            measured, simulated = (
                _floats(point[f"{side}_{key}_s"] * 1e3 for point in of) for side in ("measured", "simulated")
            )
            words = [
                f"{each['prompt_tokens']} in, {each['output_tokens']} out, TP {each['tensor_parallel']}, "
                f"{each['concurrency']} clients"
                for each in of
            ]
            series.append(Series(group, measured, simulated, drawn="points", words=words))
        if series:
            title = f"Measured and simulated {title}: {answer['device']}, {answer['clock']} clock"
            parts.append(
                _against_diagonal(file_name("validate e2e", key), title, f"{key.upper()}", "ms", series)
            )
    rows = [
        [Cell(group), number_cell(each["count"], ",.0f")]
        + [
            number_cell(100 * each[f"{key}_{kind}"], "+.1f" if "signed" in kind else ".1f")
            for key in ("tpot", "ttft")
            for kind in ("median_error", "median_signed_error")
        ]
        for group, each in answer["groups"].items()
    ]
    headings = ("TPOT error", "TPOT signed", "TTFT error", "TTFT signed")
    columns = [("points of", ""), ("points", ""), *((heading, "%") for heading in headings)]
    return [*parts, Table(f"Closed loop, {answer['device']}", "Medians of relative errors.", columns, rows)]


def _engine(run: Run, answer: dict[str, Any]) -> list[Part]:
    """Means of a real engine beside the simulator's."""
    keys = {"ttft": "TTFT", "tpot": "TPOT", "e2e": "end-to-end latency"}
    rows = [
        [
            Cell(keys[key]),
            *(number_cell(1e3 * answer[f"{side}_mean_s"][key], ",.2f") for side in ("measured", "simulated")),
            number_cell(100 * answer[f"{key}_mean_error"], "+.1f"),
            *(number_cell(100 * answer[f"{which}_error"][key], "+.1f") for which in ("median", "p99")),
        ]
        for key in keys
    ]
    columns = [("", ""), ("measured", "ms"), ("simulated", "ms")]
    columns += [("error of mean", "%"), ("of median", "%"), ("of P99", "%")]
    caption = f"{answer['requests']} requests, {answer['model']}, {answer['software']}, {answer['device']}."
    return [Table("A real engine", caption, columns, rows)]


def _peers(run: Run, answer: dict[str, Any]) -> list[Part]:
    """Other simulators beside ours."""
    rows = [
        [Cell(who), *(number_cell(means[key], ",.2f") for key in ("ttft", "tpot", "e2e"))]
        for who, means in {"servegym": answer["ours_ms"], **answer["peers_ms"]}.items()
    ]
    columns = [("simulator", ""), ("mean TTFT", "ms"), ("mean TPOT", "ms"), ("mean latency", "ms")]
    return [Table("Other simulators", answer["note"], columns, rows)]


def _simulator(run: Run, answer: dict[str, Any]) -> list[Part]:
    """Runs of another simulator replayed."""
    rows = [
        [
            Cell(each["run"]),
            Cell(each["scheduler"]),
            *(number_cell(each[key], ",.0f") for key in ("replicas", "requests", "batches", "equal_batches")),
            number_cell(each["max_rel_diff"], ".2g"),
        ]
        for each in answer["runs"]
    ]
    headings = ("run", "scheduler", "replicas", "requests", "batches", "equal batches", "relative difference")
    caption = (
        "Another simulator's runs, replayed on its own tables: equal batches, largest difference of times."
    )
    return [Table(f"Replayed: {answer['reference']}", caption, [(heading, "") for heading in headings], rows)]


DRAWN: dict[str, Callable[[Run, dict[str, Any]], list[Part]]] = {
    "kernels": _kernels,
    "e2e": _e2e,
    "engine": _engine,
    "peers": _peers,
    "simulator": _simulator,
}
"""By what was validated."""


def _against_diagonal(name: str, title: str, what: str, unit: str, series: list[Series]) -> Figure:
    values = np.concatenate([np.concatenate([each.places, each.y]) for each in series])
    ends = np.array([values.min(), values.max()]) if len(values) else np.ones(2)
    caption = "Measured against predicted; on the line both are equal."
    diagonal = Series("measured = predicted", ends, ends, drawn="rule")
    axes = (Axis(f"measured {what}", unit, log=True), Axis(f"predicted {what}", unit, log=True))
    return Figure(name, title, caption, *axes, [*series, diagonal])


def _floats(values: Any) -> np.ndarray:
    return np.array([_float(value) for value in values], np.float64)


def _float(value: float | None) -> float:
    return float("nan") if value is None else float(value)
