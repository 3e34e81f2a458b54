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
    if not out.exists():
        return
    foreign = sorted({path.name for path in out.iterdir()} - set(files)) if out.is_dir() else [out.name]
    if foreign:
        raise InputError(
            f"out = {out}: exists and holds something else ({foreign[0]}); must be a folder to make or an "
            "earlier result to replace"
        )


@contextmanager
def output_folder(out: Path, files: Collection[str]) -> Iterator[Path]:
    """A temporary folder to write `files` into; it becomes `out` at the end, or goes after an error.

    InputError where `out` holds something else or cannot be made.
    """
    check_replaceable(out, files)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise InputError(
            f"out = {out}: cannot be made ({error.strerror}); must be a folder that may be written"
        ) from error
    try:
        yield partial
        partial.chmod(0o755)  # temporary folders are private
        if out.exists():
            shutil.rmtree(out)
        os.replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
