"""An explanation as a page of Markdown."""

from pathlib import Path
from typing import Any

from servegym.agents.serving.artifact.card import table

LOOKS_AT = (
    "A column changes places among decisions: how many choices change then, and how much is lost of the lead "
    "that the score of the choice has over the next best. Columns that say the same stand in for each other. "
    "Gradient: of that lead by the column, times its standard deviation."
)
"""Of the first table."""

AGREES = (
    "Of its decisions, of a scheduler its choices among those who can be admitted: at how many a rule would "
    "have chosen the same, or one that looks just like it; by chance: one drawn among those possible."
)
"""Of the second."""


def write_page(answer: dict[str, Any], picture: str, path: Path) -> None:
    """What `servegym explain` has found, in words and tables; picture: the name of its file."""
    varying = [_sensitivity_row(each) for each in answer["sensitivities"] if each["varies"]]
    constant = [_name(each) for each in answer["sensitivities"] if not each["varies"]]
    agreed = [_agreement_row(each) for each in answer["agreements"]]
    lines = [
        f"# {answer['policy']} on {answer['scenario']}",
        "",
        f"{answer['decisions']:,} decisions on the test workload of seed {answer['seed']} "
        f"({answer['workload_source']}).",
        "",
        "## What it looks at",
        LOOKS_AT,
        "",
        *table([["feature", "unit", "choices changed", "lead lost", "gradient"], *varying]),
        "",
    ]
    if constant:
        lines += [f"Always the same here, so nothing is known of them: {', '.join(constant)}.", ""]
    lines += ["## Whom it agrees with", AGREES, ""]
    lines += table([["rule", "same choice", "by chance", "above chance"], *agreed])
    lines += ["", *(f"- {router} was not asked: {why}" for router, why in answer["left_out"].items())]
    lines += ["", "## A busy minute", f"![What was decided in a busy minute]({picture})"]
    path.write_text("\n".join(lines) + "\n")


def _sensitivity_row(each: dict[str, Any]) -> list[str]:
    gradient = "" if each["gradient"] is None else f"{each['gradient']:.3g}"
    return [_name(each), each["unit"], f"{each['changed']:.1%}", f"{each['margin_lost']:.0%}", gradient]


def _agreement_row(each: dict[str, Any]) -> list[str]:
    shares = (each[key] for key in ("share", "by_chance", "above_chance"))
    return [each["rule"], *(f"{share:.1%}" for share in shares)]


def _name(each: dict[str, Any]) -> str:
    return f"{each['input']}.{each['feature']}"
