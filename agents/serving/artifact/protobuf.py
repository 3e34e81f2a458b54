"""Protobuf messages without a schema: their fields, read in place and written.

Enough to look into a file before a runtime does, and to speak a protocol of few messages.
"""

from collections.abc import Iterator

VARINT, FIXED_64, BYTES, FIXED_32 = 0, 1, 2, 5

Field = tuple[int, int, int | memoryview]
"""Number, wire type, and content: a number for VARINT, else bytes."""


def fields(message: memoryview) -> Iterator[Field]:
    """All fields in order. ValueError where the message is cut short or of no wire type there is."""
    position, end = 0, len(message)
    while position < end:
        key, position = _varint(message, position)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, position = _varint(message, position)
            yield number, wire, value
            continue
        if wire == BYTES:
            size, position = _varint(message, position)
        elif wire in (FIXED_64, FIXED_32):
            size = 8 if wire == FIXED_64 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if size > end - position:
            raise ValueError("a field goes beyond its message")
        yield number, wire, message[position : position + size]
        position += size


def packed(content: memoryview) -> Iterator[int]:
    """The varints of a packed field. ValueError where the last is cut short."""
    position = 0
    while position < len(content):
        value, position = _varint(content, position)
        yield value


def signed(value: int) -> int:
    """A varint as int64."""
    return value - (1 << 64) if value >= 1 << 63 else value


def number(field: int, value: int) -> bytes:
    """A field that is a varint: a boolean, an enumeration, a size."""
    return _encoded(field << 3 | VARINT) + _encoded(value)


def text(field: int, value: bytes | str) -> bytes:
    """A field that is bytes or text."""
    raw = value.encode() if isinstance(value, str) else value
    return _encoded(field << 3 | BYTES) + _encoded(len(raw)) + raw


def message(field: int, *parts: bytes) -> bytes:
    """A field that is a message of these fields."""
    return text(field, b"".join(parts))


def _encoded(value: int) -> bytes:
    digits = bytearray()
    while value >= 0x80:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    if position < len(message) and message[position] < 0x80:  # most are short
        return message[position], position + 1
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise ValueError("a number is cut short")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, position
    raise ValueError("a number of more than 64 bits")
