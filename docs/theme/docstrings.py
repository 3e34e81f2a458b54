"""Makes Markdown of docstrings, which are written to be read in the source.

Doctests become highlighted blocks. A paragraph such as

    Reward: minus the increase of the cost,
        in seconds

with indented lines after its first one becomes a term and its definition; lines in there that are indented
further, or that hold columns, are kept as they stand. A paragraph of "argument: what it is" becomes a list.
"""

import re
import textwrap
from typing import Any

import griffe

TERM = re.compile(r"^([A-Z]\w+(?:, [^:]+)?): ?(.*)$")
"""Begins a definition: "Reward: ..." or 'Action, with `action="discrete"`: ...'."""

FIELD = re.compile(r"^([a-z_]\w*(?:, [a-z_]\w*)*): (.*)$")
"""Begins what is said of arguments or attributes: "needs: what the scenario must have for it"."""

COLUMNS = re.compile(r"\S {2,}\S")
"""Two words that are aligned with what stands above or below them."""

FIELDS = re.compile(FIELD.pattern, re.MULTILINE)


class ReadableDocstrings(griffe.Extension):
    """Rewrites the docstring of every object that is loaded."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrites one, in place."""
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(docstring: str) -> str:
    """The docstring as Markdown, paragraph by paragraph."""
    paragraphs = re.split(r"\n[ \t]*\n", textwrap.dedent(docstring).strip("\n"))
    return "\n\n".join(_paragraph(each) for each in paragraphs)


def _paragraph(text: str) -> str:
    lines = text.splitlines()
    if text.startswith(">>>"):
        return f"```pycon\n{text}\n```"
    if "```" in text or lines[0].startswith((" ", "|", "- ")):
        return text
    if FIELD.match(lines[0]):
        return FIELDS.sub(r"- **\1**: \2", text)
    if not any(line.startswith("    ") for line in lines):
        return text
    definitions: list[tuple[str, list[str]]] = []
    for line in lines:
        term = TERM.match(line)
        if term:
            definitions.append((term[1], [term[2]]))
        elif definitions:
            definitions[-1][1].append(line.removeprefix("    "))
        else:
            return f"```text\n{text}\n```"
    return "\n\n".join(_definition(term, lines) for term, lines in definitions)


def _definition(term: str, lines: list[str]) -> str:
    blocks: list[tuple[bool, list[str]]] = []  # whether kept as they stand, lines
    for line in lines:
        kept = bool(COLUMNS.search(line)) or (line.startswith(" ") and bool(blocks and blocks[-1][0]))
        if not blocks or blocks[-1][0] != kept:
            blocks.append((kept, []))
        blocks[-1][1].append(line if kept else line.strip())
    parts = ["```text\n" + "\n".join(part) + "\n```" if kept else "\n".join(part) for kept, part in blocks]
    body = textwrap.indent("\n\n".join(part for part in parts if part.strip()), "    ")
    return f"{term}\n:   {body.lstrip()}"
