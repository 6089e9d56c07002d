# SPDX-License-Identifier: Apache-2.0
"""The gRPC layer of the native front without sockets or workers: methods that answer at once, and real sinks."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import time
from typing import TYPE_CHECKING, Any

from ovms_mp.errors import NoFreeSlot
from ovms_mp.front import inflate
from ovms_mp.front.call_context import CallContext
from ovms_mp.front.gathered import Gathered
from ovms_mp.front.grpc.http2.call import Call
from ovms_mp.front.grpc.http2.connection import Http2Connection
from ovms_mp.front.grpc.http2.faults import ErrorCode
from ovms_mp.front.grpc.http2.limits import Guard, Limits
from ovms_mp.front.infer.leases import Lease
from ovms_mp.front.methods import Streaming, Unary
from ovms_mp.front.protobuf.arena_sink import PlacedCall
from ovms_mp.front.tfs.protobuf.decode import decode_predict
from ovms_mp.front.tfs.protobuf.predict_sink import PredictSink
from ovms_mp.wire.allocator import ArenaAllocator
from tests.support.http2_peer import PREDICT, STATUS
from tests.support.protobuf_messages import values_of
from tests.unit.front.grpc.http2.peer import cut

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ovms_mp.front.infer.arrivals import Arrival

STREAM = "/test.Service/Stream"
"""A bidirectional method, which the real server lacks."""
DRAINS = -1
_ARENA_BYTES = 8 << 20
_LAST_TURNS = 12  # Of the loop: enough for every handler that can go on without further octets.
_LONGEST_TASK_S = 30.0
_TINY_STEP_BYTES, _TURN_EVERY = 50, 8  # A turn of the loop is a system call.
_SCRATCH_BYTES, _LEAST_WANTED = 4096, 1024  # Smaller than the transport's, so that small captures get there.


class InlineExecutor(concurrent.futures.ThreadPoolExecutor):
    """Runs what is submitted at once, so that with compressed messages, too, a seed means one course of events."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        """Run it."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class Bench:
    """Methods as the native front has them: Predict with a sink of real leases, a plain unary one, a streaming one."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._allocator = ArenaAllocator(_ARENA_BYTES)
        self._memory = memoryview(bytearray(_ARENA_BYTES))
        self.lent = self.unreleased = 0
        self.guard = Guard(limits if limits is not None else Limits(max_message_bytes=4 << 20))
        self.methods: dict[str, Unary | Streaming] = {
            PREDICT: Unary(
                PREDICT,
                self._predict,
                lambda size: PredictSink(size, self._lease, self._let_go, self._memory),
            ),
            STATUS: Unary(STATUS, self._echo),
            STREAM: Streaming(STREAM, self._stream),
        }

    def _lease(self, _sink: Arrival, size: int) -> Lease:
        offset = self._allocator.allocate(size)
        if offset is None:
            raise NoFreeSlot("the arena is full")
        self.lent += 1
        return Lease(offset, size)

    def _let_go(self, lease: Lease) -> None:
        self.lent -= 1
        self._allocator.release(lease.offset_bytes)

    async def _predict(self, request: Any, _context: CallContext) -> Gathered:  # Any: as Unary's handler
        call = request.call if isinstance(request, PlacedCall) else decode_predict(bytes(request))
        try:
            octets = b"".join(bytes(values_of(tensor)) for tensor in call.inputs.values())
        finally:
            if isinstance(request, PlacedCall):
                request.release()
        self.unreleased += 1
        return Gathered([octets[: 1 << 16], memoryview(octets)], self._released)

    def _released(self) -> None:
        self.unreleased -= 1

    async def _echo(self, request: Any, _context: CallContext) -> bytes:  # Any: as Unary's handler
        await asyncio.sleep(0)
        return bytes(request)

    async def _stream(self, call: Any, _context: CallContext) -> None:  # Any: as Streaming's handler
        async for piece in call:
            await call.send(piece)

    def connect(self, now_ns: int) -> Http2Connection:
        """A new connection; it is asked for output by the caller, so there is nothing to wake."""
        return Http2Connection(functools.partial(Call, self.methods, lambda: None, str), self.guard, now_ns)


def written(connection: Http2Connection) -> bytes:
    """Take all output as the owner of a socket would."""
    pieces: list[bytes] = []
    while connection.output.nbytes:
        chunks, releases = connection.output.take()
        pieces.append(b"".join(chunks))
        for release in releases:
            release()
        connection.output.pump()
    for release in connection.output.take()[1]:
        release()
    return b"".join(pieces)


async def replay(bench: Bench, steps: Sequence[tuple[bytes, int]]) -> bytes:
    """Send octets on a new connection, each step so many ns after the one before; what the server wrote.

    A step of DRAINS asks the client to leave first. Where a sink wants octets in its memory they are given there,
    as a socket would.

    Raises:
        AssertionError: Something is left when the connection has ended, or the output is no whole frames.
    """
    asyncio.get_running_loop().set_default_executor(InlineExecutor())
    inflate._unpacking = InlineExecutor()
    now_ns = time.monotonic_ns()
    connection = bench.connect(now_ns)
    output = bytearray()
    for index, (octets, later_ns) in enumerate(steps):
        if later_ns == DRAINS:
            connection.drain()
            later_ns = 0
        now_ns += later_ns
        _give(connection, memoryview(octets), now_ns)
        if later_ns:
            connection.regrant()
            for stream in list(connection.streams.values()):
                stream.tick(now_ns)
        if len(octets) > _TINY_STEP_BYTES or index % _TURN_EVERY == 0:
            await asyncio.sleep(0)
        output += written(connection)
    for _ in range(_LAST_TURNS):
        await asyncio.sleep(0)
        output += written(connection)
    connection.close(ErrorCode.NO_ERROR, "")
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    if tasks:
        _, hung = await asyncio.wait(tasks, timeout=_LONGEST_TASK_S)
        assert not hung, f"handlers that do not end: {hung}"
    output += written(connection)
    left = (
        len(connection.streams),
        bench.lent,
        bench.guard.held_bytes,
        connection.held_bytes,
        bench.unreleased,
    )
    assert left == (0, 0, 0, 0, 0), f"streams, leases, octets held, and of the connection, replies: {left}"
    cut(bytes(output))
    return bytes(output)


def _give(connection: Http2Connection, octets: memoryview, now_ns: int) -> None:
    """As the transport does: into a sink's memory where it wants at least so much, else through the parser."""
    while octets and not connection.is_closed:
        target = connection.wanted(_LEAST_WANTED)
        if target is None:
            connection.receive(octets[:_SCRATCH_BYTES], now_ns)
            octets = octets[_SCRATCH_BYTES:]
            continue
        size = min(len(target), len(octets))
        target[:size] = octets[:size]
        connection.advance(size, now_ns)
        octets = octets[size:]
