"""A published claim: its figures, the rule by which ours are judged, and how they are measured.

One rule judges all figures; what differs from it stands with the figure. Ours is the interquartile mean over
seeds.

- `ratio`: how many times. Its effect is what it is above or below 1.
- `change`: a relative change, -0.36 is 36 % less. Its effect is itself.
- `at_most`: a bound. Reproduced where ours keeps it.
- `value`: a number. Reproduced where ours is within the figure's factor of it, else not.

A ratio or change is reproduced if its effect is within a factor (1.5 unless the figure says another) of
what is published, or of the range that is published; it has the direction only if it is not, but the 95 %
interval over the seeds lies on the published side of no effect; else it is not reproduced. A claim is as
good as its worst figure.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import numpy as np

from servegym.experiments.evaluation.statistics import Estimate, estimate

FACTOR = 1.5
"""Within which a figure is reproduced: ours, since neither GPUs nor clocks are those of the papers."""


class Verdict(StrEnum):
    """How ours compares with what is published, from best to worst."""

    REPRODUCED = "reproduced"
    DIRECTION_ONLY = "direction only"
    NOT_REPRODUCED = "not reproduced"


VERDICTS = list(Verdict)


@dataclass(frozen=True)
class Figure:
    """A published figure. Of a range, `low` and `high` are its ends; else they are the same."""

    name: str
    kind: Literal["ratio", "change", "at_most", "value"]
    low: float
    high: float
    factor: float = FACTOR

    def judge(self, ours: Estimate) -> Verdict:
        """The verdict by the rule above."""
        if self.kind == "at_most":
            return Verdict.REPRODUCED if ours.iqm <= self.high else Verdict.NOT_REPRODUCED
        if self.kind == "value":
            within = self.low / self.factor <= ours.iqm <= self.high * self.factor
            return Verdict.REPRODUCED if within else Verdict.NOT_REPRODUCED
        no_effect = 1.0 if self.kind == "ratio" else 0.0
        low, high = sorted((self.low - no_effect, self.high - no_effect), key=abs)
        if not (ours.low > no_effect if low > 0 else ours.high < no_effect):
            return Verdict.NOT_REPRODUCED
        within = abs(low) / self.factor <= abs(ours.iqm - no_effect) <= abs(high) * self.factor
        return Verdict.REPRODUCED if within else Verdict.DIRECTION_ONLY


def ratio(name: str, low: float, high: float | None = None, *, factor: float = FACTOR) -> Figure:
    """`name` is so many times, or between `low` and `high` times."""
    return Figure(name, "ratio", low, low if high is None else high, factor)


def change(name: str, low: float, high: float | None = None, *, factor: float = FACTOR) -> Figure:
    """`name` changes by this share, or by between `low` and `high`."""
    return Figure(name, "change", low, low if high is None else high, factor)


def at_most(name: str, bound: float) -> Figure:
    """`name` is no more than that."""
    return Figure(name, "at_most", bound, bound)


def value(name: str, published: float, *, factor: float) -> Figure:
    """`name` is this number."""
    return Figure(name, "value", published, published, factor)


@dataclass(frozen=True)
class Claim:
    """A claim of a paper.

    name: unique in its paper. workload: what ours is measured on. measure: ours of each figure by its name,
    one value a seed. data: files of the data folder without which it cannot be measured. remark: what was
    found where it does not reproduce, or what else must be known to read it.
    """

    name: str
    statement: str
    workload: str
    figures: Sequence[Figure]
    measure: Callable[[], Mapping[str, Sequence[float]]]
    data: Sequence[str] = ()
    remark: str = ""


@dataclass(frozen=True)
class Paper:
    """A paper with its claims; `source` is how it is cited, with where the figures are from."""

    system: str
    source: str
    claims: Sequence[Claim]


@dataclass(frozen=True)
class Finding:
    """Ours of one figure, and the verdict."""

    figure: Figure
    ours: Estimate
    verdict: Verdict


def check(claim: Claim) -> list[Finding]:
    """Measures a claim and judges every figure of it, in order."""
    measured = claim.measure()
    findings = []
    for figure in claim.figures:
        ours = estimate(np.asarray(measured[figure.name], float))
        findings.append(Finding(figure, ours, figure.judge(ours)))
    return findings


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict of a whole from those of its parts."""
    return max(verdicts, key=VERDICTS.index)
