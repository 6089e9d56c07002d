# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 for one connection, parsed by httptools: which request is whose turn, and bounds for all that a client does.

Requests with tensors are answered directly (:mod:`~ovms_mp.front.rest.direct`), others by the application, by way of
ASGI. Long bodies go past the parser, to where they belong. Of all of them it holds that

- few are parsed before those ahead of them are answered; the rest is not read;
- a client that sends a request's head or body, or reads its answer, without progress is cut off;
- a client that closes its connection cancels what it asked for;
- an answer that comes before the request's end is not lost: the connection goes on reading for a while;
- a client that only stops sending gets the answers to all that it has asked for in whole.

Refusals have one JSON document and no traceback, and are counted rather than logged one by one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from uvicorn.protocols.utils import is_ssl

from ovms_mp.errors import OvmsError
from ovms_mp.front.rest import bounds, heads
from ovms_mp.front.rest.direct import DIRECT
from ovms_mp.front.rest.exchange import AsgiExchange
from ovms_mp.front.rest.heads import Refused
from ovms_mp.front.rest.patience import HEAD_LATE, IDLE, Patience
from ovms_mp.front.rest.reader import RequestReader
from ovms_mp.front.rest.transport import GatedFlow, LingeringTransport, addresses

if TYPE_CHECKING:
    from typing import Any

    from uvicorn.config import Config
    from uvicorn.server import ServerState

    from ovms_mp.front.rest.connections import Connections
    from ovms_mp.front.rest.direct import Direct
    from ovms_mp.front.rest.exchange import Exchange
    from ovms_mp.front.rest.reader import Head


