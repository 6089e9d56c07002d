# SPDX-License-Identifier: Apache-2.0
"""A request's body: read whole, within limits, and unpacked when it came compressed."""

from __future__ import annotations

import asyncio
import zlib
from typing import TYPE_CHECKING

import falcon

from ovms_mp.errors import DeadlineExceeded, MalformedPayload, RequestTooLarge
from ovms_mp.front.inflate import GZIP_WINDOW, inflate

if TYPE_CHECKING:
    from falcon.asgi import Request


async def read_body(request: Request, limit_bytes: int, timeout_s: float) -> bytes:
    """The whole body.

    Args:
        request: Its body has not been read yet.
        limit_bytes: For the body as it is sent, and for what it becomes unpacked.
        timeout_s: For its arrival.

    Raises:
        RequestTooLarge: It is longer than the limit.
        DeadlineExceeded: It did not arrive in time.
        MalformedPayload: It is not compressed as it says.
        falcon.HTTPUnsupportedMediaType: It is compressed in another way than with gzip.
    """
    coding = (request.get_header("Content-Encoding") or "identity").strip().lower()
    if coding not in ("identity", "gzip", "x-gzip"):
        # RFC 9110, 15.5.16: the header says which would be taken.
        raise falcon.HTTPUnsupportedMediaType(
            description=f"Content-Encoding {coding!r} is not supported; accepted: gzip, or none",
            headers={"Accept-Encoding": "gzip"},
        )
    length = request.content_length
    if length is not None and length > limit_bytes:
        raise _too_large(f"{length} bytes", limit_bytes)
    try:
        async with asyncio.timeout(timeout_s):
            # One byte more than allowed tells a chunked body that is too long from one that just fits.
            body = await request.stream.read(limit_bytes + 1)
    except TimeoutError:
        raise DeadlineExceeded(
            f"the request's body did not arrive within {timeout_s:g} s (--request_timeout_s)"
        ) from None
    if len(body) > limit_bytes:
        raise _too_large(f"more than {limit_bytes} bytes", limit_bytes)
    if coding == "identity":
        return body
    # In a thread, as a megabyte takes some milliseconds, in which zlib lets others run.
    return await asyncio.to_thread(unpack_gzip, body, limit_bytes)


def unpack_gzip(packed: bytes, limit_bytes: int) -> bytes:
    """What was packed.

    Raises:
        RequestTooLarge: It would be longer than the limit.
        MalformedPayload: It is not gzip, or ends too early.
    """
    try:
        plain = inflate(packed, GZIP_WINDOW, limit_bytes)
    except zlib.error as error:
        raise MalformedPayload(f"the body is not what Content-Encoding gzip says: {error}") from None
    if plain is None:
        raise _too_large(f"more than {limit_bytes} bytes once unpacked", limit_bytes)
    return plain


def _too_large(length: str, limit: int) -> RequestTooLarge:
    return RequestTooLarge(f"body of {length} is longer than the limit of {limit} (--max_message_mb)")
