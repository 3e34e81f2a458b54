"""A report as one HTML page that needs nothing else, and its figures as files."""

import base64
import gzip
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html import escape
from importlib import resources
from pathlib import Path

from plotly.offline import get_plotlyjs

from servegym.experiments.reporting.figure import Figure
from servegym.experiments.reporting.figure_csv import as_csv
from servegym.experiments.reporting.figure_plotly import as_plotly
from servegym.experiments.reporting.figure_svg import as_svg
from servegym.experiments.reporting.section import Choice, Commands, Part, Section
from servegym.experiments.reporting.table import Table

PAGE_FILE, FIGURES_FOLDER = "report.html", "figures"
FILES = (PAGE_FILE, FIGURES_FOLDER)
"""What a report consists of."""


def write_report(folder: Path, title: str, introduction: Sequence[str], sections: Sequence[Section]) -> int:
    """Writes FILES to `folder`; how many figures there are."""
    sections = _with_distinct_names(sections)
    figures = [figure for section in sections for figure in section.figures()]
    files: dict[str, str] = {}
    for figure in figures:
        files |= {f"{figure.name}.svg": as_svg(figure), f"{figure.name}.csv": as_csv(figure)}
    (folder / FIGURES_FOLDER).mkdir()
    for name, text in files.items():
        (folder / FIGURES_FOLDER / name).write_text(text, encoding="utf-8")
    parts = {
        "<!--title-->": escape(title),
        "<!--style-->": f"<style>\n{_text('page.css')}</style>",
        "<!--introduction-->": "\n".join(f"<p>{escape(each)}</p>" for each in introduction),
        "<!--contents-->": _contents(sections),
        "<!--sections-->": "\n".join(_section(number, each) for number, each in enumerate(sections, 1)),
        "<!--plotly-->": f"<script>{get_plotlyjs()}</script>" if figures else "",
        "<!--figures-->": _block("figures", {each.name: as_plotly(each) for each in figures}),
        "<!--files-->": _block("files", {name: _packed(text) for name, text in files.items()}),
        "<!--script-->": f"<script>\n{_text('page.js')}</script>",
    }
    html = _text("page.html")
    for place, content in parts.items():
        html = html.replace(place, content)
    (folder / PAGE_FILE).write_text(html, encoding="utf-8")
    return len(figures)


def _with_distinct_names(sections: Sequence[Section]) -> list[Section]:
    """The same sections; of figures that have one name the later ones are numbered."""
    count: Counter[str] = Counter()

    def renamed(figure: Figure) -> Figure:
        count[figure.name] += 1
        number = count[figure.name]
        return figure if number == 1 else replace(figure, name=f"{figure.name}-{number}")

    def distinct(part: Part) -> Part:
        if isinstance(part, Figure):
            return renamed(part)
        if isinstance(part, Choice):
            return replace(part, figures={value: renamed(each) for value, each in part.figures.items()})
        return part

    return [replace(each, parts=[distinct(part) for part in each.parts]) for each in sections]


def _contents(sections: Sequence[Section]) -> str:
    items = []
    for number, section in enumerate(sections, 1):
        inner = "".join(
            f'<li><a href="#{number}.{place}">{escape(_title(part))}</a></li>'
            for place, part in enumerate(section.parts, 1)
        )
        items.append(f'<li><a href="#{number}">{escape(section.title)}</a><ul>{inner}</ul></li>')
    return f"<ul>{''.join(items)}</ul>"


def _title(part: Part) -> str:
    """What stands in the contents; of a choice what all its figures are called, or that before the colon."""
    if isinstance(part, Choice):
        titles = {figure.title for figure in part.figures.values()}
        return titles.pop() if len(titles) == 1 else titles.pop().partition(":")[0]
    return part.title


def _section(number: int, section: Section) -> str:
    words = "\n".join(f"<p>{escape(each)}</p>" for each in section.words)
    parts = "\n".join(
        f'<div id="{number}.{place}">{"".join(_part(part))}</div>'
        for place, part in enumerate(section.parts, 1)
    )
    return f'<section>\n<h2 id="{number}">{escape(section.title)}</h2>\n{words}\n{parts}\n</section>'


def _part(part: Part) -> Iterator[str]:
    if isinstance(part, Table):
        yield part.as_html()
    elif isinstance(part, Figure):
        yield _figure(part)
    elif isinstance(part, Commands):
        lines = "\n".join(map(escape, part.lines))
        yield f"<h3>{escape(part.title)}</h3><pre>{lines}</pre>"
    else:
        yield from _choice(part)


def _choice(choice: Choice) -> Iterator[str]:
    if len(choice.figures) == 1:
        yield _figure(next(iter(choice.figures.values())))
        return
    options = "".join(
        f'<option value="{figure.name}">{escape(value)}</option>' for value, figure in choice.figures.items()
    )
    yield f'<div class="choice"><label>{escape(choice.label)} <select>{options}</select></label>'
    for number, figure in enumerate(choice.figures.values()):
        yield _figure(figure, hidden=number > 0)
    yield "</div>"


def _figure(figure: Figure, hidden: bool = False) -> str:
    links = ", ".join(
        f'<a href="{FIGURES_FOLDER}/{figure.name}.{ending}" data-file="{figure.name}.{ending}">{kind}</a>'
        for ending, kind in (("svg", "SVG"), ("csv", "CSV"))
    )
    return (
        f'<figure data-figure="{figure.name}"{" hidden" if hidden else ""}><h3>{escape(figure.title)}</h3>'
        f'<div class="canvas" role="img" aria-label="{escape(figure.title)}"></div>'
        f'<figcaption>{escape(figure.caption)} <span class="downloads">Download: {links}</span></figcaption>'
        "</figure>"
    )


def _block(name: str, content: object) -> str:
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>'


def _packed(text: str) -> str:
    """Compressed with gzip, in base64; the same every time."""
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()


def _text(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
