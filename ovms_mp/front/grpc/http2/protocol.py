# SPDX-License-Identifier: Apache-2.0
"""One connection between the transport that asyncio hands in and its state machine: reads, turns, deadlines, ends."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable
from typing import Concatenate, ParamSpec

from ovms_mp.defects import contain, report
from ovms_mp.errors import Code
from ovms_mp.front.call_context import address_text
from ovms_mp.front.grpc.http2.call import Call
from ovms_mp.front.grpc.http2.connection import DrainPhase, Http2Connection
from ovms_mp.front.grpc.http2.connections import Connections
from ovms_mp.front.grpc.http2.deadlines import FAREWELL_S, Deadlines, is_late
from ovms_mp.front.grpc.http2.faults import ErrorCode, peer_log
from ovms_mp.front.grpc.http2.headers import RequestHead
from ovms_mp.front.grpc.http2.limits import SECOND_NS, Guard, Hit
from ovms_mp.front.grpc.http2.transports import NO_H2, pause_at_once, peer_name, speaks_h2
from ovms_mp.front.grpc.http2.turn import Turn
from ovms_mp.front.grpc.http2.writer import Writer
from ovms_mp.front.methods import Methods
from ovms_mp.tls.names import name_of

_Rest = ParamSpec("_Rest")
_Step = Callable[Concatenate["Http2Protocol", _Rest], None]

_LARGE_BYTES = 64 << 10
"""Octets from which a system call of their own is cheaper than a copy."""
_START_BYTES = 2 << 10
"""Of a frame that may be long: enough for its header and the start of a message."""
_UNTAKEN_BYTES = 16 << 20
"""What all connections together may have received and not yet handled, roughly."""
_SUSPECTS_REST = 9
"""How many times as long as its read took a suspect connection is not read then."""
_GREETING_NS = SECOND_NS
"""So new a connection may be silent and is no worse than an idle one."""


def _alone(step: _Step[_Rest]) -> _Step[_Rest]:
    """Let what a step of a connection raises end that connection only. Hot steps have a ``try`` of their own."""

    @functools.wraps(step)
    def guarded(protocol: Http2Protocol, /, *rest: _Rest.args, **named: _Rest.kwargs) -> None:
        try:
            step(protocol, *rest, **named)
        except Exception as error:
            protocol.fail(error)

    return guarded


class Http2Protocol(asyncio.BufferedProtocol):
    """The owner of one transport, plain or TLS.

    asyncio makes a protocol before it has a transport; all that needs one is made in ``connection_made``, which it
    calls before anything else.

    Attributes:
        connection: What the octets mean.
    """

    connection: Http2Connection
    _transport: asyncio.Transport
    _writer: Writer
    _deadlines: Deadlines

    def __init__(self, methods: Methods, guard: Guard, connections: Connections) -> None:
        """Prepare.

        Args:
            methods: What clients may call.
            guard: Shared by all connections.
            connections: Where this one is entered.
        """
        self._methods = methods
        self._guard = guard
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._opened_ns = time.monotonic_ns()  # Before the handshake of TLS, if there is one.
        self._turn = Turn(connections.members)
        self._offered_bytes = 0
        """The room that the last read had."""
        self._is_direct = False
        """Whether that was a sink's memory."""

    @_alone
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, if the client speaks HTTP/2 and there is room for it."""
        now_ns = self._opened_ns
        self._transport = transport  # type: ignore[assignment]  # As all of stream servers.
        self.connection = Http2Connection(self._new_call, self._guard, now_ns)
        self._deadlines = Deadlines(self.connection, now_ns)
        self._writer = Writer(self._loop, self._transport, self.connection, self._ending, self._fail_cut)
        self.connection.certificate_name = name_of(transport.get_extra_info("peercert"))
        pause_at_once(self._transport)  # Which may already pause.
        has_room = self._connections.make_room(now_ns)
        self._connections.add(self)
        if not has_room:
            self._abort(Hit.CONNECTIONS)
        elif not speaks_h2(self._transport):
            self._guard.counters[Hit.NOT_HTTP2] += 1
            self._loop.call_soon(self._refuse_other_protocol)  # Not behind the handshake's own last octets.
        elif self._connections.calm_ns > now_ns:
            # NOTE: not now, as loops begin to read behind this call.
            self._loop.call_soon(self._rest, self._connections.calm_ns - now_ns)
        self._writer.flush()

    @_alone
    def _refuse_other_protocol(self) -> None:
        self.connection.close(ErrorCode.PROTOCOL_ERROR, NO_H2)
        self._writer.wake()

    def connection_lost(self, _error: Exception | None) -> None:
        """End all calls."""
        self._connections.remove(self)
        contain("grpc.connection_lost", "this connection", self.connection.close, ErrorCode.NO_ERROR, "")
        self._writer.lost()

    # Reading.

    def get_buffer(self, _sizehint: int) -> memoryview:
        """A sink's memory if much of the next octets belongs there, else the scratch memory of all connections."""
        self._turn.begin_read()
        target = None
        if not self.connection.is_closed:
            target = self.connection.wanted(_LARGE_BYTES)
        self._is_direct = target is not None
        if target is None:
            # After a long frame the next one may be long, too: take its start only, the rest goes to its place.
            is_long = self.connection.last_data_bytes >= _LARGE_BYTES
            most = _START_BYTES if is_long else _UNTAKEN_BYTES // len(self._connections.members)
            target = self._connections.scratch[:most]
        self._offered_bytes = len(target)
        return target

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was received, or as much of it as its turn lasts."""
        turn = self._turn
        try:
            if self._is_direct:
                self.connection.advance(nbytes, turn.read_ns)
            else:
                self.connection.receive(self._connections.scratch[:nbytes], turn.read_ns, turn.is_over)
            # A read that was filled is followed by another one at once.
            has_more = nbytes == self._offered_bytes
            self._end_read(has_more=has_more, is_over=has_more and turn.is_over())
        except Exception as error:
            self.fail(error)

    def _end_read(self, *, has_more: bool, is_over: bool) -> None:
        """Judge a read: go on, rest, or end a connection that asks for more than it reads."""
        took_ns = self._turn.end_read(has_more=has_more)
        is_suspect = self._turn.read_ns < self.connection.suspect_until_ns
        if self.connection.output.nbytes > self._guard.limits.max_unread_bytes:
            self._abort(Hit.UNREAD)
        elif is_suspect:
            self._rest(took_ns * _SUSPECTS_REST)
        elif is_over or self.connection.is_behind:
            self._rest(0)
        self._writer.wake()

    def _rest(self, rest_ns: int) -> None:
        """Read nothing for a while, at least until others had their turn, or the loop would read on, many times."""
        self._turn.begin_again()
        if not self._transport.is_closing():
            self._transport.pause_reading()
            self._loop.call_later(rest_ns / SECOND_NS, self._end_rest)

    @_alone
    def _end_rest(self) -> None:
        read_ns = self._turn.begin_read()
        if self._transport.is_closing() or self.connection.fault:
            return
        if self.connection.is_behind:
            self.connection.receive(b"", read_ns, self._turn.is_over)
            self._end_read(has_more=True, is_over=True)  # However short it was.
        else:
            self._transport.resume_reading()

    # Writing.

    def peer(self) -> str:
        """The client's address."""
        return address_text(self._transport.get_extra_info("peername"))

    def wake(self) -> None:
        """Write what there is at the end of this loop turn."""
        self._writer.wake()

    def pause_writing(self) -> None:
        """Let output wait."""
        self._writer.pause()

    @_alone
    def resume_writing(self) -> None:
        """Go on with what waits."""
        self._writer.resume()

    def _new_call(self, connection: Http2Connection, stream_id: int, head: RequestHead) -> Call:
        return Call(self._methods, self.wake, self.peer, connection, stream_id, head)

    # How it ends.

    def _ending(self) -> None:
        """Note a fault that ends the connection, when all is written that will be."""
        if not self.connection.fault:
            return
        self._rest(0)  # Not to end: nobody reads what comes behind a fault.
        self._connections.calm_down(time.monotonic_ns())
        if not self.connection.is_stranger:
            peer = peer_name(self._transport)
            peer_log.warning("event=connection_fault peer=%s why=%s", peer, self.connection.fault)

    def _abort(self, hit: Hit) -> None:
        """End at once, for a limit that was hit."""
        self._guard.counters[hit] += 1
        self._transport.abort()

    def fail(self, error: Exception) -> None:
        """End the connection for a defect of ours; the client is told so."""
        report("grpc.connection", error, f"connection of {peer_name(self._transport)}")
        if not contain("grpc.connection", "the same", self._say_goodbye):
            self._transport.abort()

    def _say_goodbye(self) -> None:
        self.connection.close(ErrorCode.INTERNAL_ERROR, "")
        self._writer.wake()

    def _fail_cut(self, error: Exception) -> None:
        """End the connection for a defect of ours at once: what was written may be cut anywhere."""
        report("grpc.connection", error, f"connection of {peer_name(self._transport)}")
        self._transport.abort()

    @_alone
    def drain(self) -> None:
        """Ask the client to leave."""
        if self._deadlines.drained_ns is None:
            self._deadlines.drained_ns = time.monotonic_ns()
            self.connection.drain()
            self._writer.wake()

    @_alone
    def stop(self) -> None:
        """End all calls with a status, then the connection; or close at once if that was done before."""
        if self.connection.is_closed:
            self._transport.abort()
        for stream in list(self.connection.streams.values()):
            if isinstance(stream, Call):
                stream.finish(Code.UNAVAILABLE, "the server is stopping")
        self.leave()

    @_alone
    def leave(self) -> None:
        """End the connection. Its client knows that a call it may just begin was not processed."""
        self.connection.close(ErrorCode.NO_ERROR, "")
        self._writer.wake()

    def abort(self) -> None:
        """Give the descriptor back now."""
        self._transport.abort()

    def idle_rank(self, now_ns: int) -> tuple[bool, int] | None:
        """Whom to part with first: who has not even greeted for a while, then who is idle for longest; None: busy."""
        connection = self.connection
        if connection.streams or connection.is_closed:
            return None
        has_greeted = connection.is_settled or now_ns - self._opened_ns < _GREETING_NS
        return has_greeted, self._deadlines.idle_since_ns(now_ns)

    # Time.

    @property
    def is_idle(self) -> bool:
        """Whether there is no call, and neither a handshake nor a drain goes on."""
        connection = self.connection
        is_busy = bool(connection.streams) or connection.drain_phase != DrainPhase.NONE
        return connection.is_settled and not is_busy

    @_alone
    def tick(self) -> None:
        """Look at all deadlines of the connection and of its calls."""
        connection = self.connection
        connection.now_ns = time.monotonic_ns()
        connection.regrant()
        for stream in list(connection.streams.values()):
            if not contain("grpc.call_tick", f"call {stream.id}", stream.tick, connection.now_ns):
                connection.reset(stream.id, ErrorCode.INTERNAL_ERROR)
        self._deadlines.look()
        self._end_late()
        self._check_age()
        self._writer.wake()

    def _end_late(self) -> None:
        """End a connection that does not go on."""
        now_ns = self.connection.now_ns
        if is_late(self._writer.ended_ns, FAREWELL_S, now_ns):
            self._transport.abort()
        elif self._deadlines.is_handshake_late:
            self._abort(Hit.HANDSHAKE)
        elif self._deadlines.is_frame_late:
            self._guard.counters[Hit.SLOW_FRAME] += 1
            self.connection.close(ErrorCode.ENHANCE_YOUR_CALM, "a frame took too long")
        elif is_late(self._writer.paused_ns, self._guard.limits.send_timeout_s, now_ns):
            self._abort(Hit.STALLED_CONNECTION)

    def _check_age(self) -> None:
        """Drain a connection that is old or idle for long, and end a drain that goes on for too long."""
        if self._deadlines.is_old:
            self.drain()
        if self.connection.drain_phase == DrainPhase.ANNOUNCED and self._deadlines.is_drain_ping_late:
            self.connection.drain()
        if self._deadlines.is_grace_over:
            self.stop()
