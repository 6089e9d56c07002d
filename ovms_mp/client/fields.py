# SPDX-License-Identifier: Apache-2.0
"""Protobuf's wire format, as far as the few messages of inference need it: written and read without protobuf.

So a process may have any other client's generated messages, whose names would clash with those of ours.
Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TypeAlias

from ovms_mp.client.errors import unreadable

View: TypeAlias = bytes | memoryview

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
_MASK = (1 << 64) - 1
_SIGN = 1 << 63
_LONGEST_VARINT = 10


def varint(number: int) -> bytes:
    """A number of 64 bits, negative ones in two's complement."""
    number &= _MASK
    if number < 0x80:
        return bytes((number,))
    octets = bytearray()
    while number >= 0x80:
        octets.append(number & 0x7F | 0x80)
        number >>= 7
    octets.append(number)
    return bytes(octets)


def tag(number: int, kind: int = LENGTH) -> bytes:
    """What a field begins with."""
    return varint(number << 3 | kind)


def octets_field(number: int, value: bytes) -> bytes:
    """A field of octets, or of a message."""
    return b"%b%b%b" % (tag(number), varint(len(value)), value)


def text_field(number: int, text: str) -> bytes:
    """A field of text; nothing for an empty one, which is the default."""
    return octets_field(number, text.encode()) if text else b""


def number_field(number: int, value: int) -> bytes:
    """A field of a whole number."""
    return tag(number, VARINT) + varint(value)


def double_field(number: int, value: float) -> bytes:
    """A field of a double."""
    return tag(number, FIXED64) + struct.pack("<d", value)


def packed(number: int, values: tuple[int, ...]) -> bytes:
    """A repeated field of whole numbers; nothing without any."""
    return octets_field(number, b"".join(map(varint, values))) if values else b""


def read_varint(octets: View, at: int) -> tuple[int, int]:
    """A number, not negative, and where the next octet is.

    Raises:
        Failed: The octets end within it.
    """
    result = shift = 0
    try:
        while True:
            octet = octets[at]
            at += 1
            result |= (octet & 0x7F) << shift
            if octet < 0x80:
                return result & _MASK, at
            shift += 7
            if shift >= 7 * _LONGEST_VARINT:
                raise unreadable("a number of more than 64 bits")
    except IndexError:
        raise unreadable("a message ends within a number") from None


def fields(message: View) -> Iterator[tuple[int, int, int, int]]:
    """A message's fields in their order: number, kind, and where its value begins and ends, or the number itself.

    A varint's value is the third entry.

    Raises:
        Failed: It is no message.
    """
    at, size = 0, len(message)
    while at < size:
        head, at = read_varint(message, at)
        kind = head & 7
        if kind == LENGTH:
            length, at = read_varint(message, at)
            end = at + length
        elif kind == VARINT:
            value, at = read_varint(message, at)
            yield head >> 3, kind, value, at
            continue
        elif kind in (FIXED64, FIXED32):
            end = at + (8 if kind == FIXED64 else 4)
        else:
            raise unreadable(f"a field of the kind {kind}")
        if end > size:
            raise unreadable("a message ends within a field")
        yield head >> 3, kind, at, end
        at = end


def signed(number: int) -> int:
    """A number of 64 bits as int64 reads it."""
    return number - (1 << 64) if number >= _SIGN else number


def numbers(message: View, kind: int, start: int, end: int) -> list[int]:
    """The values of one occurrence of a repeated whole number: several, or one in the unpacked form."""
    if kind == VARINT:
        return [start]
    values = []
    at = start
    while at < end:
        value, at = read_varint(message, at)
        values.append(value)
    if at != end:
        raise unreadable("a list ends within a number")
    return values


def text(message: View, start: int, end: int) -> str:
    """A field's text.

    Raises:
        Failed: It is no UTF-8.
    """
    try:
        return str(message[start:end], "utf-8")
    except UnicodeDecodeError:
        raise unreadable("a text that is no UTF-8") from None
