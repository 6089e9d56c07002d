# SPDX-License-Identifier: Apache-2.0
"""A request's body: read whole, within limits, and unpacked when it came compressed."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from typing import TYPE_CHECKING

import falcon

from ovms_mp.errors import DeadlineExceeded, MalformedPayload, RequestTooLarge
from ovms_mp.front.budget import unpacked_limit
from ovms_mp.front.inflate import GZIP_WINDOW, inflate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from typing import Any, Protocol

    from ovms_mp.child.specs import FrontLimits
    from ovms_mp.front.budget import BodyShare
    from ovms_mp.front.sinks import MessageSink

    class BodySource(Protocol):
        """A request of which nothing has been read but the head."""

        @property
        def content_length(self) -> int | None:
            """How long the client says that the body is."""

        def take_here(self) -> bytes | None:
            """All of the body, if nothing of it has to be waited for."""

        def get_header(self, name: str) -> str | None:
            """A header of the client's; None without it."""

        def pieces(self) -> AsyncIterator[bytes]:
            """The body as it arrives."""

        async def fill(self, sink: MessageSink) -> None:
            """Give a sink all of the body."""


_PLAIN = "identity"


async def read_body(
    source: BodySource, limits: FrontLimits, bound_bytes: int | None, share: BodyShare
) -> bytes | bytearray:
    """The whole body.

    Args:
        source: Nothing of it has been read yet.
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
    coding = _coding(source)
    limit_bytes = _limit(source, limits, bound_bytes)
    body: bytes | bytearray
    here = source.take_here()
    if here is not None:
        # PERF: nothing is waited for. A timeout costs 4 us and taking it piece by piece 2.
        body = here
        share.grow(len(body))
        if len(body) > limit_bytes:
            raise _too_large(f"more than {limit_bytes} bytes", limit_bytes, limits)
    else:
        async with _in_time(limits):
            body = await _received(source, limit_bytes, limits, share)
    if coding == _PLAIN:
        return body
    limit_bytes = unpacked_limit(len(body), bound_bytes, limits.max_unpacked_bytes, limits.max_message_bytes)
    plain = await unpack(body, coding, limit_bytes, share)
    share.shrink(len(body))
    return plain


async def receive_body(
    source: BodySource,
    length: int,
    limits: FrontLimits,
    bound_bytes: int | None,
    make_sink: Callable[[int], MessageSink | None],
) -> Any:  # Any: as of the sink.
    """What a sink makes of a body that comes as it is; of others None, and they are not read.

    Args:
        source: Nothing of it has been read yet.
        length: Of the body.
        limits: See :func:`read_body`.
        bound_bytes: See :func:`read_body`.
        make_sink: By the body's length; None if octets are as good.

    Raises:
        OvmsError: See :func:`read_body`; or the sink refuses what comes.
        falcon.HTTPUnsupportedMediaType: See :func:`read_body`.
    """
    if _coding(source) != _PLAIN:
        return None
    _limit(source, limits, bound_bytes)
    sink = make_sink(length)
    if sink is None:
        return None
    is_whole = False
    try:
        async with _in_time(limits):
            await source.fill(sink)
        is_whole = True
    finally:
        if not is_whole:
            sink.abort()
    return sink.finish()


def _coding(source: BodySource) -> str:
    """How the body is packed; :data:`_PLAIN` if it is not."""
    text = source.get_header("Content-Encoding")
    if text is None:
        return _PLAIN
    coding = text.strip().lower() or _PLAIN
    if coding not in (_PLAIN, "gzip", "x-gzip", "deflate"):
        # RFC 9110, 15.5.16: the header says which would be taken.
        raise falcon.HTTPUnsupportedMediaType(
            description=f"Content-Encoding {coding!r} is not supported; accepted: gzip, deflate, or none",
            headers={"Accept-Encoding": "gzip, deflate"},
        )
    return coding


def _limit(source: BodySource, limits: FrontLimits, bound_bytes: int | None) -> int:
    """How long the body may be, as it is sent.

    What is longer unpacked than packed is refused when it is; nobody's packing adds more than a few bytes.

    Raises:
        RequestTooLarge: It says that it is longer.
    """
    limit_bytes = (
        limits.max_message_bytes
        if bound_bytes is None
        else unpacked_limit(0, bound_bytes, limits.max_unpacked_bytes, limits.max_message_bytes)
    )
    length = source.content_length
    if length is not None and length > limit_bytes:
        raise _too_large(f"{length} bytes", limit_bytes, limits)
    return limit_bytes


@contextlib.asynccontextmanager
async def _in_time(limits: FrontLimits) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(limits.request_timeout_s):
            yield
    except TimeoutError:
        raise DeadlineExceeded(
            f"the request's body did not arrive within {limits.request_timeout_s:g} s (--request_timeout_s)"
        ) from None


async def _received(
    source: BodySource, limit_bytes: int, limits: FrontLimits, share: BodyShare
) -> bytes | bytearray:
    """The body as it was sent. PERF: one that comes in one piece is not copied."""
    body: bytes | bytearray = b""
    async for piece in source.pieces():
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
