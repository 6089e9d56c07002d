# SPDX-License-Identifier: Apache-2.0
"""gRPC's message encodings, both ways, in threads: zlib lets the event loop run meanwhile.

Source: https://github.com/grpc/grpc/blob/master/doc/compression.md.
"""

from __future__ import annotations

import asyncio
import zlib
from typing import TYPE_CHECKING

from ovms_mp.errors import MalformedPayload, RequestTooLarge
from ovms_mp.front.inflate import GZIP_WINDOW, inflate

if TYPE_CHECKING:
    from collections.abc import Callable

WINDOW_BITS = {"gzip": GZIP_WINDOW, "deflate": zlib.MAX_WBITS}
"""zlib's names for the encodings that there are besides ``identity``."""
_FASTEST = 1
_LONGEST_COPIED_BYTES = 256 << 10
_GZIP_START, _DEFLATE_START = b"\x1f\x8b", 0x78
_DEFLATE_CHECK = 31


def too_large(nbytes: int, limit_bytes: int) -> RequestTooLarge:
    """The refusal of a message, in C-core's words, with the flag."""
    text = f"Received message larger than max ({nbytes} vs. {limit_bytes}); --max_message_mb sets it"
    return RequestTooLarge(text)


async def unpack(
    message: bytes | bytearray, encoding: str, limit_bytes: int, grow: Callable[[int], None]
) -> bytes | bytearray:
    """What a client packed; bytes if it is not long, which others would have to wait for.

    Args:
        message: All of it.
        encoding: One of :data:`WINDOW_BITS`.
        limit_bytes: For what comes out.
        grow: Told of all memory that comes to be held; what it raises ends the work.

    Raises:
        MalformedPayload: It is not packed as ``encoding`` says.
        RequestTooLarge: It would be longer than the limit.
    """
    try:
        plain = await inflate(message, WINDOW_BITS[encoding], limit_bytes, grow)
    except zlib.error as error:
        raise MalformedPayload(f"the message is not packed as {encoding}: {error}") from None
    return plain if len(plain) > _LONGEST_COPIED_BYTES else bytes(plain)


def recognised_encoding(message: bytes | bytearray) -> str:
    """How a request is packed, where its call does not say so.

    A request that is not packed begins with the tag of a field: gzip's first byte is none, and zlib's would be that of
    a field 15, which no request of ours has, with a value that happens to be zlib's check.
    """
    if message.startswith(_GZIP_START):
        return "gzip"
    is_deflate = message[:1] == bytes([_DEFLATE_START]) and not int.from_bytes(message[:2]) % _DEFLATE_CHECK
    return "deflate" if is_deflate else "identity"


async def pack(message: bytes, encoding: str) -> bytes:
    """Pack an answer."""
    return await asyncio.to_thread(zlib.compress, message, _FASTEST, WINDOW_BITS[encoding])
