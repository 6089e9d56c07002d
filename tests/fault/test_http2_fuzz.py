# SPDX-License-Identifier: Apache-2.0
"""What real clients have sent, mutated frame by frame: no crash, no hang, nothing left, and the next client is served.

A failure names its seed: ``replay`` of ``mutated(random.Random(SEED))`` is the same again.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import select
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import psutil
import pytest

from ovms_mp.front.grpc.http2.limits import RATES, Limits
from tests.support.http2_attacks import predict
from tests.support.http2_bench import DRAINS, Bench, replay
from tests.support.http2_peer import PREDICT
from tests.support.server import Server
from tests.unit.front.grpc.http2.peer import PREFACE, frame

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.models import ModelZoo

CAPTURES = {
    path.stem: path.read_bytes()
    for path in sorted((Path(__file__).parents[1] / "data" / "http2_captures").iterdir())
}
LONGEST_CPU_S, LONGEST_WAIT_S = 5, 60  # For an iteration; the machine may be busy with others.
CHECK_EVERY = 500
WARM_UP = 600
LEAST_KINDS_OF_HITS = 5
MAX_GROWTH_OBJECTS, MAX_GROWTH_BYTES = 3000, 24 << 20
SECOND_NS = 1_000_000_000

TIGHT = Limits(
    max_message_bytes=40_000,
    max_streams=3,
    max_frame_bytes=16_384,
    stream_window_bytes=70_000,
    connection_window_bytes=70_000,
    connection_buffer_bytes=20_000,
    process_buffer_bytes=30_000,
    max_header_list_bytes=400,
    max_header_block_bytes=1000,
    max_continuations=2,
    max_settings=16,
    max_output_bytes=10_000,
    rates=dict.fromkeys(RATES, 4),
)
"""So low that mutated captures meet them."""

Frame = tuple[int, int, int, bytes]
Steps = list[tuple[bytes, int]]


def frames_of(octets: bytes, preface: bytes = PREFACE) -> list[Frame]:
    """A capture's frames behind its preface."""
    assert octets.startswith(preface)
    at, found = len(preface), []
    while at < len(octets):
        size = int.from_bytes(octets[at : at + 3], "big")
        stream = int.from_bytes(octets[at + 5 : at + 9], "big")
        found.append((octets[at + 3], octets[at + 4], stream, octets[at + 9 : at + 9 + size]))
        at += 9 + size
    return found


def answers_of(octets: bytes) -> dict[int, list[tuple[int, bytes]]]:
    """What the server said on each stream, however it was cut into frames.

    Calls whose messages are unpacked in a thread end in any order, and then other calls have a window for their answer.
    """
    found: dict[int, list[tuple[int, bytes]]] = {}
    for kind, _, stream, payload in frames_of(octets, b""):
        said = found.setdefault(stream, [])
        if said and kind == said[-1][0] == 0:
            said[-1] = (kind, said[-1][1] + payload)
        elif stream and (kind or payload):
            said.append((kind, payload))
    return found


FRAMES = {name: frames_of(octets) for name, octets in CAPTURES.items()}
ALL_FRAMES = [one for frames in FRAMES.values() for one in frames]
NUMBERS = (0, 1, 2, 3, 5, 7, 0x7FFFFFFF, 0xFFFFFFFF, 16_384, 65_535)


def _number(rng: random.Random) -> int:
    return rng.choice(NUMBERS) if rng.random() < 0.7 else rng.randrange(1 << 32)


def _flipped(rng: random.Random, payload: bytes) -> bytes:
    result = bytearray(payload)
    for _ in range(rng.randint(1, 4) if result else 0):
        result[rng.randrange(len(result))] ^= 1 << rng.randrange(8)
    return bytes(result)


def _cut(rng: random.Random, payload: bytes) -> bytes:
    at = rng.randint(0, len(payload))
    return (
        payload[:at]
        if rng.random() < 0.5
        else payload[:at] + rng.randbytes(rng.randint(0, 20)) + payload[at:]
    )


