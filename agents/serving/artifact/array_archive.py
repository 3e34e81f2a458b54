"""Archives of float32 arrays (.npz), read without trust: nothing is allocated that is not due."""

import io
import zipfile
from collections.abc import Mapping

import numpy as np

from servegym.costmodels.errors import InputError

MAGIC = b"\x93NUMPY\x01\x00"

MEMBER_OVERHEAD = 512
"""Bytes of an archive that a member costs beside its array, at most: headers twice, and its name twice."""

Shapes = Mapping[str, tuple[int, ...]]


def write_arrays(arrays: Mapping[str, np.ndarray]) -> bytes:
    """An archive: float32, little endian, the same bytes for the same arrays."""
    archive = io.BytesIO()
    little = {name: np.ascontiguousarray(array, "<f4").reshape(array.shape) for name, array in arrays.items()}
    np.savez_compressed(archive, allow_pickle=False, **little)
    return archive.getvalue()


def read_arrays(content: bytes, due: Shapes, where: str) -> dict[str, np.ndarray]:
    """The arrays of an archive, which must be those `due` and no others: by name and shape, all float32.

    InputError, naming `where`, for anything else; what an array may hold is not looked at.
    """
    # What cannot be compressed grows by five bytes a block.
    data = sum(_size(shape) for shape in due.values())
    allowed = data + (data >> 8) + sum(MEMBER_OVERHEAD + 2 * len(name) for name in due)
    if len(content) > allowed:
        raise InputError(f"{where}: {len(content)} bytes; its {len(due)} arrays take {allowed} at most")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            if sorted(names) != sorted(f"{name}.npy" for name in due):
                odd = sorted(set(names) ^ {f"{name}.npy" for name in due}) or ["a name twice"]
                raise InputError(f"{where}: must hold {len(due)} arrays; missing or too many: {odd[0]!r:.80}")
            return {
                name: _read_array(archive, f"{name}.npy", shape, f"{where}: {name}")
                for name, shape in due.items()
            }
    except InputError:
        raise
    except Exception as error:  # zipfile and zlib have many ways to say that an archive is damaged
        raise InputError(f"{where}: not a readable archive of arrays: {_line(error)}") from error


def _read_array(archive: zipfile.ZipFile, member: str, shape: tuple[int, ...], where: str) -> np.ndarray:
    about, size = archive.getinfo(member), _size(shape)
    header = _header(shape)
    if about.file_size != len(header) + size:
        raise InputError(f"{where}: {about.file_size} bytes; must be {len(header) + size}, float32 {shape}")
    with archive.open(member) as file:
        found, data = file.read(len(header)), file.read(size + 1)
    if found != header or len(data) != size:
        raise InputError(f"{where}: must be float32, little endian, in C order, of shape {shape}")
    return np.frombuffer(data, "<f4").astype(np.float32).reshape(shape)


def _header(shape: tuple[int, ...]) -> bytes:
    """What an array of this shape begins with, the only header that is accepted: none is ever interpreted."""
    header = io.BytesIO()
    about = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, about)
    written = header.getvalue()
    assert written.startswith(MAGIC)
    return written


def _size(shape: tuple[int, ...]) -> int:
    size = 4
    for length in shape:
        size *= length
    return size


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
