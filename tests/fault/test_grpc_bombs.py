# SPDX-License-Identifier: Apache-2.0
"""Small requests that would cost much, on both gRPC fronts: refused as what they are, and nobody else notices.

Quiet turns and turns with a bomb alternate, so that what else the machine does falls on both.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest

from tests.fault.test_http2_attacks import MemoryWatch
from tests.support.grpc_bombs import BOMBS, GARBAGE, GOOD, answers, bomb, is_answered
from tests.support.http2_attacks import predict
from tests.support.http2_peer import PREDICT, STATUS, Attacker, block, data, message, opening, request_fields
from tests.support.server import Server
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.models import ModelZoo

FRONTS = ("native", "grpcio")
MAX_GROWTH_MIB = 64
MAX_SLOWER, LEAST_QUIET_P99_MS = 3, 25.0
"""The aim; the least p99 is for machines that others use as well."""
SHORT_SHARE = 0.02
OF_GRPCIO = {"an unknown encoding": (13,), "nothing": (5,)}
"""What grpcio decides before it asks us, or does not tell us: INTERNAL, and an empty request, which names no model."""
ANSWER_WITHIN_S = 20.0
PACE_S = 0.002


@pytest.fixture(scope="module", params=FRONTS)
def server(
    zoo: ModelZoo, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Server]:
    """One front of each kind; a static and a dynamic model."""
    directory = tmp_path_factory.mktemp("bombed")
    config = zoo.config_file(directory, ["tiny", "id_f32"])
    arguments = ["config", "--config_path", str(config), "--grpc_front", request.param]
    with Server(arguments, directory / "server.log") as started:
        yield started


@pytest.fixture(scope="module")
def bomber(server: Server) -> Iterator[Bomber]:
    """A process that throws bombs."""
    command = [sys.executable, "-m", "tests.support.grpc_bombs", str(server.port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Bomber(process)
        finally:
            process.kill()


class Bomber:
    """Throws bombs from another process, which is no hindrance to the client here."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._commands, self._answers = process.stdin, process.stdout

    def prepare(self, name: str, seconds: float) -> None:
        """Have a bomb made, and thrown from now on."""
        self._commands.write(f"{seconds} {name}\n")
        self._commands.flush()
        self._answers.readline()

    def heard(self) -> Counter[str]:
        """All answers to it."""
        found: dict[str, int] = json.loads(self._answers.readline())
        return Counter(found)


class Beside:
    """A client that asks a small request after the other and notes how long each took, by what else goes on."""

    def __init__(self, port: int) -> None:
        self.took_ms: dict[bool, list[float]] = {False: [], True: []}
        self.failures: list[str] = []
        self.is_attacked = False
        self._port = port
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Beside:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(30)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{self._port}") as channel:
            call = channel.unary_unary(PREDICT, None, None)
            call(predict("tiny", 10), timeout=10, wait_for_ready=True)
            while not self._stopping.wait(PACE_S):
                was_attacked, started = self.is_attacked, time.perf_counter()
                try:
                    call(predict("tiny", 10), timeout=10)
                except grpc.RpcError as error:
                    self.failures.append(f"{error.code().name}: {error.details()}")
                self.took_ms[was_attacked].append((time.perf_counter() - started) * 1e3)

    def p99_ms(self, *, attacked: bool) -> float:
        return float(np.percentile(self.took_ms[attacked], 99))


@pytest.mark.quiet
@pytest.mark.timeout(600)
def test_bombs_are_refused_and_others_do_not_notice(
    server: Server, bomber: Bomber, fault_seconds: float
) -> None:
    pids = server.pids("grpc")
    seconds = fault_seconds * SHORT_SHARE
    grown: dict[str, int] = {}
    wrong: dict[str, Counter[str]] = {}
    with Beside(server.port) as beside:
        for name in BOMBS:
            threading.Event().wait(seconds)
            with MemoryWatch(pids[0]) as memory:
                bomber.prepare(name, seconds)
                beside.is_attacked = True
                heard = bomber.heard()
                beside.is_attacked = False
            grown[name] = memory.peak_mib - memory.before_mib
            if set(heard) - {f"status {number}" for number in bomb(name).statuses}:
                wrong[name] = heard
    quiet_ms, beside_ms = beside.p99_ms(attacked=False), beside.p99_ms(attacked=True)
    print(  # noqa: T201  # the figures
        f"\np99 {quiet_ms:.1f} -> {beside_ms:.1f} ms (x{beside_ms / quiet_ms:.1f}), growth in MiB: {grown}, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    assert not wrong
    assert not beside.failures
    assert max(grown.values()) <= MAX_GROWTH_MIB, grown
    assert beside_ms <= MAX_SLOWER * max(quiet_ms, LEAST_QUIET_P99_MS)
    assert server.pids("grpc") == pids
    assert "Traceback" not in server.log()


@pytest.mark.parametrize("name", GARBAGE)
def test_packed_garbage_is_the_clients_fault(server: Server, name: str) -> None:
    heard = answers(server.port, GARBAGE[name])
    expected = GARBAGE[name].statuses
    if "grpcio" in server.arguments:
        expected = OF_GRPCIO.get(name, expected)
    assert set(heard) == {f"status {number}" for number in expected}


@pytest.mark.parametrize("name", GOOD)
def test_packed_requests_are_answered(server: Server, name: str) -> None:
    assert set(answers(server.port, GOOD[name], 2)) == {"status 0"}


def test_other_methods_read_short_requests_only(server: Server) -> None:
    """What makes many objects of few bytes is refused before it is read, packed or not."""
    fields = block(request_fields(STATUS))
    body = b"\x0a\x00" * 100_000
    reactions: Counter[str] = Counter()
    attacker = Attacker(server.port, reactions)
    pieces = [message(body)[at : at + 16_384] for at in range(0, 60_000, 16_384)]
    attacker.send(opening(1, fields=fields) + b"".join(data(piece, 1) for piece in pieces))
    rest = message(body)[65_536:]
    attacker.listen(0.2)
    if not is_answered(attacker):
        for at in range(0, len(rest), 16_384):
            attacker.send(data(rest[at : at + 16_384], 1, end=at + 16_384 >= len(rest)))
    eventually(functools.partial(is_answered, attacker), ANSWER_WITHIN_S, "an answer")
    attacker.close()
    assert "status 8" in reactions
