"""Fetch a file over HTTP so that what appears under its name is whole, and go on where a fetch broke off."""

import gzip
import hashlib
import http.client
import os
import re
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

from servegym.costmodels.errors import InputError
from servegym.envs.workloads.catalogue import DataFile

CHUNK_BYTES = 1 << 16

Progress = Callable[[int, int | None], None]
"""Told the bytes there are, and how many there will be where that is known."""


class _Interrupted(Exception):
    """The connection failed; what came so far is worth keeping."""


class _Corrupted(Exception):
    """What came is not the file; it has to come again from the start."""


def fetch(
    file: DataFile,
    folder: Path,
    *,
    progress: Progress,
    timeout_s: float = 30.0,
    attempts: int = 5,
    backoff_s: float = 1.0,
) -> Path:
    """Fetches one file into `folder`; returns its path.

    What comes is kept in a hidden `.partial` file beside the target, so a later attempt, or a later call,
    asks only for the rest (HTTP Range, RFC 9110 section 14); where the server sends everything all the
    same, the partial file starts anew. The file appears under its name only when size and SHA-256 are
    those of the catalogue. Where that knows none, the length has to be the one the server states, and
    every attempt starts anew.
    Between attempts: `backoff_s`, doubled each time; `timeout_s` bounds every wait for the server.
    Raises `InputError` when the attempts are used up, the server refuses or the folder cannot be written.
    """
    target = folder / file.path
    partial = target.with_name(f".{target.name}.{(file.sha256 or 'unknown')[:12]}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        reason = ""
        for attempt in range(attempts):
            if attempt:
                time.sleep(backoff_s * 2 ** (attempt - 1))
            try:
                _receive(file, partial, timeout_s, progress)
                _install(file, partial, target)
                return target
            except _Interrupted as error:
                reason = str(error)
            except _Corrupted as error:
                reason = str(error)
                partial.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"{target}: cannot be written ({error.strerror}), allowed: a folder that may be written"
        ) from error
    raise InputError(f"{file.url}: {reason}, after {attempts} attempts")


def check(file: DataFile, path: Path) -> str | None:
    """What is wrong with the file at `path`, in a few words, or None. Reads all of it."""
    digest, size = hashlib.sha256(), 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as content:
            while chunk := content.read(CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
    except (OSError, EOFError, zlib.error) as error:
        return f"cannot be read ({error})"
    return _mismatch(file, size, digest.hexdigest())


def _mismatch(file: DataFile, size: int, sha256: str) -> str | None:
    if file.size not in (None, size):
        return f"{size} bytes, allowed: {file.size}"
    if file.sha256 not in (None, sha256):
        return f"SHA-256 is {sha256[:12]}..., allowed: {str(file.sha256)[:12]}..."
    return None


def _receive(file: DataFile, partial: Path, timeout_s: float, progress: Progress) -> None:
    """Brings `partial` to its full length, or raises."""
    have = partial.stat().st_size if file.sha256 is not None and partial.exists() else 0
    if file.size is not None and have == file.size:
        return
    with _open(file.url, have, timeout_s) as response:
        start = _start_of(response, have)
        length = response.headers.get("Content-Length", "")
        total = file.size
        if total is None and length.isdecimal():
            total = start + int(length)
        if total is None:
            raise InputError(f"{file.url}: neither its size nor its checksum is known, allowed: one of them")
        with partial.open("r+b" if start else "wb") as out:
            out.seek(start)
            _copy(response, out, start, total, progress)


def _open(url: str, have: int, timeout_s: float) -> http.client.HTTPResponse:
    """The server's answer, from byte `have` on if it heeds that."""
    # Compressed transfers would make ranges and lengths those of something else.
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # the range begins beyond the end
            raise _Corrupted(f"the server has no more than {have} bytes") from None
        if error.code < 500 and error.code not in (408, 429):
            raise InputError(
                f"{url}: the server answers {error.code} {error.reason}, allowed: 200 or 206"
            ) from None
        raise _Interrupted(f"the server answers {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        raise _Interrupted(f"no answer ({getattr(error, 'reason', error)})") from None
    return response


def _start_of(response: http.client.HTTPResponse, have: int) -> int:
    """Where in the file the answer begins: `have` if the server heeds the range, else 0."""
    if response.status != 206:
        return 0
    stated = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if stated is None or int(stated[1]) != have:
        raise _Corrupted(f"the server sends another range than the one from byte {have}")
    return have


def _copy(
    response: http.client.HTTPResponse, out: IO[bytes], start: int, total: int, progress: Progress
) -> None:
    have = start
    while True:
        try:
            chunk = response.read1(CHUNK_BYTES)  # whatever has come: read() would lose it to a timeout
        except (OSError, http.client.HTTPException) as error:
            raise _Interrupted(f"the connection failed after {have} of {total} bytes ({error})") from None
        if not chunk:
            break
        have += len(chunk)
        if have > total:
            raise _Corrupted(f"more than the expected {total} bytes came")
        out.write(chunk)
        progress(have, total)
    if have < total:
        raise _Interrupted(f"the connection closed after {have} of {total} bytes")


def _install(file: DataFile, partial: Path, target: Path) -> None:
    """Checks `partial` while copying it into a temporary file, which then takes the name of the target."""
    pack = target.suffix == ".gz" and not file.url.endswith(".gz")
    digest, size = hashlib.sha256(), 0
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as raw, partial.open("rb") as content:
            out: IO[bytes] = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if pack else raw  # type: ignore[assignment]
            while chunk := content.read(CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
                out.write(chunk)
            if pack:
                out.close()
            raw.flush()
            os.fsync(raw.fileno())
        if wrong := _mismatch(file, size, digest.hexdigest()):
            raise _Corrupted(wrong)
        Path(temporary).chmod(0o644)  # temporary files are private
        os.replace(temporary, target)
    finally:
        Path(temporary).unlink(missing_ok=True)
    partial.unlink()