class RestProtocol(asyncio.BufferedProtocol):
    """One connection, as uvicorn's server wants it."""

    transport: LingeringTransport
    flow: GatedFlow

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """Prepare; see :class:`uvicorn.protocols.http.httptools_impl.HttpToolsProtocol`."""
        if not config.loaded:
            config.load()
        self.config = config
        self.loop = _loop or asyncio.get_running_loop()
        self.server_state = server_state
        self.app_state = app_state
        self.server: Any = None
        self.client: Any = None
        self.scheme = "http"
        self._reader = RequestReader(self)
        self._group: Connections = app_state["connections"]
        self._direct: Direct | None = app_state.get(DIRECT)
        self._unread = self._group.bodies.share()
        self._exchange: Exchange | None = None
        """The last one of which the head has been received."""
        self._pipeline: deque[Exchange] = deque()
        """Those behind the one that is being answered."""
        self._task: asyncio.Task[None] | None = None
        self._running: Exchange | None = None
        self._unparsed_left = 0
        """Octets of a body that go past the parser."""
        self._is_filling = False
        """Whether the last read was into the memory of an exchange."""
        self._had_long_body = False
        self._refusal = b""
        """The last answer, behind those to the requests before it."""
        self.is_lingering = False
        self._is_half_closed = False
        self._is_ending = False
        """Whether the next answer is the last one."""
        self._is_fresh = False
        self._is_between = True
        """Whether no head has been received since the last answer."""
        self._patience = Patience(self._group.client_timeout_s)

    # The transport's side.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as stream servers
        """A client has connected."""
        self.server_state.connections.add(self)  # type: ignore[arg-type]  # it is asked for ``shutdown`` only
        self.transport = LingeringTransport(transport, self)
        self.flow = GatedFlow(transport)
        self.server, self.client = addresses(transport)
        self.scheme = "https" if is_ssl(transport) else "http"
        self._group.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed, by whomever; nobody waits for an answer any more."""
        self._group.remove(self)
        self._unread.release()
        self.is_lingering = False
        self.flow.take()
        self._pipeline.clear()
        self._cancel()
        self.server_state.connections.discard(self)
        if self._exchange is not None and not self._exchange.response_complete:
            self._exchange.disconnect()
        self.flow.resume_writing()
        if exc is None:
            self.transport.close()

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Memory of the body that is being received if much of that is due, else the scratch memory of all."""
        self._is_filling = False
        if self._unparsed_left and not self.flow.unfed and self._exchange is not None:
            place = self._exchange.wanted()
            if place is not None and len(place) >= bounds.FILLED_BYTES:
                self._is_filling = True
                return place[: self._unparsed_left]
        scratch = self._group.scratch
        # Behind a long body there may be another one: its start only, the rest goes to its place.
        return scratch[: bounds.START_BYTES] if self._had_long_body else scratch

    def buffer_updated(self, nbytes: int) -> None:
        """Octets are there."""
        if self._is_filling and self._exchange is not None:
            self._is_fresh = True
            self._exchange.advance(nbytes)
            self._passed(nbytes)
        else:
            self.data_received(self._group.scratch[:nbytes])

    def data_received(self, data: bytes | memoryview) -> None:
        """Octets of requests; a view is valid during the call."""
        self._is_fresh = True
        if self.flow.unfed:
            self.flow.unfed += data  # Reading has been paused, so this comes once.
        elif not self._refusal and not self.is_lingering:
            self._feed(data)

    def eof_received(self) -> bool:
        """The client sends no more; whether there is something to answer all the same."""
        exchange = self._exchange
        if self.is_lingering or exchange is None or exchange.response_complete:
            return False
        if self.scheme == "https":
            return False  # Loops close TLS in both directions, whatever is said here.
        if exchange.more_body:
            if self._running is exchange:
                return False
            self._drop_unfinished()
        self._is_half_closed = True
        if self._running is not None and not self._running.response_started:
            self.transport.begin_answer()
        self.loop.call_later(bounds.FIRST_LOOK_S, self._abort_if_left)
        return True

    def _abort_if_left(self) -> None:
        if not self.transport.is_closing() and self.transport.is_refused():
            self.transport.abort()

    def pause_writing(self) -> None:
        """It does not read its answers as fast as they come."""
        self.flow.pause_writing()

    def resume_writing(self) -> None:
        """The client has read most of its answers."""
        self._unread.release()
        self.flow.resume_writing()

    def close(self) -> None:
        """Close the connection; the application has answered or uvicorn ends it."""
        inner = self.transport.inner
        is_whole = self._exchange is None or not self._exchange.more_body
        if (is_whole and not self._refusal) or inner.is_closing() or self.is_lingering:
            inner.close()
            return
        self.is_lingering = True
        self._group.is_idle(self)  # Makes room for others when that is needed.
        self.flow.take()
        self.flow.resume_reading()
        if inner.can_write_eof():
            inner.write_eof()

    def shutdown(self) -> None:
        """The server stops: end with the answer that is being made, or with the one to a request on its way."""
        self._group.stop()
        if self._exchange is not None and not self._exchange.response_complete:
            self._exchange.keep_alive = False
            return
        self._is_ending = True
        self.loop.call_later(bounds.LAST_REQUEST_S, self._close_if_silent)

    def _close_if_silent(self) -> None:
        exchange = self._exchange
        if (exchange is None or exchange.response_complete) and not self.transport.is_closing():
            self.transport.close()

    # Parsing.

    def _feed(self, data: bytes | memoryview) -> None:
        """Parse what may be parsed, and keep the rest."""
        if (
            len(data) <= bounds.PIECE_BYTES
            and len(self._pipeline) < bounds.MOST_PIPELINED
            and not self._unparsed_left
        ):
            self._feed_piece(data)
            return
        rest = memoryview(data)
        turn_ends_at = self._reader.body_pieces + bounds.BODY_PIECES_A_TURN
        while rest and not self._refusal and not self.is_lingering:
            if self._unparsed_left and self._exchange is not None:
                size = min(len(rest), self._unparsed_left)
                self._exchange.take(rest[:size])
                self._passed(size)
            elif len(self._pipeline) >= bounds.MOST_PIPELINED:
                self.flow.keep(rest)
                return
            elif self._reader.body_pieces > turn_ends_at:
                self.flow.keep(rest)
                self.loop.call_soon(self._feed_on)
                return
            else:
                is_in_body = self._exchange is not None and self._exchange.more_body
                most = self._reader.body_left or (
                    bounds.BODY_PIECE_BYTES if is_in_body else bounds.PIECE_BYTES
                )
                size = min(len(rest), most)
                self._feed_piece(rest[:size])
            rest = rest[size:]

    def _feed_on(self) -> None:
        """Parse what was kept."""
        if self.flow.unfed and not self.transport.is_closing():
            self._feed(self.flow.take())
            self.flow.read_on()

    def _feed_piece(self, piece: bytes | memoryview) -> None:
        refused = self._reader.feed(piece)
        if refused is not None:
            self._refuse(refused)
        elif self._reader.body_left >= bounds.FILLED_BYTES:
            self._unparsed_left = self._reader.pass_by()
            self._had_long_body = True

    def _passed(self, nbytes: int) -> None:
        """So many octets of a body went past the parser."""
        self._unparsed_left -= nbytes
        if not self._unparsed_left:
            self._reader.passed()

    def take_head(self, head: Head) -> None:
        """See :class:`~ovms_mp.front.rest.reader.Target`."""
        keep_alive = head.keep_alive and not self._is_ending
        exchange: Exchange | None = None
        if self._direct is not None:
            exchange = self._direct.exchange(head, self, keep_alive=keep_alive)
        self._take_exchange(exchange or AsgiExchange(head, self, keep_alive=keep_alive))
        self._is_between = False
        self._group.is_busy(self)

    def _take_exchange(self, exchange: Exchange) -> None:
        """Have a request answered now or in its turn."""
        last, self._exchange = self._exchange, exchange
        if last is None or last.response_complete:
            self._begin(exchange)
        else:
            self.flow.pause_reading()
            self._pipeline.appendleft(exchange)

    def take_body(self, piece: bytes) -> None:
        """See :class:`~ovms_mp.front.rest.reader.Target`."""
        if self._exchange is not None:
            self._exchange.take(piece)

    def end_body(self) -> None:
        """See :class:`~ovms_mp.front.rest.reader.Target`."""
        if self._exchange is not None:
            self._exchange.end_body()

    def _refuse(self, refused: Refused) -> None:
        """Answer behind what is being answered, then close."""
        self._group.counts[refused.kind] += 1
        self._refusal = heads.answer(refused.status, refused.text)
        exchange = self._exchange
        if exchange is not None and exchange.more_body and not exchange.response_complete:
            self._drop_unfinished()
        if self._exchange is None or (self._exchange.response_complete and not self._pipeline):
            self._send_refusal()

    def _drop_unfinished(self) -> None:
        """The last request is the one that is refused, in its body; those before it are answered."""
        if self._running is not None and self._running is self._exchange:
            self._cancel()
            if self._running.response_started:
                self.transport.abort()
            else:
                self._send_refusal()
        else:
            self._pipeline.popleft()
            self._exchange = self._pipeline[0] if self._pipeline else self._running

    def _cancel(self) -> None:
        """End the handler that runs; it must not answer."""
        if self._task is not None and self._running is not None and not self._task.done():
            self._running.disconnect()
            self._task.cancel()

    def _send_refusal(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(self._refusal)
            self.transport.close()

    # Requests.

    def _begin(self, exchange: Exchange) -> None:
        task = exchange.begin(self.loop)
        self.server_state.tasks.add(task)
        task.add_done_callback(self.server_state.tasks.discard)
        self._task, self._running = task, exchange

    def on_response_complete(self) -> None:
        """An answer has been handed to the transport."""
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self.flow.resume_reading()
            if self._pipeline:
                self._begin(self._pipeline.pop())
        if self.flow.write_paused and not self.has_memory(0):
            return
        self._feed_on()
        if not self._pipeline and self._exchange is not None and self._exchange.response_complete:
            self._end_request()

    def has_memory(self, waiting_bytes: int) -> bool:
        """See :class:`~ovms_mp.front.rest.exchange.Line`."""
        try:
            self._unread.grow(self.transport.get_write_buffer_size() + waiting_bytes - self._unread.nbytes)
        except OvmsError:
            self._group.counts["answer_memory"] += 1
            self.transport.abort()
            return False
        return True

    def _end_request(self) -> None:
        """Nothing that has begun is left to be answered."""
        self._is_between = True
        self._patience.begin_again()
        self._group.is_idle(self)
        if self._refusal:
            self._send_refusal()
        elif self._is_half_closed:
            self.transport.close()

    # The group's side.

    def check(self) -> str:
        """See :class:`~ovms_mp.front.rest.connections.Connection`."""
        is_fresh, self._is_fresh = self._is_fresh, False
        if self.is_lingering:
            if self._patience.is_linger_over(is_fresh=is_fresh):
                self.transport.abort()
            return ""
        if self._is_half_closed:
            self._abort_if_left()
        exchange = self._exchange
        is_in_body = exchange is not None and exchange.more_body
        ended_for = self._patience.end_of(
            self.transport.get_write_buffer_size(),
            is_memory_short=self._group.bodies.is_short,
            is_between=self._is_between,
            has_begun=self._reader.head_bytes > 0,
            is_body_due=is_in_body and not is_fresh and not self.flow.read_paused,
        )
        if ended_for == HEAD_LATE:
            self._refuse(Refused(408, "the request's head did not arrive in time"))
        elif ended_for == IDLE and exchange is not None:
            self.transport.close()  # Who has been served may well come again later.
            return ""
        elif ended_for:
            self.transport.abort()
        return ended_for

    def evict(self) -> None:
        """See :class:`~ovms_mp.front.rest.connections.Connection`."""
        self.transport.abort()

    def turn_away(self) -> None:
        """See :class:`~ovms_mp.front.rest.connections.Connection`."""
        self.transport.write(heads.NO_ROOM)
        self.transport.inner.close()  # Without waiting for what it may send.
