"""A table of a report: sorted by its headings, and where it is long filtered by words and by choices."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

DASH = "\N{EN DASH}"

FILTERED_FROM = 8
"""Rows from which on a table has a field to filter it by words."""

MOST_CHOICES = 30
"""Different values from which on a column is no use as a choice."""


@dataclass(frozen=True)
class Cell:
    """What stands in a cell, below it a detail, and what it is sorted by: the number, or else the text.

    style: better, worse, undecided, best, or nothing.
    """

    text: str
    detail: str = ""
    number: float | None = None
    style: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells under columns (heading, unit). choices: headings of columns to choose rows by."""

    title: str
    caption: str
    columns: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[Cell]]
    choices: Sequence[str] = ()

    def as_html(self) -> str:
        """For the page; page.js sorts and filters by its classes and attributes."""
        texts = [all(row[i].number is None for row in self.rows) for i in range(len(self.columns))]
        head = "".join(
            f'<th scope="col"{" class=text" if is_text else ""}>'
            f'<button type="button">{escape(heading)}</button>'
            f"<small>{escape(unit)}</small></th>"
            for (heading, unit), is_text in zip(self.columns, texts, strict=True)
        )
        rows = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in self.rows)
        return (
            f'<div class="table"><h3>{escape(self.title)}</h3><p>{escape(self.caption)}</p>'
            f"{self._filters()}\n"
            f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table></div>'
            "</div>"
        )

    def _filters(self) -> str:
        if len(self.rows) < FILTERED_FROM:
            return ""
        headings = [heading for heading, _ in self.columns]
        parts = [
            '<input type="search" placeholder="Filter rows" '
            f'aria-label="Filter the rows of {escape(self.title)}">'
        ]
        for heading in self.choices:
            column = headings.index(heading)
            values = sorted({row[column].text for row in self.rows}, key=_naturally)
            if 1 < len(values) <= MOST_CHOICES:
                options = "".join(f"<option>{escape(value)}</option>" for value in values)
                parts.append(
                    f'<label>{escape(heading)} <select data-column="{column}"><option value="">all</option>'
                    f"{options}</select></label>"
                )
        return f'<form class="filters">{"".join(parts)}<output></output></form>'


def number_cell(value: float, form: str = ",.4g", detail: str = "", style: str = "") -> Cell:
    """A number; a dash where there is none."""
    if not math.isfinite(value):
        return Cell(DASH, detail, style=style)
    return Cell(f"{value:{form}}".replace("-", "\N{MINUS SIGN}"), detail, value, style)


def interval_text(low: float, high: float, form: str = ",.4g") -> str:
    """An interval in words; empty where there is none."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"{low:{form}} to {high:{form}}".replace("-", "\N{MINUS SIGN}")


def _cell(cell: Cell) -> str:
    kind = " ".join(filter(None, ("text" if cell.number is None else "", cell.style)))
    attributes = f' class="{kind}"' if kind else ""
    if cell.number is not None:
        attributes += f' data-value="{cell.number!r}"'
    text = escape(cell.text)
    detail = f"<small>{escape(cell.detail)}</small>" if cell.detail else ""
    return f"<td{attributes}>{text}{detail}</td>"


def _naturally(text: str) -> tuple[bool, float, str]:
    """Numbers in their order, before words."""
    try:
        return False, float(text), text
    except ValueError:
        return True, 0.0, text
