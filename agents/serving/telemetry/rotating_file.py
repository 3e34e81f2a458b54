"""A file that one writer appends to, whole pieces or nothing; when it is large enough it makes room."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

MOST_WRITERS = 1000
"""Files of one name that are written to at the same time."""


class RotatingFile:
    """`path`; once it has `max_bytes` it is renamed to `path.1`, that to `path.2`, ..., `kept` at most.

    One that somebody else writes to, in this process or another, is left to them: this one's `path` then has
    the number of its process before the suffix, and where that is taken too a number more. Only its owner may
    read it. OSError where it cannot be written.
    """

    def __init__(self, path: Path, max_bytes: int, kept: int) -> None:
        self.max_bytes, self.kept = max_bytes, kept
        self._descriptor = -1
        for self.path in _paths(path):
            with contextlib.suppress(BlockingIOError):
                self._open()
                return
        raise OSError(errno.EAGAIN, f"{MOST_WRITERS} others write to it")

    def begin(self) -> int:
        """Bytes that the file has, room made if they are too many: to be asked before each `write`."""
        if not self._is_there():
            self._open()
        if os.fstat(self._descriptor).st_size >= self.max_bytes:
            self._rotate()
        return os.fstat(self._descriptor).st_size

    def write(self, piece: bytes) -> None:
        """Appends a piece that ends a line, whole; OSError where there is no room for it."""
        size = os.fstat(self._descriptor).st_size
        if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
            piece = b"\n" + piece  # whoever wrote before was cut off
        try:
            if os.write(self._descriptor, piece) < len(piece):
                raise OSError(None, "no room for all of it")
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, size)
            raise

    def close(self) -> None:
        """Leaves the file to others."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> None:
        self.close()
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self.path, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def _is_there(self) -> bool:
        """Whether the path still leads to the open file: somebody may have moved or removed it."""
        try:
            there, mine = os.stat(self.path), os.fstat(self._descriptor)
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)

    def _rotate(self) -> None:
        for number in range(self.kept - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                os.replace(f"{self.path}.{number}", f"{self.path}.{number + 1}")
        os.replace(self.path, f"{self.path}.1")
        self._open()


def _paths(path: Path) -> Iterator[Path]:
    """The path and those to go to where it is taken: none that `path` could be renamed to."""
    yield path
    own = f"{path.stem}-{os.getpid()}"
    yield path.with_name(f"{own}{path.suffix}")
    for number in range(2, MOST_WRITERS):
        yield path.with_name(f"{own}-{number}{path.suffix}")
