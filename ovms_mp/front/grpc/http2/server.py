# SPDX-License-Identifier: Apache-2.0
"""Sockets and time: octets in and out once a loop turn, deadlines, idle and age, drain. One event loop, best uvloop's.

PERF: uvloop and asyncio write at once if nothing waits. So with the lowest high-water mark, 'not paused' means that
all is in the kernel (or encrypted), and that is when memory behind replies is released.
"""

import asyncio
import functools
import heapq
import logging
import random
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Concatenate, ParamSpec

from ovms_mp.defects import contain, report
from ovms_mp.errors import BootError, Code
from ovms_mp.front.call_context import address_text
from ovms_mp.front.grpc.http2.call import Call
from ovms_mp.front.grpc.http2.connection import Http2Connection
from ovms_mp.front.grpc.http2.frames import ErrorCode
from ovms_mp.front.grpc.http2.limits import SECOND_NS, Guard, Hit
from ovms_mp.front.grpc.http2.output import Hook
from ovms_mp.front.methods import Methods
from ovms_mp.front.steps import Periodic

_log = logging.getLogger(__name__)
_Rest = ParamSpec("_Rest")
_Step = Callable[Concatenate["Http2Protocol", _Rest], None]

_TICK_S, _DRAIN_PING_S, _FEW_CONNECTIONS = 0.1, 1.0, 50
_FAREWELL_S = 1.0  # For octets behind our last one; closing at once would reset what we wrote.
_START_BYTES, _SCRATCH_BYTES, _UNTAKEN_BYTES = 2 << 10, 512 << 10, 16 << 20  # Untaken: roughly, of all.
_LONE_TURN_NS = SECOND_NS // 250  # PERF: of the only connection; tasks and answers go in larger groups.
_TURN_NS = SECOND_NS // 4000  # After so long with what one connection sent it is the others' turn.
_SUSPECTS_REST, _CALM_NS = 9, SECOND_NS // 50  # Times what they took; new connections', for each fault.
_PARTED_PART, _LEAVING_PART = 32, 16  # Of all connections: parted with at once; told to go and still there.
_FULL_NS = SECOND_NS // 20
_LARGE_BYTES = 64 << 10  # Octets from which a system call of their own is cheaper than a copy.


def _alone(step: _Step[_Rest]) -> _Step[_Rest]:
    """Let what a step of a connection raises end that connection only. Hot steps have a ``try`` of their own."""

    @functools.wraps(step)
    def guarded(protocol: "Http2Protocol", /, *rest: _Rest.args, **named: _Rest.kwargs) -> None:
        try:
            step(protocol, *rest, **named)
        except Exception as error:
            protocol.fail(error)

    return guarded