def _made(rng: random.Random) -> Frame:
    kind = rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, rng.randrange(256)))
    payload = {
        3: _number(rng).to_bytes(4, "big"),
        4: b"".join(
            rng.randint(0, 8).to_bytes(2, "big") + _number(rng).to_bytes(4, "big")
            for _ in range(rng.randint(0, 4))
        ),
        6: rng.randbytes(8),
        8: _number(rng).to_bytes(4, "big"),
    }.get(kind, rng.randbytes(rng.randint(0, 40)))
    return kind, rng.randrange(256), rng.choice((0, 1, 3, 5, 7, 9, 11, 2)), payload


def _change(rng: random.Random, frames: list[Frame]) -> None:
    """Change a frame or the order."""
    at = rng.randrange(len(frames))
    kind, flags, stream, payload = frames[at]
    what = rng.randrange(10)
    if what == 0:
        del frames[at]
        frames[at:at] = [] if frames else [(kind, flags, stream, payload)]
    elif what == 1:
        frames.insert(rng.randint(0, len(frames)), frames[at])
    elif what == 2:
        other = rng.randrange(len(frames))
        frames[at], frames[other] = frames[other], frames[at]
    elif what == 3:
        frames.insert(at, rng.choice(ALL_FRAMES))
    elif what == 4:
        frames.insert(at, _made(rng))
    else:
        frames[at] = (
            rng.randrange(11) if what == 5 else kind,
            flags ^ (1 << rng.randrange(8)) if what == 6 else flags,
            rng.choice((0, 1, 2, 3, 5, 99, 0x7FFFFFFF, 0x80000001)) if what == 7 else stream,
            _flipped(rng, payload) if what == 8 else _cut(rng, payload) if what == 9 else payload,
        )


def mutated(rng: random.Random) -> bytes:
    """A capture with some changes."""
    frames = list(FRAMES[rng.choice(sorted(FRAMES))])
    for _ in range(rng.choice((0, 1, 1, 2, 3, 5, 10, 30))):
        _change(rng, frames)
    octets = bytearray(PREFACE)
    for kind, flags, stream, payload in frames:
        length = _number(rng) & 0xFFFFFF if rng.random() < 0.004 else len(payload)
        octets += frame(kind, flags, stream, payload, length)
    if rng.random() < 0.1:
        octets = bytearray(_flipped(rng, bytes(octets)))
    return bytes(octets)


