"""Goodput in a report: the largest rate at which a policy keeps what requests were promised, as bars."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from servegym.experiments.reporting.figure import Axis, Figure, Series, file_name
from servegym.experiments.reporting.runs import Run
from servegym.experiments.reporting.section import Section
from servegym.experiments.reporting.table import Cell, Table, interval_text, number_cell


class Found(NamedTuple):
    """The goodput of a policy: of what it is the largest rate, with how many seeds, why there is none."""

    subject: str
    limit: str
    policy: str
    goodput_rps: float
    low: float
    high: float
    seeds: int
    reason: str


def goodput_section(read: Sequence[tuple[Run, list[Found]]]) -> Section | None:
    """A figure for each limit that was kept, and a table; nothing without goodputs."""
    found = list(dict.fromkeys(each for _, several in read for each in several))
    if not found:
        return None
    figures = []
    for limit in dict.fromkeys(each.limit for each in found):
        here = [each for each in found if each.limit == limit and math.isfinite(each.goodput_rps)]
        if here:
            figures.append(_figure(limit, here))
    columns = [("scenario", ""), ("limit", ""), ("policy", ""), ("goodput", "requests/s"), ("seeds", "")]
    rows = [
        [
            Cell(each.subject),
            Cell(each.limit),
            Cell(each.policy),
            number_cell(
                each.goodput_rps, ",.5g", interval_text(each.low, each.high, ",.5g") if each.seeds > 1 else ""
            ),
            number_cell(float(each.seeds), ",.0f"),
            Cell(each.reason or ""),
        ]
        for each in found
    ]
    caption = (
        "Interquartile mean over seeds, its 95 % bootstrap interval; a dash where there is none, with why."
    )
    return Section(
        "Goodput",
        [
            "Goodput is the largest arrival rate at which enough requests get what they were promised "
            "(Zhong et al., OSDI 2024). Each seed gives the same requests at every rate, only closer "
            "together. Bars are interquartile means over seeds, with 95 % bootstrap intervals; more is "
            "better.",
        ],
        [
            *figures,
            Table("Goodputs", caption, [*columns, ("note", "")], rows, ("scenario", "limit", "policy")),
        ],
    )


def _figure(limit: str, found: Sequence[Found]) -> Figure:
    series = []
    for policy in dict.fromkeys(each.policy for each in found):
        of = [each for each in found if each.policy == policy]
        low, high = (np.array([getattr(each, end) for each in of]) for end in ("low", "high"))
        rates = np.array([each.goodput_rps for each in of])
        series.append(Series(policy, [each.subject for each in of], rates, low, high, drawn="bars"))
    return Figure(
        file_name("goodput", limit),
        f"Goodput: {limit}",
        f"Largest rate with {limit}; higher is better.",
        Axis("scenario"),
        Axis("goodput", "requests/s"),
        series,
    )


def read_goodputs(run: Run) -> list[Found]:
    """Of a search, with or without a folder, or of an evaluation of a run that was trained to batch."""
    if run.kind == "evaluate batching":
        return list(_evaluated(run.json("evaluation.json")))
    return list(_searched(run.answer or run.json("goodput.json")))


def _searched(answer: dict[str, Any]) -> Iterator[Found]:
    """Of `servegym goodput`, with any kind of scenario."""
    policy, seeds = answer["policy"], len(answer["seeds"])
    name = policy if isinstance(policy, str) else str(policy["name"])
    if "lines" in answer:
        for line, found in answer["lines"].items():
            rate, (low, high) = _finite(found["goodput_rps"]), map(_finite, found["interval"])
            yield Found(
                answer["scenario"], f"line {line} kept", name, rate, low, high, seeds, found["reason"] or ""
            )
        return
    rate, (low, high) = _finite(answer["goodput_rps"]), map(_finite, answer["interval"])
    limit = f"at most {100 * answer['limit']:g} % bad requests"
    yield Found(answer["scenario"], limit, name, rate, low, high, seeds, answer["reason"] or "")


def _evaluated(answer: dict[str, Any]) -> Iterator[Found]:
    """Of `servegym evaluate` with a run that was trained to batch."""
    seeds = len(answer["seeds"])
    for limit, compared in answer.get("limits", {"": answer}).items():
        words = f"limit {limit} kept" if limit else f"at most {100 * answer.get('limit', 0):g} % bad requests"
        for policy, found in compared["policies"].items():
            if found.get("goodput_rps") is not None:
                rate, low, high = (_finite(found["goodput_rps"][key]) for key in ("iqm", "low", "high"))
                yield Found(
                    answer["scenario"], words, policy, rate, low, high, seeds, found.get("reason") or ""
                )


def _finite(value: float | None) -> float:
    return math.nan if value is None else float(value)