class Http2Protocol(asyncio.BufferedProtocol):
    """The transport of one connection."""

    def __init__(self, server: "Http2Server") -> None:
        self._server, self._loop = server, asyncio.get_running_loop()
        self._offered = self._read_ns = self._turn_ns = 0  # The last read's room and begin; the turn so far.
        self._is_direct = self._is_flush_due = self._is_paused = False
        self.connection: Http2Connection
        self._unwritten: list[Hook] = []
        self._opened_ns = self._progress_ns = self._active_ns = time.monotonic_ns()
        self._paused_ns = self._drained_ns = self._ended_ns = self._frames_seen = self._last_id_seen = 0
        self._age_factor = random.uniform(0.9, 1.1)  # noqa: S311  # connections shall not all leave at once

    @_alone
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, if the client speaks HTTP/2 and there is room for it."""
        server, guard = self._server, self._server.guard
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]  # As all of stream servers.
        new_call = functools.partial(Call, server.methods, self.wake, self.peer)
        self.connection = Http2Connection(new_call, guard, self._opened_ns)
        tls = transport.get_extra_info("ssl_object")
        # NOTE: TLS transports pause at the mark, plain ones above it; behind a handshake this may pause us at once.
        self._transport.set_write_buffer_limits(high=0 if tls is None else 1)
        has_room = server.has_room(self._opened_ns)
        guard.counters[Hit.CONNECTIONS] += not has_room
        server.protocols.add(self)
        server.changed.set()
        if not has_room or (tls is not None and tls.selected_alpn_protocol() != "h2"):
            self._transport.abort()
        elif server.calm_ns > self._opened_ns:
            # NOTE: not now, as loops begin to read behind this call.
            self._loop.call_soon(self._rest, server.calm_ns - self._opened_ns)
        self._flush()

    def get_buffer(self, _sizehint: int) -> memoryview:
        """A sink's memory if much of the next octets belongs there, else the scratch memory of all connections."""
        # SAFETY: between this and ``buffer_updated`` a loop reads one socket and does nothing else.
        self._read_ns = time.monotonic_ns()
        target = None if self.connection.is_closed else self.connection.wanted(_LARGE_BYTES)
        self._is_direct = target is not None
        # After a long frame the next one may be long, too: take its start only, the rest goes to its place.
        is_long = self.connection.last_data_bytes >= _LARGE_BYTES
        most = _START_BYTES if is_long else _UNTAKEN_BYTES // len(self._server.protocols)
        target = self._server.scratch[:most] if target is None else target
        self._offered = len(target)
        return target

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was received, or as much of it as its turn lasts."""
        try:
            if self._is_direct:
                self.connection.advance(nbytes, self._read_ns)
            else:
                self.connection.receive(self._server.scratch[:nbytes], self._read_ns, self._is_over)
            self._end_read(has_more=nbytes == self._offered)
        except Exception as error:
            self.fail(error)

    def _is_over(self) -> bool:
        took_ns = self._turn_ns + time.monotonic_ns() - self._read_ns
        return took_ns > _TURN_NS and (took_ns > _LONE_TURN_NS or len(self._server.protocols) > 1)

    def _end_read(self, *, has_more: bool) -> None:
        is_over, took_ns = has_more and self._is_over(), time.monotonic_ns() - self._read_ns
        self._turn_ns = (self._turn_ns + took_ns) * has_more  # Else loops go on to others by themselves.
        is_suspect = self._read_ns < self.connection.suspect_until_ns
        if self.connection.output.nbytes > self._server.guard.limits.max_unread_bytes:
            self._abort(Hit.UNREAD)
        elif is_suspect or is_over or self.connection.is_behind:
            self._turn_ns = 0
            self._rest(took_ns * _SUSPECTS_REST * is_suspect)
        self.wake()

    def _rest(self, rest_ns: int) -> None:
        """Read nothing for a while, at least until others had their turn, or the loop would read on, many times."""
        if not self._transport.is_closing():
            self._transport.pause_reading()
            self._loop.call_later(rest_ns / SECOND_NS, self._end_rest)

    @_alone
    def _end_rest(self) -> None:
        self._read_ns = time.monotonic_ns()
        if self._transport.is_closing() or self.connection.fault:
            return
        if self.connection.is_behind:
            self.connection.receive(b"", self._read_ns, self._is_over)
            self._turn_ns = SECOND_NS  # To rest again, however short it was.
            self._end_read(has_more=True)
        else:
            self._transport.resume_reading()

    def _abort(self, hit: Hit) -> None:
        self._server.guard.counters[hit] += 1
        self._transport.abort()

    def fail(self, error: Exception, *, is_cut: bool = False) -> None:
        """End the connection for a defect of ours; the client is told so, unless what was written may be cut."""
        report("grpc.connection", error, f"connection of {self._transport.get_extra_info('peername')}")
        if is_cut or not contain("grpc.connection", "the same", self._say_goodbye):
            self._transport.abort()

    def _say_goodbye(self) -> None:
        self.connection.close(ErrorCode.INTERNAL_ERROR, "")
        self.wake()

    def connection_lost(self, _error: Exception | None) -> None:
        """End all calls."""
        self._server.protocols.discard(self)
        self._server.leaving.pop(self, None)
        self._server.changed.set()
        contain("grpc.connection_lost", "this connection", self.connection.close, ErrorCode.NO_ERROR, "")
        self._release(self._unwritten + self.connection.output.take()[1])

    def pause_writing(self) -> None:
        """Let output wait."""
        self._is_paused, self._paused_ns = True, self.connection.now_ns

    @_alone
    def resume_writing(self) -> None:
        """Go on with what waits."""
        self._is_paused = False
        self._flush()

    def peer(self) -> str:
        """The client's address."""
        return address_text(self._transport.get_extra_info("peername"))

    def wake(self) -> None:
        """Write what there is at the end of this loop turn, behind what its tasks have to say."""
        if not self._is_flush_due and (self.connection.output.nbytes or self.connection.is_closed):
            self._is_flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        try:
            self._write()
        except Exception as error:
            self.fail(error, is_cut=True)

    def _write(self) -> None:
        self._is_flush_due = False
        connection, output = self.connection, self.connection.output
        while not self._is_paused and not self._ended_ns and not self._transport.is_closing():
            self._release(self._unwritten)
            if not output.nbytes:
                break
            is_small = output.nbytes < _LARGE_BYTES
            chunks, self._unwritten = output.take()
            self._transport.writelines([b"".join(chunks)] if is_small else chunks)
            output.pump()
        if connection.is_closed and not self._ended_ns and (connection.fault or not self._is_paused):
            now_ns = self._ended_ns = time.monotonic_ns()
            if connection.fault:
                self._rest(0)  # Not to end: nobody reads what comes behind a fault.
                self._server.calm_ns = min(max(self._server.calm_ns, now_ns) + _CALM_NS, now_ns + SECOND_NS)
                if not connection.is_stranger:
                    peer = self._transport.get_extra_info("peername")
                    _log.warning("event=connection_fault peer=%s why=%s", peer, connection.fault)
            if self._transport.can_write_eof() and not self._transport.is_closing():
                self._transport.write_eof()
            else:
                self._transport.close()

    def _release(self, releases: list[Hook]) -> None:
        self._unwritten = []
        for release in releases:
            try:
                release()
            except Exception as error:
                report("grpc.release", error, "memory of an answer")

    @_alone
    def drain(self) -> None:
        """Ask the client to leave."""
        if not self._drained_ns:
            self._drained_ns = time.monotonic_ns()
            self.connection.drain()
            self.wake()

    @_alone
    def stop(self) -> None:
        """End all calls with a status, then the connection; or close at once if that was done before."""
        if self.connection.is_closed:
            self._transport.abort()
        for call in [stream for stream in self.connection.streams.values() if isinstance(stream, Call)]:
            call.finish(Code.UNAVAILABLE, "the server is stopping")
        self.connection.close(ErrorCode.NO_ERROR, "")
        self.wake()

    def idle_rank(self, now_ns: int) -> tuple[bool, int] | None:
        """Whom to part with first: who has not even greeted for a while, then who is idle for longest; None: busy."""
        connection = self.connection
        if connection.streams or connection.is_closed:
            return None
        since_ns = self._active_ns if connection.last_id == self._last_id_seen else now_ns
        has_greeted = connection.is_settled or now_ns - self._opened_ns < SECOND_NS
        return has_greeted, since_ns

    @_alone
    def leave(self) -> None:
        """End a connection that has no calls. Its client knows that a call it may just begin was not processed."""
        self.connection.close(ErrorCode.NO_ERROR, "")
        self.wake()

    def abort(self) -> None:
        """Give the descriptor back now."""
        self._transport.abort()

    @_alone
    def tick(self) -> None:
        """Look at all deadlines of the connection and of its calls."""
        connection, limits = self.connection, self._server.guard.limits
        now_ns = connection.now_ns = time.monotonic_ns()
        connection.regrant()
        for stream in list(connection.streams.values()):
            if not contain("grpc.call_tick", f"call {stream.id}", stream.tick, now_ns):
                connection.reset(stream.id, ErrorCode.INTERNAL_ERROR)
        if connection.frames_received != self._frames_seen or not connection.is_mid_frame:
            self._frames_seen, self._progress_ns = connection.frames_received, now_ns
        if connection.streams or connection.last_id != self._last_id_seen:
            self._last_id_seen, self._active_ns = connection.last_id, now_ns
        if self._is_late(self._ended_ns, _FAREWELL_S):
            self._transport.abort()
        elif not connection.is_settled and self._is_late(self._opened_ns, limits.handshake_timeout_s):
            self._abort(Hit.HANDSHAKE)
        elif self._is_late(self._progress_ns, limits.message_timeout_s):
            self._server.guard.counters[Hit.SLOW_FRAME] += 1
            connection.close(ErrorCode.ENHANCE_YOUR_CALM, "a frame took too long")
        elif self._is_paused and self._is_late(self._paused_ns, limits.send_timeout_s):
            self._abort(Hit.STALLED_CONNECTION)
        self._check_age()
        self.wake()

    def _check_age(self) -> None:
        limits = self._server.guard.limits
        is_old = self._is_late(self._opened_ns, limits.max_age_s * self._age_factor)
        if is_old or self._is_late(self._active_ns, limits.idle_timeout_s):
            self.drain()
        if self.connection.drain_phase == 1 and self._is_late(self._drained_ns, _DRAIN_PING_S):
            self.connection.drain()
        if self._is_late(self._drained_ns, limits.age_grace_s):
            self.stop()

    def _is_late(self, since_ns: int, limit_s: float) -> bool:
        return since_ns > 0 and 0 < limit_s * SECOND_NS < self.connection.now_ns - since_ns


