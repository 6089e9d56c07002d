# SPDX-License-Identifier: Apache-2.0
"""Messages in the plain form that protobuf libraries write: tags of one byte, lengths no longer than they need.

What a scanner for that form needs; anything else it leaves to a reader that knows every form.
Wire format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from ovms_mp.front.protobuf.records import LONGEST_SIZE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

ValueT = TypeVar("ValueT")

LONGEST_PLAIN_PART_BYTES = 192
"""Of a submessage that is read apart from the message around it. Too few to nest unknown groups as deep as protobuf's
limit of 100, the one thing that reads differently in a part than in the whole."""
_MOST_REMEMBERED = 4096
_SIZE_BITS = 7 * LONGEST_SIZE_BYTES


class NotPlain(Exception):
    """A scanner met something that it leaves to others."""


def field_number(message: type[Message], name: str) -> int:
    """The number of a message's field."""
    return message.DESCRIPTOR.fields_by_name[name].number


def one_byte_tag(number: int, kind: int) -> int:
    """The tag of a field; a protocol whose tags take two bytes has no such scanner."""
    tag = number << 3 | kind
    if tag > 0x7F:
        raise ValueError(f"the tag of field {number} takes two bytes")
    return tag


def long_size(body: bytes, at: int) -> tuple[int, int]:
    """Read a length of two to five bytes; returns it and the place behind it.

    Raises:
        NotPlain: It is longer.
        IndexError: The message ends before it does.
    """
    size = shift = 0
    while shift < _SIZE_BITS:
        byte = body[at]
        at += 1
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return size, at
    raise NotPlain


def varint(number: int) -> bytes:
    """A number that is not negative, as protobuf's variable-length integer."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


class Remembered(dict[bytes, ValueT]):
    """What parts of messages mean, by their bytes. Clients repeat themselves, so each is read once.

    Bounded, as clients may also never repeat themselves. PERF: a look-up is a dict's.
    """

    def __init__(self, read: Callable[[bytes], ValueT]) -> None:
        """Begin empty.

        Args:
            read: Makes the value; what it raises is not remembered.
        """
        super().__init__()
        self._read = read

    def __missing__(self, part: bytes) -> ValueT:
        """Read a part that is not known."""
        value = self._read(part)
        if len(self) >= _MOST_REMEMBERED:
            self.clear()
        self[part] = value
        return value
