"""The findings about claims as a table on a terminal and as Markdown."""

import math
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table

from servegym.experiments.claims.claim import FACTOR

STYLES = {"reproduced": "green", "direction only": "yellow", "not reproduced": "red"}
MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"
HEADINGS: tuple[tuple[str, Literal["left", "right"]], ...] = (
    ("claim", "left"),
    ("published", "right"),
    ("ours", "right"),
    ("verdict", "left"),
)
TABLE_WIDTH = 150
"""Characters for the table where no terminal says how wide it is."""

HEAD = f"""# Published claims, measured here

Made by
```
servegym evaluate suite=claims
```
which writes this page as `claims.md`. Each figure of a paper
stands beside ours: the interquartile mean over the seeds with its 95 % interval, a single number where
there is one run. One rule judges all (`experiments/claims/claim.py`): a figure is
*reproduced* if its effect (of a ratio what it is above 1) is within a factor of {FACTOR:g} of what is
published, unless it says another; it has the *direction only* if the whole interval is on the published
side of no effect; else it is *not reproduced*. A plain number is reproduced within its own factor. A claim
is as good as its worst figure. GPUs, clocks and often traces are not those of the papers; remarks say what
was found where a claim does not reproduce. Their figures come from single variants run by hand: the command
does not print them.
"""


def show(answer: dict[str, Any]) -> None:
    """Prints the findings."""
    console = Console()
    if not console.is_terminal:
        console.width = TABLE_WIDTH
    table = Table(box=box.SIMPLE)
    for heading, justify in HEADINGS:
        table.add_column(heading, justify=justify)
    for name, paper in answer["papers"].items():
        for claim, found in paper["claims"].items():
            style = STYLES[found["verdict"]]
            table.add_row(f"[bold]{name}.{claim}[/]", "", "", f"[bold {style}]{found['verdict']}[/]")
            for figure in found["figures"]:
                verdict = f"[{STYLES[figure['verdict']]}]{figure['verdict']}[/]"
                table.add_row(f"  {figure['name']}", published(figure), ours(figure), verdict)
    console.print(table)
    console.print(f"Results: {answer['out']}", soft_wrap=True)


def as_markdown(answer: dict[str, Any]) -> str:
    """The page of all findings."""
    lines = [HEAD, "| claim | verdict |", "| --- | --- |"]
    for name, paper in answer["papers"].items():
        lines += [
            f"| [{name}.{claim}](#{name}{claim}) | {found['verdict']} |"
            for claim, found in paper["claims"].items()
        ]
    for name, paper in answer["papers"].items():
        lines += ["", f"## {paper['system']}", paper["source"]]
        for claim, found in paper["claims"].items():
            lines += _section(f"{name}.{claim}", found)
    return "\n".join(lines) + "\n"


def _section(title: str, found: dict[str, Any]) -> list[str]:
    return [
        "",
        f"### {title}",
        f"{found['statement']}",
        "",
        f"Measured on: {found['workload']}",
        "",
        "| figure | published | ours | verdict |",
        "| --- | ---: | ---: | --- |",
        *(
            f"| {figure['name']} | {published(figure)} | {ours(figure)} | {figure['verdict']} |"
            for figure in found["figures"]
        ),
        *(("", f"Remark: {found['remark']}") if found["remark"] else ()),
    ]


def published(figure: dict[str, Any]) -> str:
    """What the paper says, and the factor where it is not the usual one."""
    low, high = (_number(figure["kind"], figure[key]) for key in ("low", "high"))
    if figure["kind"] == "at_most":
        return f"at most {high}"
    text = low if figure["low"] == figure["high"] else f"{low} to {high}"
    return text if figure["factor"] == FACTOR else f"{text} (within {figure['factor']:g}x)"


def ours(figure: dict[str, Any]) -> str:
    """Ours with its interval."""
    value, low, high = (_number(figure["kind"], figure[key]) for key in ("ours", "ours_low", "ours_high"))
    return value if low == high else f"{value} ({low} to {high})"


def _number(kind: str, value: float) -> str:
    if not math.isfinite(value):
        return DASH
    if kind == "ratio":
        return f"{value:.2f}x" if value < 10 else f"{value:.1f}x"
    if kind == "value":
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    sign = "+" if kind == "change" else ""
    return f"{value:{sign}.1%}".replace("-", MINUS).replace("%", " %")
