# SPDX-License-Identifier: Apache-2.0
"""A request's body: read whole, within limits, and unpacked when it came compressed."""

from __future__ import annotations

import asyncio
import zlib
from typing import TYPE_CHECKING

import falcon

from ovms_mp.errors import DeadlineExceeded, MalformedPayload, RequestTooLarge
from ovms_mp.front.budget import unpacked_limit
from ovms_mp.front.inflate import GZIP_WINDOW, inflate
from ovms_mp.front.rest.early import CYCLE

if TYPE_CHECKING:
    from falcon.asgi import Request

    from ovms_mp.child.specs import FrontLimits
    from ovms_mp.front.budget import BodyShare


async def read_body(
    request: Request, limits: FrontLimits, bound_bytes: int | None, share: BodyShare
) -> bytes | bytearray:
    """The whole body.

    Args:
        request: Its body has not been read yet.
        limits: For its length and for the time of its arrival.
        bound_bytes: The longest text that the model's inputs can need; None without an end.
        share: Grows by what is held, and goes on holding it.

    Raises:
        RequestTooLarge: It is longer than the limit, as it is sent or unpacked.
        BodyMemoryFull: There is no memory for it at this moment.
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
    is_packed = coding != "identity"
    # What is longer unpacked than packed is refused when it is; nobody's packing adds more than a few bytes.
    limit_bytes = (
        limits.max_message_bytes
        if bound_bytes is None
        else unpacked_limit(0, bound_bytes, limits.max_unpacked_bytes, limits.max_message_bytes)
    )
    length = request.content_length
    if length is not None and length > limit_bytes:
        raise _too_large(f"{length} bytes", limit_bytes, limits)
    cycle = request.scope.pop(CYCLE, None)  # It refers to the scope: a circle, if it stayed there.
    body: bytes | bytearray
    if cycle is not None and not cycle.more_body:
        # PERF: nothing is waited for here. A timeout costs 4 us and taking it piece by piece 3, of the 90 of a small
        # request.
        body = await request.stream.read(limit_bytes + 1)
        share.grow(len(body))
        if len(body) > limit_bytes:
            raise _too_large(f"more than {limit_bytes} bytes", limit_bytes, limits)
    else:
        body = await _received_in_time(request, limit_bytes, limits, share)
    if not is_packed:
        return body
    limit_bytes = unpacked_limit(len(body), bound_bytes, limits.max_unpacked_bytes, limits.max_message_bytes)
    plain = await unpack_gzip(body, limit_bytes, share)
    share.shrink(len(body))
    return plain


async def _received_in_time(
    request: Request, limit_bytes: int, limits: FrontLimits, share: BodyShare
) -> bytes | bytearray:
    try:
        async with asyncio.timeout(limits.request_timeout_s):
            return await _received(request, limit_bytes, limits, share)
    except TimeoutError:
        raise DeadlineExceeded(
            f"the request's body did not arrive within {limits.request_timeout_s:g} s (--request_timeout_s)"
        ) from None


async def _received(
    request: Request, limit_bytes: int, limits: FrontLimits, share: BodyShare
) -> bytes | bytearray:
    """The body as it was sent. PERF: one that comes in one piece is not copied."""
    body: bytes | bytearray = b""
    async for piece in request.stream:
        share.grow(len(piece))
        if not body:
            body = piece
        elif isinstance(body, bytearray):
            body += piece
        else:
            body = bytearray(body)
            body += piece
        if len(body) > limit_bytes:
            raise _too_large(f"more than {limit_bytes} bytes", limit_bytes, limits)
    return body


async def unpack_gzip(packed: bytes | bytearray, limit_bytes: int, share: BodyShare) -> bytearray:
    """What was packed.

    Raises:
        RequestTooLarge: It would be longer than the limit.
        MalformedPayload: It is not gzip, or ends too early.
    """
    try:
        return await inflate(packed, GZIP_WINDOW, limit_bytes, share.grow)
    except zlib.error as error:
        raise MalformedPayload(f"the body is not what Content-Encoding gzip says: {error}") from None


def _too_large(length: str, limit_bytes: int, limits: FrontLimits) -> RequestTooLarge:
    if limit_bytes < limits.max_message_bytes:
        setting = "--max_unpacked_mb; automatic: what the model's inputs can need"
    else:
        setting = "--max_message_mb"
    return RequestTooLarge(f"body of {length} is longer than the limit of {limit_bytes} ({setting})")
