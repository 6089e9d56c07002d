# SPDX-License-Identifier: Apache-2.0
"""SIGTERM under load with 64 calls in flight on 16 connections of the native front: no call is lost.

``--fault-seconds 60 -o faulthandler_timeout=0`` is the full run of 50 rounds; faulthandler itself would crash there,
looking at 64 threads that go on running.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.support.http2_attacks import TINY, predict
from tests.support.http2_peer import PREDICT, data, frame, opening, settings
from tests.support.server import Server, free_ports
from tests.support.waiting import eventually
from tests.unit.front.grpc.http2.peer import PREFACE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.support.models import ModelZoo

CONNECTIONS, CALLS_EACH = 16, 4
HUNG_AFTER_S = 60.0
PAUSE_S = 0.05
FULL_ROUNDS, FULL_SECONDS = 50, 60.0
NO_ERROR = 0
OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
)


@pytest.fixture
def rounds(fault_seconds: float) -> int:
    """How many stops."""
    return max(2, round(FULL_ROUNDS * min(1.0, fault_seconds / FULL_SECONDS) ** 2))


def native_server(zoo: ModelZoo, log_path: Path, port: int = 0) -> Server:
    arguments = ["model", "--model_name", "tiny", "--model_path", str(zoo.base_path("tiny"))]
    server = Server([*arguments, "--grpc_front", "native"], log_path)
    if port:
        server.port, server.rest_port = port, free_ports(1)[0]
    return server


@dataclass
class Tally:
    """What became of the calls of all raw connections."""

    answered: int = 0
    not_processed: int = 0
    faults: list[str] = field(default_factory=list)


class RawClient:
    """A connection with four calls in flight at any time, which knows of each what became of it."""

    def __init__(self, port: int, tally: Tally) -> None:
        self._port, self._tally = port, tally
        self._open: set[int] = set()
        self._next, self._last_id = 1, -1
        self._goaways: list[tuple[int, int]] = []

    async def run(self) -> None:
        """Call until the server says goodbye and ends; judge every call."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(PREFACE + settings() + frame(4, 1) + b"".join(self._call() for _ in range(CALLS_EACH)))
        try:
            while True:
                head = await reader.readexactly(9)
                payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
                writer.write(self._on_frame(head[3], head[4], int.from_bytes(head[5:], "big"), payload))
        except asyncio.IncompleteReadError as end:
            if end.partial:
                self._tally.faults.append("cut off within a frame")
        except OSError as error:
            self._tally.faults.append(f"broken: {error!r} after {self._goaways}")
        finally:
            writer.close()
        self._judge()

    def _call(self) -> bytes:
        stream = self._next
        self._next += 2
        self._open.add(stream)
        return opening(stream) + data(TINY, stream, end=True)

    def _on_frame(self, kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        """What to send in answer to a frame."""
        if kind == 7:
            self._goaways.append((int.from_bytes(payload[:4], "big"), int.from_bytes(payload[4:8], "big")))
        elif kind == 6 and not flags & 1:
            return frame(6, 1, 0, payload)
        elif kind == 3:
            self._tally.faults.append(f"stream {stream} was reset: {payload.hex()}")
        elif kind == 0 and payload:
            return frame(8, 0, 0, len(payload).to_bytes(4, "big"))
        elif kind == 1 and flags & 1:
            self._open.remove(stream)
            self._tally.answered += 1
            if b"\x0bgrpc-status\x010" not in payload:
                self._tally.faults.append(f"stream {stream} was refused: {payload!r}")
            # Until the last word a client may open further calls, and this one does so.
            return self._call() if len(self._goaways) < 2 else b""
        return b""

    def _judge(self) -> None:
        tally = self._tally
        if [code for _, code in self._goaways] != [NO_ERROR] * 2 or self._goaways[0][0] != 0x7FFFFFFF:
            tally.faults.append(f"not the two GOAWAY of a drain: {self._goaways}")
            return
        lost = [stream for stream in self._open if stream <= self._goaways[1][0]]
        if lost:
            tally.faults.append(f"lost: {lost}, though GOAWAY named {self._goaways[1][0]}")
        tally.not_processed += len(self._open) - len(lost)


@pytest.mark.timeout(1800)
def test_every_call_before_the_last_goaway_is_answered(zoo: ModelZoo, log_path: Path, rounds: int) -> None:
    async def load(server: Server, tally: Tally) -> int:
        clients = [asyncio.create_task(RawClient(server.port, tally).run()) for _ in range(CONNECTIONS)]
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, lambda: eventually(lambda: tally.answered > 500, 30.0, "under load"))
        code = await loop.run_in_executor(None, server.stop)
        await asyncio.wait_for(asyncio.gather(*clients), HUNG_AFTER_S)
        return code

    answered = 0
    for number in range(rounds):
        tally = Tally()
        with native_server(zoo, log_path.parent / f"server-{number}.log") as server:
            assert asyncio.run(load(server, tally)) == 0, server.log()
            assert not tally.faults, f"round {number}: {tally}\n{server.log()}"
        answered += tally.answered
    assert answered > 500 * rounds