def steps_of(rng: random.Random) -> Steps:
    """Mutated octets in pieces, with time passing now and then, and perhaps a drain."""
    octets, steps = mutated(rng), []
    longest = rng.choice((3, 50, 1000, 1 << 20))
    octets = octets[: 600 * longest]
    pauses_ns = rng.choice(((0,), (0,), (SECOND_NS // 10, SECOND_NS), (70 * SECOND_NS,)))
    while octets:
        size = rng.randint(1, longest)
        later_ns = rng.choice(pauses_ns) if rng.random() < 0.05 else 0
        steps.append((octets[:size], DRAINS if rng.random() < 0.01 else later_ns))
        octets = octets[size:]
    return steps


@contextlib.contextmanager
def bounded(seed: int) -> Iterator[None]:
    """Fail an iteration that does not end, wherever it is."""

    def give_up(_number: int, _stack: object) -> None:
        raise AssertionError(f"seed {seed}: hangs")

    timers = {signal.ITIMER_PROF: LONGEST_CPU_S, signal.ITIMER_REAL: LONGEST_WAIT_S}
    before = [signal.signal(number, give_up) for number in (signal.SIGPROF, signal.SIGALRM)]
    try:
        for timer, seconds in timers.items():
            signal.setitimer(timer, seconds)
        yield
    except Exception as error:
        raise AssertionError(f"seed {seed}") from error
    finally:
        for timer in timers:
            signal.setitimer(timer, 0)
        for number, handler in zip((signal.SIGPROF, signal.SIGALRM), before, strict=True):
            signal.signal(number, handler)


def test_captures_are_served() -> None:
    """The captures as they are: else the fuzzing would try nothing but refusals."""

    async def served() -> dict[str, int]:
        bench = Bench()
        found = {}
        for name, octets in CAPTURES.items():
            output = await replay(bench, [(octets, 0)])
            found[name] = output.count(b"\x0bgrpc-status\x010")
        assert not bench.guard.counters.total()
        return found

    assert asyncio.run(served()) == {
        "grpcio": 7,
        "grpcio_gzip": 7,
        "grpcio_streams": 1,
        "h2_library": 2,
        "h2load": 12,
    }


@pytest.mark.timeout(1200)
def test_mutated_captures_leave_nothing_behind(fault_seconds: float) -> None:
    first_seed = random.SystemRandom().randrange(1 << 40)
    iterations = asyncio.run(_fuzz(first_seed, fault_seconds))
    assert iterations > WARM_UP


async def _fuzz(first_seed: int, seconds: float) -> int:
    benches, seed, process = (Bench(), Bench(TIGHT)), first_seed, psutil.Process()
    until, slowest_s, sizes = time.monotonic() + seconds, 0.0, (0, 0)
    pristine = {
        name: answers_of(await replay(benches[0], [(octets, 0)])) for name, octets in CAPTURES.items()
    }
    while time.monotonic() < until or seed - first_seed <= WARM_UP:
        started = time.process_time()
        with bounded(seed):
            await replay(benches[seed % 2], steps_of(random.Random(seed)))
        slowest_s = max(slowest_s, time.process_time() - started)
        seed += 1
        if (seed - first_seed) % CHECK_EVERY == 0:
            for name, octets in CAPTURES.items():
                answer = answers_of(await replay(benches[0], [(octets, 0)]))
                assert answer == pristine[name], f"seed {seed}: {name}"
        if seed - first_seed == WARM_UP:
            gc.collect()
            sizes = len(gc.get_objects()), process.memory_info().rss
    gc.collect()
    growth = len(gc.get_objects()) - sizes[0], process.memory_info().rss - sizes[1]
    hits = {hit.name: count for bench in benches for hit, count in bench.guard.counters.items() if count}
    print(  # noqa: T201  # pytest -s shows it
        f"{seed - first_seed} iterations, slowest {slowest_s:.3f} s of CPU, growth {growth} objects, bytes; {hits}"
    )
    assert growth[0] < MAX_GROWTH_OBJECTS, growth
    assert growth[1] < MAX_GROWTH_BYTES, growth
    assert len(hits) >= LEAST_KINDS_OF_HITS, f"the mutations hit almost nothing: {hits}"
    return seed - first_seed


@pytest.mark.timeout(1200)
def test_a_real_server_outlives_mutated_captures(zoo: ModelZoo, log_path: Path, fault_seconds: float) -> None:
    config = zoo.config_file(log_path.parent, ["tiny", "id_f32"])
    seed = random.SystemRandom().randrange(1 << 40)
    with Server(["config", "--config_path", str(config), "--grpc_front", "native"], log_path) as server:
        pids = server.all_pids()
        until, count = time.monotonic() + fault_seconds / 2, 0
        while time.monotonic() < until or count < 20:
            octets = mutated(random.Random(seed + count))
            count += 1
            assert _hostile_connection(server.port, octets), f"seed {seed + count - 1}: not even a greeting"
            if count % 20 == 0:
                _ask(server.port)
        _ask(server.port)
        assert server.all_pids() == pids
        assert "Traceback" not in server.log(), server.log()
    print(f"{count} connections from seed {seed}")  # noqa: T201  # pytest -s shows it


def _hostile_connection(port: int, octets: bytes) -> bytes:
    """Send all and leave once nothing more comes; what the server said."""
    said = b""
    with socket.create_connection(("127.0.0.1", port), timeout=LONGEST_WAIT_S) as link:
        try:
            link.sendall(octets)
            while select.select([link], [], [], 0.05 if said else LONGEST_WAIT_S)[0]:
                piece = link.recv(1 << 16)
                said += piece
                if not piece:
                    break
        except (ConnectionResetError, BrokenPipeError):
            return said or b"reset"
    return said


def _ask(port: int) -> None:
    with grpc.insecure_channel(
        f"127.0.0.1:{port}", options=(("grpc.use_local_subchannel_pool", 1),)
    ) as channel:
        for name, elements in (("tiny", 10), ("id_f32", 50_000)):
            answer = channel.unary_unary(PREDICT, None, None)(predict(name, elements), timeout=10)
            assert len(answer) > 4 * elements
