# SPDX-License-Identifier: Apache-2.0
"""Requests with tensors go from the connection to their endpoint, past the web framework.

What every other request is asked by falcon and ASGI takes half of the time of a small inference. Gate, limits and
failures are the same, see :mod:`~ovms_mp.front.rest.answering`.
"""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

import falcon
import httptools

from ovms_mp.defects import report
from ovms_mp.front.gathered import reply_nbytes
from ovms_mp.front.rest import heads
from ovms_mp.front.rest.early import CERTIFICATE_NAME
from ovms_mp.front.rest.reply import Heads, Reply
from ovms_mp.front.rest.request import IncomingRequest
from ovms_mp.front.sinks import fill, wanted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from typing import Any

    from ovms_mp.child.specs import FrontLimits, RestSpec
    from ovms_mp.front.budget import BodyBudget, BodyShare
    from ovms_mp.front.endpoints import Endpoint, Route
    from ovms_mp.front.rest.answering import Answering
    from ovms_mp.front.rest.exchange import Line
    from ovms_mp.front.rest.origins import Origins
    from ovms_mp.front.rest.reader import Head
    from ovms_mp.front.sinks import MessageSink


DIRECT = "direct"
"""In the application's state: what answers requests with tensors."""
_MOST_KEPT = 64
"""URLs that are known for now; clients ask for the same few."""
_UNASKED_BYTES, _ASKED_BYTES = 16 << 10, 1 << 20
"""Of a body that is kept until it is asked for, and until who has asked for it has its turn."""
_GO_AHEAD = b"HTTP/1.1 100 Continue\r\n\r\n"


class Called(NamedTuple):
    """What a URL means.

    Attributes:
        endpoint: Answers.
        path: Percent-decoded.
        raw_path: As sent, without the query and what all paths begin with.
    """

    endpoint: Endpoint
    path: str
    raw_path: bytes


class Direct:
    """The requests that go this way; one for each front."""

    def __init__(
        self,
        routes: Sequence[Route],
        spec: RestSpec,
        answering: Answering,
        origins: Origins,
        bodies: BodyBudget,
    ) -> None:
        """Prepare.

        Args:
            routes: Those with something variable in their paths may have endpoints that carry tensors.
            spec: The front's specification.
            answering: Has requests answered.
            origins: Rules for web pages.
            bodies: Memory for all bodies.
        """
        self._prefix = spec.prefix.encode()
        self._limits = spec.limits
        self._begins: list[tuple[bytes, Route]] = [
            (self._prefix + route.template.partition("{")[0].encode(), route)
            for route in routes
            if "{" in route.template
        ]
        self._origins = origins if origins.has_any else None
        self._bodies = bodies
        self.answering = answering
        self.heads = Heads()
        self.find = lru_cache(_MOST_KEPT)(self._find)
        """What a POST to a URL means; None where the application knows."""

    def _find(self, url: bytes) -> Called | None:
        try:
            raw_path = httptools.parse_url(url).path
            path = raw_path.decode("ascii")
        except (httptools.HttpParserError, AttributeError, UnicodeError):
            return None  # The application's way says what is wrong.
        for begin, route in self._begins:
            if raw_path.startswith(begin):
                rest = raw_path[len(self._prefix) :]
                endpoint = route.find("POST", rest)
                if endpoint is not None and endpoint.carries_tensors:
                    return Called(endpoint, unquote(path), rest)
        return None

    def exchange(self, head: Head, line: Line, *, keep_alive: bool) -> DirectExchange | None:
        """A request whose head is here; None where it does not go this way."""
        called = self.find(head.url) if head.method == b"POST" else None
        return None if called is None else DirectExchange(self, called, head, line, keep_alive=keep_alive)

    def room(self) -> tuple[FrontLimits, BodyShare]:
        """Limits of a request, and its share of the memory for bodies."""
        return self._limits, self._bodies.share()

    def finish(self, reply: Reply, incoming: DirectExchange) -> None:
        """What every answer gets."""
        if self._origins is not None:
            self._origins.set_headers(incoming, reply)


