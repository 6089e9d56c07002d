# SPDX-License-Identifier: Apache-2.0
"""Messages of calls that carry no tensors: read by their generated classes, and short."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import DecodeError, Message

from ovms_mp.errors import MalformedPayload, RequestTooLarge

if TYPE_CHECKING:
    from ovms_mp.front.methods import Octets

MessageT = TypeVar("MessageT", bound=Message)

LONGEST_SMALL_BYTES = 64 << 10
"""Of a request. The generated classes make a hundred times as much of some messages."""


def parse_small(request: Octets, kind: type[MessageT]) -> MessageT:
    """Read a request.

    Raises:
        RequestTooLarge: It is longer than any that makes sense.
        MalformedPayload: It is no such message.
    """
    if len(request) > LONGEST_SMALL_BYTES:
        raise RequestTooLarge(
            f"a {kind.DESCRIPTOR.name} of {len(request)} bytes; at most {LONGEST_SMALL_BYTES} are read"
        )
    try:
        return kind.FromString(bytes(request))
    except DecodeError as error:
        raise MalformedPayload(f"request is no {kind.DESCRIPTOR.name}: {error}") from None
