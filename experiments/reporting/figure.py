"""A figure of a report: what it shows, apart from how it is drawn and written (figure_plotly, _svg, _csv)."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from servegym.experiments.evaluation.plots import COLOURS

Values = npt.NDArray[np.float64]

DASHES = ("solid", "dash", "dashdot", "dot")
"""Ways to draw a line, so that more series than colours can be told apart, and without colours too."""

RULE = ("#000000", "dot")
"""Colour and dash of a line that only guides the eye."""

MOST_MARKED = 40
"""Values of a line that are marked one by one; more would be a thick line."""

LOG_FROM = 4.0
"""Times that the largest value is the smallest, from which on an axis has logarithms if it asks for them."""

Drawn = Literal["line", "steps", "points", "bars", "marks", "rule"]


@dataclass(frozen=True)
class Axis:
    """What an axis measures.

    share: values in [0, 1] that are shown in percent. log: logarithms, where `Figure.ticks` finds them of
    use. span: the ends that are shown; None: what the values need.
    """

    title: str
    unit: str = ""
    log: bool = False
    share: bool = False
    span: tuple[float, float] | None = None

    @property
    def label(self) -> str:
        """The title with its unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


@dataclass(frozen=True, eq=False)
class Series:
    """Values of one thing: a line, steps, points, bars, marks on top of another series, or a rule.

    x: (n,) float64, or names of bars. y, low and high: float64 (n,); the latter are the ends of an interval,
    None where there is none. words: of each value what is said beside it. like: the name of the series whose
    colour it has.
    """

    name: str
    x: Values | list[str]
    y: Values
    low: Values | None = None
    high: Values | None = None
    drawn: Drawn = "line"
    words: list[str] = field(default_factory=list)
    like: str = ""

    @property
    def places(self) -> Values:
        """x as numbers. TypeError for bars."""
        if isinstance(self.x, list):
            raise TypeError(f"series {self.name} has names along x")
        return self.x


@dataclass(frozen=True, eq=False)
class Figure:
    """Series over two axes. name: of its files, made by `file_name`. caption: how to read it."""

    name: str
    title: str
    caption: str
    x: Axis
    y: Axis
    series: Sequence[Series]

    def looks(self) -> list[tuple[str, str]]:
        """Colour and dash of each series: the same for those that are like each other."""
        number: dict[str, int] = {}
        for each in self.series:
            number.setdefault(each.like or each.name, len(number))
        found = [number[each.like or each.name] for each in self.series]
        looks = [(COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % len(DASHES)]) for i in found]
        return [RULE if each.drawn == "rule" else own for each, own in zip(self.series, looks, strict=True)]

    @property
    def band_opacity(self) -> float:
        """Fainter where many bands would hide each other."""
        return 0.16 if sum(each.low is not None for each in self.series) <= 4 else 0.08

    @property
    def categories(self) -> list[str]:
        """Names along x of all bars, each once."""
        return list(
            dict.fromkeys(name for each in self.series if isinstance(each.x, list) for name in each.x)
        )

    def ticks(self, which: Literal["x", "y"]) -> list[float] | None:
        """Where an axis with logarithms has its labels; None where it has none, and needs no own ones.

        An axis asks for logarithms where its values are large and small: it has them where all are above 0
        and the largest is LOG_FROM times the smallest.
        """
        axis: Axis = getattr(self, which)
        if not axis.log:
            return None
        parts = [np.asarray(getattr(each, which)) for each in self.series]
        if which == "y":
            parts += [end for each in self.series for end in (each.low, each.high) if end is not None]
        values = np.concatenate([part[np.isfinite(part)] for part in parts])
        if len(values) == 0 or values.min() <= 0 or values.max() < LOG_FROM * values.min():
            return None
        first, last = math.floor(math.log10(values.min())), math.ceil(math.log10(values.max()))
        wide = values.max() / values.min()
        digits = (1, 1.5, 2, 3, 4, 5, 7) if wide < 20 else (1, 2, 5) if wide < 2e4 else (1,)
        return [float(f"{digit}e{decade}") for decade in range(first, last + 1) for digit in digits]


def file_name(*words: str) -> str:
    """Words in small letters, digits and hyphens: part of the name of a file.

    >>> file_name("TTFT", "azure_conv 8xH100, rate_rps=40")
    'ttft-azure_conv-8xh100-rate_rps-40'
    """
    return re.sub(r"[^a-z0-9_.]+", "-", " ".join(words).lower()).strip("-.")
