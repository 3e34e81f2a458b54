"""Files of an artifact as bytes: of a bounded size, regular, and as long and with the digest as described."""

import hashlib
import os
import stat
from pathlib import Path
from typing import Any

from servegym.agents.serving.artifact.schema import DESCRIPTION_FILE, FILES, MOST_BYTES
from servegym.costmodels.errors import InputError


def read_file(path: Path) -> bytes:
    """Its bytes. InputError where it is missing, no regular file, a symbolic link, or too large."""
    try:
        # Neither waits for a pipe that nobody writes to, nor goes where a link leads.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise InputError(f"{path}: missing; an exported policy is {', '.join(FILES)}") from error
    except OSError as error:
        link = ": a symbolic link" if path.is_symlink() else f" ({error.strerror})"
        raise InputError(f"{path}: cannot be read{link}; must be a regular file") from error
    try:
        about, most = os.fstat(descriptor), MOST_BYTES[path.name]
        if not stat.S_ISREG(about.st_mode):
            raise InputError(f"{path}: must be a regular file")
        if about.st_size > most:
            raise InputError(f"{path}: {about.st_size} bytes; must be {most} at most")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(most)
    finally:
        os.close(descriptor)


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Length and SHA-256 of all files of an artifact but the description, which holds them."""
    contents = {name: read_file(folder / name) for name in FILES if name != DESCRIPTION_FILE}
    return {name: {"bytes": len(each), "sha256": sha256(each)} for name, each in contents.items()}


def read_described(folder: Path, name: str, description: dict[str, Any]) -> bytes:
    """A file that is what a checked description says of it. InputError where it is not."""
    content, due = read_file(folder / name), description["files"][name]
    if len(content) != due["bytes"]:
        raise InputError(
            f"{folder / name}: {len(content)} bytes; {DESCRIPTION_FILE} says {due['bytes']}: export again"
        )
    if sha256(content) != due["sha256"]:
        raise InputError(f"{folder / name}: sha256 differs from the one in {DESCRIPTION_FILE}: export again")
    return content


def sha256(content: bytes) -> str:
    """In hexadecimal."""
    return hashlib.sha256(content).hexdigest()
