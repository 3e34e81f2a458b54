"""Protocol Buffers on the wire: as much of the format as a few messages need, read in place and bounded.

A message is a run of fields, each a key (its number and the type of its value) and a value. Nothing is copied
while fields are looked through, so that a prompt of megabytes costs what its headers cost.
"""

from collections.abc import Iterator

NOT_BYTES = -1
"""In place of an end, where a field is a number."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10


class WireError(ValueError):
    """Bytes that are not a message. Says where, never what they are."""


def fields(data: bytes, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The fields of the message in data[begin:end]; fixed-width numbers are passed over.

    (number, value, NOT_BYTES) of one that is a varint, (number, begin, end) of bytes, text or a message.
    WireError where the message breaks off or has a type of value that does not exist.
    """
    at = begin
    while at < end:
        key, at = _varint(data, at, end)
        kind = key & 7
        if kind == _BYTES:
            size, at = _varint(data, at, end)
            if size > end - at:
                raise WireError(f"a field at byte {at} reaches beyond its message")
            yield key >> 3, at, at + size
            at += size
        elif kind == _VARINT:
            value, at = _varint(data, at, end)
            yield key >> 3, value, NOT_BYTES
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
            if at > end:
                raise WireError(f"a number at byte {at} reaches beyond its message")
        else:
            raise WireError(f"a field at byte {at} has a value of type {kind}")


def number(field: int, value: int) -> bytes:
    """A field that is a varint (a boolean, an enumeration, a size)."""
    return _encoded(field << 3 | _VARINT) + _encoded(value)


def text(field: int, value: bytes | str) -> bytes:
    """A field that is bytes or text, or a message that has been written."""
    raw = value.encode() if isinstance(value, str) else value
    return _encoded(field << 3 | _BYTES) + _encoded(len(raw)) + raw


def message(field: int, *parts: bytes) -> bytes:
    """A field that is a message of these fields."""
    return text(field, b"".join(parts))


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A number of 64 bits at most, and where the next byte is."""
    if at < end and data[at] < 0x80:
        return data[at], at + 1
    value = 0
    for i in range(min(_MAX_VARINT_BYTES, end - at)):
        byte = data[at + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at + i + 1
    raise WireError(f"a number at byte {at} does not end")


def _encoded(value: int) -> bytes:
    digits = bytearray()
    while value >= 0x80:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)
