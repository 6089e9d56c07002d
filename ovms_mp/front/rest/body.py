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
        falcon.HTTPUnsupportedMediaType: It is compressed in another way than with gzip or deflate.
    """
    coding = (request.get_header("Content-Encoding") or "identity").strip().lower()
    if coding not in ("identity", "gzip", "x-gzip", "deflate"):
        # RFC 9110, 15.5.16: the header says which would be taken.
        raise falcon.HTTPUnsupportedMediaType(
            description=f"Content-Encoding {coding!r} is not supported; accepted: gzip, deflate, or none",
            headers={"Accept-Encoding": "gzip, deflate"},
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
    plain = await unpack(body, coding, limit_bytes, share)
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


async def unpack(packed: bytes | bytearray, coding: str, limit_bytes: int, share: BodyShare) -> bytearray:
    """What was packed.

    Args:
        packed: All of it.
        coding: ``gzip`` or ``deflate``, as HTTP names them.
        limit_bytes: For what comes out.
        share: Grows by it.

    Raises:
        RequestTooLarge: It would be longer than the limit.
        MalformedPayload: It is not what it is said to be, or ends too early.
    """
    window = GZIP_WINDOW
    if coding == "deflate":
        window = zlib.MAX_WBITS if _is_zlib(packed) else -zlib.MAX_WBITS
    try:
        return await inflate(packed, window, limit_bytes, share.grow)
    except zlib.error as error:
        raise MalformedPayload(f"the body is not what Content-Encoding {coding} says: {error}") from None


def _is_zlib(packed: bytes | bytearray) -> bool:
    """Whether deflated octets begin with zlib's header, as they should (RFC 9110, 8.4.1.2; RFC 1950, 2.2).

    Some clients send them bare; then a header could be there by chance only where a block is stored and not packed.
    """
    return len(packed) >= 2 and packed[0] & 0x0F == zlib.DEFLATED and not (packed[0] << 8 | packed[1]) % 31


def _too_large(length: str, limit_bytes: int, limits: FrontLimits) -> RequestTooLarge:
    if limit_bytes < limits.max_message_bytes:
        setting = "--max_unpacked_mb; automatic: what the model's inputs can need"
    else:
        setting = "--max_message_mb"
    return RequestTooLarge(f"body of {length} is longer than the limit of {limit_bytes} ({setting})")
