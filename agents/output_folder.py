"""Folders of results that appear complete or not at all."""

import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from servegym.costmodels.errors import InputError


def check_replaceable(out: Path, files: Collection[str]) -> None:
    """InputError unless `out` does not exist or holds nothing but `files`, an earlier result of the kind."""
    if out.exists() and not (out.is_dir() and {path.name for path in out.iterdir()} <= set(files)):
        raise InputError(
            f"out = {out}: exists and holds something else; must be a folder to make or an earlier result "
            f"to replace ({', '.join(files)})"
        )


@contextmanager
def output_folder(out: Path, files: Collection[str]) -> Iterator[Path]:
    """A temporary folder to write `files` into; it becomes `out` at the end, or goes after an error."""
    check_replaceable(out, files)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        yield partial
        partial.chmod(0o755)  # temporary folders are private
        if out.exists():
            shutil.rmtree(out)
        os.replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