class Http2Server:
    """Methods on sockets that other processes may share (SO_REUSEPORT). ``protocols`` are its connections."""

    def __init__(self, methods: Methods, guard: Guard, ssl_context: ssl.SSLContext | None = None) -> None:
        """Prepare; nothing listens yet. A context has its certificate and ``set_alpn_protocols(["h2"])``."""
        self.methods, self.guard, self._ssl_context = methods, guard, ssl_context
        self.protocols: set[Http2Protocol] = set()
        self.scratch, self.changed = memoryview(bytearray(_SCRATCH_BYTES)), asyncio.Event()
        self._listeners, self.ports, self._turn = list[asyncio.Server](), list[int](), 0
        self.leaving: dict[Http2Protocol, None] = {}  # Idle ones that were told to go, the first one first.
        self.calm_ns = 0  # Until then new connections are not read.
        self._full_until_ns = 0  # Until then all connections are taken for busy.
        self._timer: Periodic | None = None

    async def start(self, addresses: Sequence[str]) -> None:
        """Listen on addresses ``host:port``, or raise BootError; port 0 is any, see ``ports``."""
        loop, tls = asyncio.get_running_loop(), self._ssl_context
        for address in addresses:
            host, _, port = address.rpartition(":")
            try:
                # "::" alone would be IPv6 only here, while to C-core it is every address of either kind.
                make = functools.partial(Http2Protocol, self)
                name = None if host in ("::", "[::]") else host.strip("[]")
                listener = await loop.create_server(make, name, int(port), reuse_port=True, ssl=tls)
            except (OSError, ValueError) as error:
                text = f"Failed to start gRPC server - at {address} - port is busy: {error}"
                raise BootError(text) from None
            self._listeners.append(listener)
            self.ports += [listening.getsockname()[1] for listening in listener.sockets]
        self._timer = Periodic(loop, "grpc.tick", lambda: _TICK_S / self._parts, self._tick)

    @property
    def _parts(self) -> int:
        """In how many turns all connections are looked at."""
        return 10 if len(self.protocols) > _FEW_CONNECTIONS else 1

    def has_room(self, now_ns: int) -> bool:
        """Whether there may be one more connection; if not, those that are idle for longest go."""
        most = self.guard.limits.max_connections
        if len(self.protocols) - len(self.leaving) < most:
            return True
        if now_ns < self._full_until_ns:
            return False
        ranked = [(rank, id(p), p) for p in self.protocols if (rank := p.idle_rank(now_ns)) is not None]
        # Several at once, as it takes a look at all of them.
        gone = [protocol for _, _, protocol in heapq.nsmallest(max(1, most // _PARTED_PART), ranked)]
        for protocol in gone:
            self.leaving[protocol] = None
            protocol.leave()
        while len(self.leaving) > max(1, most // _LEAVING_PART):
            first = next(iter(self.leaving))
            del self.leaving[first]
            self.protocols.discard(first)
            first.abort()
        if not gone:
            self._full_until_ns = now_ns + _FULL_NS
        form = "event=connection_limit most=%d closed_idle=%d (raise the limit of open files, or close idle channels)"
        _log.warning(form, most, len(gone))
        return bool(gone)

    def _tick(self) -> None:
        protocols, self._turn, parts = list(self.protocols), self._turn + 1, self._parts
        for index, protocol in enumerate(protocols[self._turn % parts :: parts], self._turn // parts):
            connection = protocol.connection  # Of thousands, idle ones wait for each tenth turn.
            if index % 10 == 0 or connection.streams or connection.drain_phase or not connection.is_settled:
                protocol.tick()

    async def stop(self, grace_s: float) -> None:
        """Accept no connection and let calls end, within the grace period; those that go on are told UNAVAILABLE."""
        for listener in self._listeners:
            listener.close()
        for within_s in (grace_s, _FAREWELL_S, _FAREWELL_S):
            try:
                async with asyncio.timeout(within_s):
                    while self.protocols:
                        for protocol in list(self.protocols):  # One may have been accepted just before.
                            protocol.drain()
                        self.changed.clear()
                        await self.changed.wait()
            except TimeoutError:
                for protocol in list(self.protocols):
                    protocol.stop()
        if self._timer is not None:
            self._timer.cancel()
