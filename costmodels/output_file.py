"""Files of results that appear complete or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from servegym.costmodels.errors import InputError


@contextmanager
def output_file(path: Path) -> Iterator[BinaryIO]:
    """A temporary file to write into; it becomes `path` at the end, or goes after an error.

    InputError where it cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(0, "is a folder")
        handle, partial = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); must be a file to make") from error
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.chmod(partial, 0o644)  # temporary files are private
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


def write_text(path: Path, text: str) -> None:
    """A text file, as `output_file` makes it."""
    with output_file(path) as file:
        file.write(text.encode())
