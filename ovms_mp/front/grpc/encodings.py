# SPDX-License-Identifier: Apache-2.0
"""gRPC's message encodings, both ways, in threads: zlib lets the event loop run meanwhile.

Source: https://github.com/grpc/grpc/blob/master/doc/compression.md.
"""

from __future__ import annotations

import asyncio
import zlib

from ovms_mp.errors import OvmsError, RequestTooLarge
from ovms_mp.front.inflate import GZIP_WINDOW, inflate

WINDOW_BITS = {"gzip": GZIP_WINDOW, "deflate": zlib.MAX_WBITS}
"""zlib's names for the encodings that there are besides ``identity``."""
_FASTEST = 1


def too_large(nbytes: int, limit_bytes: int) -> RequestTooLarge:
    """The refusal of a message, in C-core's words, with the flag."""
    text = f"Received message larger than max ({nbytes} vs. {limit_bytes}); --max_message_mb sets it"
    return RequestTooLarge(text)


async def unpack(message: bytes, encoding: str, limit_bytes: int) -> bytes:
    """What a client packed.

    Raises:
        OvmsError: It is not packed as ``encoding`` says.
        RequestTooLarge: It would be longer than the limit.
    """
    try:
        return bytes(await inflate(message, WINDOW_BITS[encoding], limit_bytes, lambda _: None))
    except zlib.error as error:
        raise OvmsError(f"Decompression failed due to zlib error: {error}") from None


async def pack(message: bytes, encoding: str) -> bytes:
    """Pack an answer."""
    return await asyncio.to_thread(zlib.compress, message, _FASTEST, WINDOW_BITS[encoding])
