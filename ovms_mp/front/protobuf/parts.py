# SPDX-License-Identifier: Apache-2.0
"""Small parts of a long message, which are read in one piece: how long they may be and how many."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import DecodeError, Message

from ovms_mp.errors import MalformedPayload, RequestTooLarge

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeAlias

    from ovms_mp.front.tensors import GivenTensor

MessageT = TypeVar("MessageT", bound=Message)

LONGEST_PARSED_BYTES = 16 << 10
"""Of a request that the generated classes may read: they take some milliseconds and megabytes for it at worst."""
MOST_NAMES = 1024
"""Inputs and names of outputs, counted as they are sent. No model comes near it."""
LONGEST_PART_BYTES = 16 << 10
"""Of a name, or of a submessage that is left to the generated classes."""
LONGEST_SMALL_REQUEST_BYTES = 64 << 10
"""Of methods whose messages hold no tensors. The generated classes make a hundred times as much of some messages."""
FIELDS_A_STEP = 1024
"""Fields that a reader takes before it lets others have their turn."""

Check: TypeAlias = "Callable[[str, int, Mapping[str, GivenTensor]], None]"
"""Raises an OvmsError if no model takes tensors of these dtypes and shapes; they have no values yet."""


def refuse_too_many(count: int, what: str) -> None:
    """Hold a count against :data:`MOST_NAMES`.

    Raises:
        MalformedPayload: There are more.
    """
    if count > MOST_NAMES:
        raise MalformedPayload(f"the request has more than {MOST_NAMES} {what}")


def append_part(whole: bytearray, part: memoryview, what: str, longest: int = LONGEST_PART_BYTES) -> None:
    """Merge a submessage into one that came before: their bytes in a row mean that.

    Raises:
        MalformedPayload: They are too long together.
    """
    if len(whole) + len(part) > longest:
        raise MalformedPayload(f"{what} takes more than {longest} bytes ({len(whole) + len(part)} and on)")
    whole += part


def text_of(octets: memoryview) -> str:
    """A name.

    Raises:
        MalformedPayload: It is too long or no text.
    """
    if len(octets) > LONGEST_PART_BYTES:
        raise MalformedPayload(f"a name has {len(octets)} bytes; at most {LONGEST_PART_BYTES} are read")
    try:
        return bytes(octets).decode()
    except UnicodeDecodeError as error:
        raise MalformedPayload(f"a name is not UTF-8: {error.reason}") from None


def int32_of(number: int) -> int:
    """An enumeration's number as protobuf reads it."""
    low = number & 0xFFFFFFFF
    return low - (1 << 32) if low >> 31 else low


def parsed(kind: type[MessageT], octets: bytes | bytearray) -> MessageT:
    """A part as its generated class.

    Raises:
        MalformedPayload: It is none.
    """
    try:
        return kind.FromString(bytes(octets))
    except DecodeError as error:
        raise MalformedPayload(f"a part of the request is no {kind.DESCRIPTOR.name}: {error}") from None


def parsed_whole(kind: type[MessageT], body: bytes | bytearray) -> MessageT:
    """A message as its generated class.

    Raises:
        MalformedPayload: It is none.
    """
    try:
        return kind.FromString(bytes(body))
    except DecodeError as error:
        raise MalformedPayload(
            f"The {len(body)} bytes are not a {kind.DESCRIPTOR.full_name}: {error}"
        ) from error


def small_request(request: bytes | bytearray, kind: type[MessageT]) -> MessageT:
    """A message without tensors as its generated class.

    Raises:
        MalformedPayload: It is none.
        RequestTooLarge: It is longer than any such message has a reason to be.
    """
    if len(request) > LONGEST_SMALL_REQUEST_BYTES:
        raise RequestTooLarge(
            f"a {kind.DESCRIPTOR.name} of {len(request)} bytes; at most {LONGEST_SMALL_REQUEST_BYTES} are read"
        )
    try:
        return kind.FromString(bytes(request))
    except DecodeError as error:
        raise MalformedPayload(f"request is no {kind.DESCRIPTOR.name}: {error}") from None