class GrpcioLoad:
    """16 channels of grpcio with four callers each; a failed call is noted.

    They keep the server busy around its drain; while another one starts, each pauses between its calls.
    """

    def __init__(self, ports: Sequence[int], *, waits: bool) -> None:
        self._address = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
        self._waits = waits
        self._stopping = threading.Event()
        self._pause_s = PAUSE_S
        self.counts: Counter[str] = Counter()
        self.slowest_s = 0.0
        self._lock = threading.Lock()
        self._channels: list[grpc.Channel] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> GrpcioLoad:
        for _ in range(CONNECTIONS):
            channel = grpc.insecure_channel(self._address, options=OPTIONS)
            self._channels.append(channel)
            self._threads += [
                threading.Thread(target=self._ask, args=(channel,), daemon=True) for _ in range(CALLS_EACH)
            ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(HUNG_AFTER_S)
            assert not thread.is_alive()
        for channel in self._channels:
            channel.close()

    @contextlib.contextmanager
    def without_pauses(self) -> Iterator[None]:
        """Each caller has its next call on the way as soon as one is answered."""
        self._pause_s = 0.0
        yield
        self._pause_s = PAUSE_S

    def answered(self) -> int:
        """Right answers so far."""
        with self._lock:
            return self.counts["OK"]

    def failures(self) -> dict[str, int]:
        """All other ends so far."""
        with self._lock:
            return {what: count for what, count in self.counts.items() if what != "OK"}

    def _ask(self, channel: grpc.Channel) -> None:
        call, request = channel.unary_unary(PREDICT, None, None), predict("tiny", 10)
        while not self._stopping.wait(self._pause_s):
            started = time.monotonic()
            try:
                call(request, timeout=HUNG_AFTER_S, wait_for_ready=self._waits)
                what = "OK"
            except grpc.RpcError as error:
                what = f"{error.code().name}: {error.details()}"
            with self._lock:
                self.counts[what] += 1
                self.slowest_s = max(self.slowest_s, time.monotonic() - started)


@pytest.fixture
def relay(zoo: ModelZoo, log_path: Path) -> Iterator[list[Server]]:
    """Servers that follow one another on one port; those still there at the end are stopped."""
    servers: list[Server] = []
    yield servers
    for server in servers:
        if server.process.poll() is None:
            assert server.stop() == 0, server.log()


def _succeed(relay: list[Server], zoo: ModelZoo, log_path: Path, port: int) -> Server:
    server = native_server(zoo, log_path.parent / f"server-{len(relay)}.log", port)
    relay.append(server)
    return server.__enter__()


@pytest.mark.timeout(1800)
def test_clients_move_to_a_server_that_is_reachable(
    zoo: ModelZoo, log_path: Path, rounds: int, relay: list[Server]
) -> None:
    """Two addresses, of which always one is served: nobody waits for readiness, and nobody sees an error."""
    ports = free_ports(2)
    serving = _succeed(relay, zoo, log_path, ports[0])
    with GrpcioLoad(ports, waits=False) as load:
        for number in range(rounds):
            successor = _succeed(relay, zoo, log_path, ports[(number + 1) % 2])
            with load.without_pauses():
                _expect_answers(load, "under load")
                assert serving.stop() == 0, serving.log()
                serving = successor
                _expect_answers(load, "answered by the successor")
            assert not load.failures(), f"round {number}: {load.failures()}"


@pytest.mark.timeout(1800)
def test_clients_wait_for_a_server_that_starts_again(
    zoo: ModelZoo, log_path: Path, rounds: int, relay: list[Server]
) -> None:
    """One address: between two servers clients wait for one, and nobody sees an error."""
    port = free_ports(1)[0]
    serving = _succeed(relay, zoo, log_path, port)
    with GrpcioLoad([port], waits=True) as load:
        for number in range(rounds):
            with load.without_pauses():
                _expect_answers(load, "under load")
                assert serving.stop() == 0, serving.log()
            serving = _succeed(relay, zoo, log_path, port)
            _expect_answers(load, "answered by the next server")
            assert not load.failures(), f"round {number}: {load.failures()}"


def _expect_answers(load: GrpcioLoad, what: str) -> None:
    enough = load.answered() + 300
    eventually(lambda: load.answered() > enough, 30.0, what)
