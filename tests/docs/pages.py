"""Fenced blocks of Markdown, run as a reader would run them."""

import contextlib
import io
import re
from pathlib import Path
from typing import Any, NamedTuple

from servegym.experiments.cli import main
from tests.experiments.test_documented_commands import commands_of

ROOT = Path(__file__).parents[2]

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block: its language, and its text without the indentation of the fence."""

    language: str
    text: str


def blocks_of(markdown: str) -> list[Block]:
    """All fenced blocks, in order."""
    return [
        Block(language, re.sub(f"^{indent}", "", text, flags=re.MULTILINE))
        for indent, language, text in FENCE.findall(markdown)
    ]


def run_page(markdown: str, folder: Path) -> None:
    """Runs a page in the current folder: Python in one namespace, `servegym` commands, both in order.

    A block of `text` right after one of Python is what that prints. Each block of Python gets a file in
    `folder`, since compiled functions are cached beside their source.
    """
    namespace: dict[str, Any] = {"__name__": "<page>"}
    blocks = blocks_of(markdown)
    for number, (block, follower) in enumerate(zip(blocks, [*blocks[1:], None], strict=True)):
        if block.language == "python":
            printed = _run_python(block.text, folder / f"block_{number}.py", namespace)
            if follower is not None and follower.language == "text":
                assert printed.split() == follower.text.split(), (
                    f"the page shows\n{follower.text}\nnot\n{printed}"
                )
        for words in commands_of(block.text) if block.language == "bash" else []:
            assert main(words) == 0, " ".join(words)


def _run_python(text: str, file: Path, namespace: dict[str, Any]) -> str:
    file.write_text(text, encoding="utf-8")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(text, file, "exec"), namespace)
    return printed.getvalue()
