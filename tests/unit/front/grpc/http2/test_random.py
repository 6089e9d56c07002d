# SPDX-License-Identifier: Apache-2.0
"""Whatever octets come, nothing raises, what is written are whole frames, and what is held is bounded."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ovms_mp.front.grpc.http2.limits import Limits
from tests.unit.front.grpc.http2 import peer as wire
from tests.unit.front.grpc.http2.peer import Peer, cut

LIMITS = Limits(
    max_frame_bytes=16_384, stream_window_bytes=20_000, connection_window_bytes=80_000, max_streams=5
)
CAPTURE = [
    wire.settings((4, 100), (5, 20_000)),
    wire.headers(1, end=False),
    wire.data(b"x" * 50),
    wire.data(b"", end=True),
    wire.frame(1, 1, 3, wire.block()[:9]),
    wire.frame(9, 4, 3, wire.block()[9:]),
    wire.frame(1, 0x2D, 5, b"\x02" + bytes(5) + b"\x83\x86" + wire.literal(":path", "/b", 0x40) + b"\0\0"),
    wire.frame(1, 5, 7, b"\x83\x86\xbe"),
    wire.frame(0, 8, 3, b"\x03abc\0\0\0"),
    wire.window(0, 1000),
    wire.window(1, 1000),
    wire.ping(),
    wire.reset(5),
    wire.frame(2, 0, 1, bytes(5)),
    wire.frame(0xFA, 1, 2, b"unknown"),
    wire.frame(7, 0, 0, bytes(8)),
    wire.headers(9, wire.changed((":path", "/early")), end=False),
    wire.headers(11, wire.changed((":path", "/answer"))),
]
mutations = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255), st.sampled_from("rdi")), max_size=6)


def mutated(octets: bytes, changes: list[tuple[int, int, str]]) -> bytes:
    """Octets with some replaced, deleted or inserted."""
    result = bytearray(octets)
    for place, value, change in changes:
        position = place % (len(result) + 1)
        result[position : position + (change != "i")] = b"" if change == "d" else bytes((value,))
    return bytes(result)


@settings(max_examples=150, deadline=None)
@given(
    order=st.lists(st.sampled_from(CAPTURE), min_size=1, max_size=30),
    changes=mutations,
    cuts=st.lists(st.integers(1, 60), min_size=1),
)
def test_mutated_captures_never_raise(
    order: list[bytes], changes: list[tuple[int, int, str]], cuts: list[int]
) -> None:
    peer = Peer(LIMITS)
    octets, step = mutated(b"".join(order), changes), 0
    while octets:
        size = cuts[step % len(cuts)]
        peer.send(octets[:size])
        octets, step = octets[size:], step + 1
        for recorder in list(peer.connection.streams.values()):
            if not recorder.is_remote_open and not recorder.outbox:
                peer.connection.output.data(recorder, [b"y" * 70], peer.release)

    connection = peer.connection
    cut(peer.octets())
    assert len(connection._reader._tail) <= LIMITS.max_header_block_bytes + 9
    assert connection._reader._block.nbytes <= LIMITS.max_header_block_bytes
    assert len(connection.streams) <= LIMITS.max_streams
    assert set(connection.output.waiting) <= set(connection.streams)
    if connection.is_closed:
        assert not connection.streams


@settings(max_examples=100, deadline=None)
@given(octets=st.binary(max_size=400), begins_well=st.booleans())
def test_noise_never_raises(octets: bytes, begins_well: bool) -> None:
    peer = Peer(LIMITS, shakes_hands=begins_well)

    peer.send(octets)

    cut(peer.octets())


@settings(max_examples=100, deadline=None)
@given(order=st.permutations(CAPTURE), cuts=st.lists(st.integers(1, 40), min_size=1))
def test_how_octets_are_cut_changes_nothing(order: list[bytes], cuts: list[int]) -> None:
    whole, pieces = Peer(LIMITS), Peer(LIMITS)
    octets, step = b"".join(order), 0

    whole.send(octets)
    while octets:
        size = cuts[step % len(cuts)]
        pieces.send(octets[:size])
        octets, step = octets[size:], step + 1

    def told(peer: Peer) -> list[str]:
        return [event for event in peer.events if not event.startswith("data")]

    assert told(whole) == told(pieces)
    assert [r.body for r in whole.recorders.values()] == [r.body for r in pieces.recorders.values()]
    assert whole.octets() == pieces.octets()