class DirectExchange(IncomingRequest):
    """One request, and an :class:`~ovms_mp.front.rest.exchange.Exchange`."""

    __slots__ = (
        "_by_name",
        "_called",
        "_content_length",
        "_direct",
        "_expects",
        "_failure",
        "_fields",
        "_go_ahead_due",
        "_held_bytes",
        "_is_gone",
        "_line",
        "_pieces",
        "_sink",
        "_waiter",
        "keep_alive",
        "more_body",
        "response_complete",
        "response_started",
    )

    def __init__(
        self,
        direct: Direct,
        called: Called,
        head: Head,
        line: Line,
        *,
        keep_alive: bool,
    ) -> None:
        """Begin.

        Args:
            direct: What all of them share.
            called: What the target means.
            head: The request's.
            line: The connection.
            keep_alive: Whether it goes on behind the answer.
        """
        super().__init__(*direct.room())
        self._direct = direct
        self._called = called
        self._fields = head.fields
        self._by_name: dict[bytes, bytes] | None = None
        self._content_length = head.content_length
        self._line = line
        self._expects = self._go_ahead_due = head.expects_go_ahead
        self.keep_alive = keep_alive
        self.more_body = True
        self.response_started = self.response_complete = self._is_gone = False
        self._pieces: list[bytes] = []
        self._held_bytes = 0
        """Of pieces."""
        self._waiter: asyncio.Future[None] | None = None
        self._sink: MessageSink | None = None
        self._failure: Exception | None = None

    # What the endpoint asks for.

    @property
    def verb(self) -> str:
        """See :class:`IncomingRequest`."""
        return "POST"

    @property
    def path(self) -> str:
        """See :class:`IncomingRequest`."""
        return self._called.path

    @property
    def raw_path(self) -> bytes:
        """See :class:`IncomingRequest`."""
        return self._called.raw_path

    @property
    def scheme(self) -> str:
        """See :class:`IncomingRequest`."""
        return self._line.scheme

    @property
    def fields(self) -> Sequence[tuple[bytes, bytes]]:
        """See :class:`IncomingRequest`."""
        return self._fields

    @property
    def addresses(self) -> tuple[Any, Any]:  # Any: as ASGI has them.
        """See :class:`IncomingRequest`."""
        return self._line.server, self._line.client

    @property
    def certificate_name(self) -> str:
        """See :class:`~ovms_mp.front.call_context.CallOrigin`."""
        return str(self._line.app_state.get(CERTIFICATE_NAME, ""))

    @property
    def expects_go_ahead(self) -> bool:
        """See :class:`IncomingRequest`."""
        return self._expects

    @property
    def content_length(self) -> int | None:
        """See :class:`IncomingRequest`."""
        return self._content_length

    def take_here(self) -> bytes | None:
        """See :class:`IncomingRequest`."""
        if self.more_body:
            return None
        self._go_ahead()
        return self._take_pieces()

    def _take_pieces(self) -> bytes:
        pieces, self._pieces, self._held_bytes = self._pieces, [], 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def get_header(self, name: str) -> str | None:
        """See :class:`IncomingRequest`. PERF: 0.15 us, as several are asked for of each request."""
        by_name = self._by_name
        if by_name is None:
            by_name = self._by_name = heads.by_name(self._fields)
        found = by_name.get(heads.field_name(name))
        return None if found is None else found.decode("latin-1")

    async def pieces(self) -> AsyncIterator[bytes]:
        """See :class:`IncomingRequest`."""
        self._go_ahead()
        while True:
            if self._pieces:
                yield self._take_pieces()
            elif not self.more_body:
                return
            else:
                await self._wait()

    async def fill(self, sink: MessageSink) -> None:
        """See :class:`IncomingRequest`; what comes from now on is not copied where the sink has a place for it."""
        self._go_ahead()
        if self._pieces:
            self.share.grow(fill(sink, memoryview(self._take_pieces())))
        self._sink = sink
        try:
            while self.more_body:
                await self._wait()
        finally:
            self._sink = None

    def _go_ahead(self) -> None:
        """Tell the client that its body is wanted, if it waits for that."""
        if self._go_ahead_due:
            self._go_ahead_due = False
            if not self._line.transport.is_closing():
                self._line.transport.write(_GO_AHEAD)

    async def _wait(self) -> None:
        self._line.flow.resume_reading()
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            try:
                raise failure
            finally:
                del failure  # It refers to this frame.

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # What the connection tells.

    def begin(self, loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
        """See :class:`~ovms_mp.front.rest.exchange.Exchange`."""
        return loop.create_task(self._run())

    def take(self, piece: bytes | memoryview) -> None:
        """See :class:`~ovms_mp.front.rest.exchange.Exchange`."""
        if self.response_complete or self._failure is not None:
            return
        if self._sink is not None:
            self._give(lambda sink: self.share.grow(fill(sink, memoryview(piece))))
            return
        self._pieces.append(bytes(piece))
        self._held_bytes += len(piece)
        self._wake()
        if self._held_bytes > (_UNASKED_BYTES if self._waiter is None else _ASKED_BYTES):
            self._line.flow.pause_reading()

    def wanted(self) -> memoryview | None:
        """See :class:`~ovms_mp.front.rest.exchange.Exchange`."""
        return wanted(self._sink) if self._failure is None else None

    def advance(self, nbytes: int) -> None:
        """See :class:`~ovms_mp.front.rest.exchange.Exchange`."""
        self._give(lambda sink: sink.advance(nbytes))

    def _give(self, step: Callable[[MessageSink], None]) -> None:
        """Give the sink something; what it raises is the request's failure."""
        if self._sink is None:
            return
        try:
            step(self._sink)
        except Exception as error:  # A sink is the protocol's code.
            self._failure = error
            self._wake()

    def end_body(self) -> None:
        """See :class:`~ovms_mp.front.rest.exchange.Exchange`."""
        self.more_body = False
        self._wake()

    def disconnect(self) -> None:
        """See :class:`~ovms_mp.front.rest.exchange.Exchange`."""
        self._is_gone = True

    # The answer.

    async def _run(self) -> None:
        reply, line = Reply(), self._line
        try:
            await self._direct.answering.answer(self._called.endpoint, self, reply, falcon.HTTPNotFound)
            self._direct.finish(reply, self)
            if line.flow.write_paused and not self._is_gone:
                if not line.has_memory(reply_nbytes(reply.data or b"")):
                    return
                reply.settle()
                await line.flow.drain()
            self._send(reply)
        except asyncio.CancelledError:
            if not self._is_gone:
                line.transport.close()
                raise
        except Exception as error:
            report("rest.answer", error, f"the answer to {self.path}")
            line.transport.close()
        finally:
            reply.drop()

    def _send(self, reply: Reply) -> None:
        """Hand the answer to the transport."""
        line = self._line
        # SAFETY: behind an abort the descriptor is another's, until the loop says that the connection is lost.
        if self._is_gone or line.transport.is_closing():
            return
        self.response_started = True
        self._go_ahead_due = False
        if reply.is_last:
            self.keep_alive = False
        body = reply.data or b""
        head = self._direct.heads.head(
            reply, reply_nbytes(body), line.server_state, is_last=not self.keep_alive
        )
        reply.data = None
        line.transport.write_answer(head, body)
        if self.note_sent is not None:
            self.note_sent()
        self.response_complete = True
        if not self.keep_alive:
            line.transport.close()
        line.on_response_complete()
