"""What the page of a report is made of."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from servegym.experiments.reporting.figure import Figure
from servegym.experiments.reporting.table import Table


@dataclass(frozen=True)
class Choice:
    """Figures of which one is shown at a time, by the value chosen. label: what is chosen."""

    label: str
    figures: dict[str, Figure]


@dataclass(frozen=True)
class Commands:
    """Lines to type."""

    title: str
    lines: Sequence[str]


Part = Table | Figure | Choice | Commands


@dataclass(frozen=True)
class Section:
    """A chapter: paragraphs that say what it shows and how to read it, then its parts."""

    title: str
    words: Sequence[str]
    parts: Sequence[Part]

    def figures(self) -> Iterator[Figure]:
        """All its figures, shown at once or by choice."""
        for part in self.parts:
            if isinstance(part, Figure):
                yield part
            elif isinstance(part, Choice):
                yield from part.figures.values()
