# SPDX-License-Identifier: Apache-2.0
"""uvicorn's HTTP/1.1 protocol with bounds: of heads, of what is read ahead, and of a silent client's patience.

Where uvicorn's reads all that a client sends and waits for ever, here

- a head longer than 64 KiB, or with more than 256 fields, is answered with 431 (414 for the URL), and the version of
  the protocol is looked at (505);
- few requests of a connection are parsed before those ahead of them are answered; the rest is not read;
- a client that sends a request's head or body, or reads its answer, without progress is cut off;
- a client that closes its connection cancels what it asked for;
- an answer that comes before the request's end is not lost: the connection goes on reading for a while;
- a client that only stops sending gets the answers to all that it has asked for in whole;
- an offer to go on in another protocol is declined, and the request that carries it is answered as what it is.

Refusals have one JSON document and no traceback, and are counted rather than logged one by one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ovms_mp.errors import OvmsError
from ovms_mp.front.rest import bounds, heads
from ovms_mp.front.rest.connections import SWEEP_INTERVAL_S
from ovms_mp.front.rest.early import CYCLE, IS_GONE
from ovms_mp.front.rest.heads import Refused
from ovms_mp.front.rest.transport import GatedFlow, LingeringTransport

if TYPE_CHECKING:
    import asyncio
    from typing import Any

    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from ovms_mp.front.rest.connections import Connections


class RestProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._group: Connections = self.app_state["connections"]
        self._unread = self._group.bodies.share()
        self._task: asyncio.Task[None] | None = None
        self._running: RequestResponseCycle | None = None
        self._unfed = b""
        """What was read and may not be parsed yet."""
        self._body_left = 0
        """Octets that certainly belong to the body which is being received."""
        self._head_bytes = 0
        """Octets since the parser last got anywhere."""
        self._has_progress = False
        self._refusal = b""
        """The last answer, behind those to the requests before it."""
        self.is_lingering = False
        self._lingered = 0
        """For so many sweeps."""
        self._is_half_closed = False
        self._is_ending = False
        """Whether the next answer is the last one."""
        self._has_host = False
        self._is_fresh = False
        self._is_between = True
        """Whether no head has been received since the last answer."""
        self._unread_bytes = 0
        self._waited = 0
        self._waits_for = ""
        """What the connection had been doing for so many sweeps."""

    # The transport's side.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn
        """A client has connected."""
        super().connection_made(LingeringTransport(transport, self))  # type: ignore[arg-type]  # it passes on the rest
        self.flow = GatedFlow(transport)
        self._group.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed, by whomever; nobody waits for an answer any more."""
        self._group.remove(self)
        self._unread.release()
        self.is_lingering = False
        self._unfed = b""
        self.pipeline.clear()
        self._cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Octets of requests."""
        self._unset_keepalive_if_required()
        self._is_fresh = True
        if self._unfed:
            self._unfed += data  # Reading has been paused, so this comes once.
        elif not self._refusal and not self.is_lingering:
            self._feed(data)

    def eof_received(self) -> bool:  # type: ignore[override]  # as asyncio
        """The client sends no more; whether there is something to answer all the same."""
        if self.is_lingering or self.cycle is None or self.cycle.response_complete:
            return False
        if self.scheme == "https":
            return False  # Loops close TLS in both directions, whatever is said here.
        if self.cycle.more_body:
            if self._running is self.cycle:
                return False
            self._drop_unfinished()
        self._is_half_closed = True
        if self._running is not None and not self._running.response_started:
            self.transport.begin_answer()  # type: ignore[attr-defined]  # of LingeringTransport
        self.loop.call_later(bounds.FIRST_LOOK_S, self._abort_if_left)
        return True

    def _abort_if_left(self) -> None:
        if not self.transport.is_closing() and self.transport.is_refused():  # type: ignore[attr-defined]  # as above
            self._abort()

    def resume_writing(self) -> None:
        """The client has read most of its answers."""
        self._unread.release()
        super().resume_writing()

    def close(self) -> None:
        """Close the connection; the application has answered or uvicorn ends it."""
        inner: asyncio.Transport = self.transport.inner  # type: ignore[attr-defined]  # as above
        is_whole = self.cycle is None or not self.cycle.more_body
        if (is_whole and not self._refusal) or inner.is_closing() or self.is_lingering:
            inner.close()
            return
        self.is_lingering = True
        self._group.is_idle(self)  # Makes room for others when that is needed.
        self._unfed = b""
        self.flow.is_held = False  # type: ignore[attr-defined]  # of GatedFlow
        self.flow.resume_reading()
        if inner.can_write_eof():
            inner.write_eof()

    def shutdown(self) -> None:
        """The server stops: end with the answer that is being made, or with the one to a request on its way."""
        if self.cycle is not None and not self.cycle.response_complete:
            super().shutdown()
            return
        self._is_ending = True
        self.loop.call_later(bounds.LAST_REQUEST_S, self._close_if_silent)

    def _close_if_silent(self) -> None:
        if (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing():
            self.transport.close()

    # Parsing.

    def _feed(self, data: bytes) -> None:
        """Parse what may be parsed, and keep the rest."""
        if len(data) <= bounds.PIECE_BYTES and len(self.pipeline) < bounds.MOST_PIPELINED:
            self._feed_piece(data)
            return
        rest = memoryview(data)
        while rest and not self._refusal and not self.is_lingering:
            if len(self.pipeline) >= bounds.MOST_PIPELINED:
                self._unfed = bytes(rest)
                self.flow.pause_reading()
                self.flow.is_held = True  # type: ignore[attr-defined]  # of GatedFlow
                return
            is_in_body = self.cycle is not None and self.cycle.more_body
            size = min(
                len(rest), self._body_left or (bounds.BODY_PIECE_BYTES if is_in_body else bounds.PIECE_BYTES)
            )
            self._feed_piece(rest[:size])
            rest = rest[size:]

    def _feed_piece(self, piece: bytes | memoryview) -> None:
        self._has_progress = False
        taken = -1
        try:
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade as offer:
                taken = offer.args[0]
            if taken >= 0:  # Not in the handler: the parser's next error would lose its context.
                self._decline(memoryview(piece)[taken:])
        except httptools.HttpParserError as error:
            refused = error.__context__
            self._refuse(refused if isinstance(refused, Refused) else heads.unreadable(piece, str(error)))
            return
        except Refused as refusal:
            self._refuse(refusal)
            return
        if self._has_progress:
            self._head_bytes = 0
        else:
            self._head_bytes += len(piece)
            if self._head_bytes > heads.MOST_HEAD_BYTES:
                self._refuse(heads.too_long(len(self.url)))

    def _should_upgrade(self) -> bool:
        """Have uvicorn leave a request alone that offers another protocol; see :meth:`_decline`."""
        return True

    def _decline(self, rest: memoryview) -> None:
        """Read a request again without its offer of another protocol, behind which the parser reads no body."""
        taken = 0
        while taken >= 0:
            rest, taken = rest[taken:], -1
            parser = self.parser
            if parser.get_method() == b"CONNECT":
                raise Refused(400, "CONNECT is for proxies, and this is none")
            head = heads.without_offer(parser.get_method(), self.url, parser.get_http_version(), self.headers)
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn
            self.parser.feed_data(head)
            try:
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as offer:
                taken = offer.args[0]

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head, or behind a chunked body."""
        if len(self.headers) >= heads.MOST_FIELDS:
            raise Refused(431, f"the request has more than {heads.MOST_FIELDS} header fields")
        name = name.lower()
        if name in heads.LOOKED_AT:
            if name == b"content-length":
                self._body_left = int(value)
            elif name == b"host":
                if self._has_host:
                    raise Refused(400, "the request has more than one Host header field (RFC 9112, 3.2)")
                self._has_host = True
            elif name == b"transfer-encoding":
                heads.refuse_coding(value)
            elif value.lower() == b"100-continue":
                self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """A head is here."""
        self._has_progress = True
        version = self.parser.get_http_version()
        if version != "1.1" and version != "1.0":
            raise Refused(505, f"HTTP/{version} is not supported; speak HTTP/1.1")
        if not self._has_host and version == "1.1":
            raise Refused(400, "the request has no Host header field (RFC 9112, 3.2)")
        self._has_host = False
        if len(self.url) > heads.MOST_HEAD_BYTES or (
            self._head_bytes and sum(len(n) + len(v) for n, v in self.headers) > heads.MOST_HEAD_BYTES
        ):
            raise heads.too_long(len(self.url))
        try:
            super().on_headers_complete()
        except httptools.HttpParserError:
            raise Refused(400, "the request's target is no URL") from None
        except UnicodeError:
            raise Refused(400, "the request's target is not ASCII") from None
        if self._is_ending and self.cycle is not None:
            self.cycle.keep_alive = False
        self._is_between = False
        self._group.is_busy(self)

    def on_body(self, body: bytes) -> None:
        """Octets of a body."""
        self._has_progress = True
        self._body_left = max(0, self._body_left - len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is here."""
        self._has_progress = True
        self._body_left = 0
        self._has_host = False  # A trailer's is not the next request's.
        super().on_message_complete()

    def _refuse(self, refused: Refused) -> None:
        """Answer behind what is being answered, then close."""
        self._group.counts[refused.kind] += 1
        self._refusal = heads.answer(refused.status, refused.text)
        if self.cycle is not None and self.cycle.more_body and not self.cycle.response_complete:
            self._drop_unfinished()
        if self.cycle is None or (self.cycle.response_complete and not self.pipeline):
            self._send_refusal()

    def _drop_unfinished(self) -> None:
        """The last request is the one that is refused, in its body; those before it are answered."""
        if self._running is self.cycle:
            self._cancel()
            if self.cycle.response_started:
                self._abort()
            else:
                self._send_refusal()
        else:
            self.pipeline.popleft()
            self.cycle = self.pipeline[0][0] if self.pipeline else cast("RequestResponseCycle", self._running)

    def _cancel(self) -> None:
        """End the handler that runs; it must not answer."""
        if self._task is not None and self._running is not None and not self._task.done():
            self._running.disconnected = True
            cast("dict[str, Any]", self._running.scope)[IS_GONE] = True
            self._task.cancel()

    def _send_refusal(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(self._refusal)
            self.transport.close()

    # Requests.

    def _start_asgi_task(
        self, cycle: RequestResponseCycle, app: Any
    ) -> None:  # Any: uvicorn's own name of it.
        scope = cast("dict[str, Any]", cycle.scope)
        if scope["method"] == "POST":
            scope[CYCLE] = cycle
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)
        self._task, self._running = task, cycle

    def on_response_complete(self) -> None:
        """An answer has been handed to the transport."""
        super().on_response_complete()
        if self.flow.write_paused:
            try:
                self._unread.grow(self.transport.get_write_buffer_size() - self._unread.nbytes)
            except OvmsError:
                self._group.counts["answer_memory"] += 1
                self._abort()
                return
        if self._unfed and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            data, self._unfed = self._unfed, b""
            self.flow.is_held = False  # type: ignore[attr-defined]  # of GatedFlow
            self._feed(data)
            if not self._unfed:
                self.flow.resume_reading()
        if self.cycle.response_complete and not self.pipeline:
            self._is_between = True
            self._waited = 0
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
            self._linger(is_fresh)
            return ""
        if self._is_half_closed:
            self._abort_if_left()
        unread, self._unread_bytes = self._unread_bytes, self.transport.get_write_buffer_size()
        timeout_s = self._group.client_timeout_s
        if self._unread_bytes:
            name, is_waiting = "answer_unread", self._unread_bytes >= unread > 0
        elif self._is_between:
            # From its first octet on a head has to be here in time, however it dribbles.
            has_begun = self._head_bytes > 0
            timeout_s = min(bounds.HEAD_TIMEOUT_S, timeout_s) if has_begun else bounds.IDLE_TIMEOUT_S
            name, is_waiting = ("head_late" if has_begun else "idle"), True
        else:
            name, is_waiting = (
                "body_late",
                self.cycle.more_body and not is_fresh and not self.flow.read_paused,
            )
        self._waited = self._waited + 1 if is_waiting and name == self._waits_for else 0
        self._waits_for = name
        if self._waited * SWEEP_INTERVAL_S < timeout_s:
            return ""
        if name == "head_late":
            self._refuse(Refused(408, "the request's head did not arrive in time"))
        else:
            self._abort()
        return name

    def _linger(self, is_fresh: bool) -> None:
        self._lingered += 1
        self._waited = 0 if is_fresh else self._waited + 1
        if self._lingered >= bounds.LINGER_SWEEPS or self._waited >= bounds.QUIET_SWEEPS:
            self._abort()

    def evict(self) -> None:
        """See :class:`~ovms_mp.front.rest.connections.Connection`."""
        self._abort()

    def turn_away(self) -> None:
        """See :class:`~ovms_mp.front.rest.connections.Connection`."""
        self.transport.write(
            heads.answer(503, "the server has no room for another connection; try again later")
        )
        self.transport.inner.close()  # type: ignore[attr-defined]  # without waiting for what it may send

    def _abort(self) -> None:
        self.transport.inner.abort()  # type: ignore[attr-defined]  # of LingeringTransport
