# SPDX-License-Identifier: Apache-2.0
"""Runs of DATA frames that go to sinks' places: by fewer steps, with the same effects as those without a place."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from ovms_mp.front.grpc.http2.limits import Limits
from tests.unit.front.grpc.http2.peer import PLACE_BYTES, Peer, changed, data, frame, headers, ping

if TYPE_CHECKING:
    from collections.abc import Callable

SMALL = Limits(stream_window_bytes=1000, connection_window_bytes=70_000, max_frame_bytes=16_384)
RESERVED = 1 << 31


def pieces(*sizes: int, stream: int = 1) -> bytes:
    """DATA frames whose octets tell their order."""
    return b"".join(data(bytes([65 + index % 26]) * size, stream) for index, size in enumerate(sizes))


def opened(stream: int = 1, *, length: int | None = None, path: str = "/placed") -> bytes:
    named = () if length is None else (("content-length", str(length)),)
    return headers(stream, (*changed((":path", path)), *named), end=False)


def over_after(looks: int) -> Callable[[], bool]:
    """A clock that is over after so many looks."""
    count = itertools.count(1)
    return lambda: next(count) > looks


@pytest.mark.parametrize(
    ("limits", "length", "octets"),
    [
        pytest.param(None, None, pieces(*[100] * 40), id="more frames than a run has"),
        pytest.param(SMALL, None, pieces(499) + pieces(1), id="exactly half of a window"),
        pytest.param(SMALL, None, pieces(*[90] * 30), id="windows that are given back again and again"),
        pytest.param(SMALL, None, pieces(400, 700), id="more than a stream's window"),
        pytest.param(
            Limits(connection_window_bytes=66_000), None, pieces(*[16_000] * 6), id="the connection's window"
        ),
        pytest.param(None, None, pieces(*[300_000] * 5), id="more octets than a run has"),
        pytest.param(None, 300, pieces(100, 100, 100), id="content-length"),
        pytest.param(None, 300, pieces(100, 100, 101), id="more than content-length"),
        pytest.param(None, 300, pieces(100, 100) + data(b"", end=True), id="less than content-length"),
        pytest.param(None, None, pieces(5) + pieces(0) + pieces(7), id="an empty frame"),
        pytest.param(None, None, frame(0, 0, RESERVED | 1, b"abc") + pieces(4), id="the reserved bit"),
        pytest.param(None, None, pieces(4) + pieces(4, stream=3), id="a stream that is not open"),
        pytest.param(None, None, pieces(4) + data(b"x", end=True) + pieces(4), id="behind the end"),
        pytest.param(None, None, pieces(4) + frame(0, 8, 1, b"\2ab\0\0") + pieces(4), id="padding"),
        pytest.param(None, None, pieces(4) + ping() + pieces(4), id="another frame between them"),
        pytest.param(None, None, pieces(4, 4)[:-3], id="a frame that is cut off"),
        pytest.param(Limits(max_frame_bytes=16_384), None, pieces(16_385), id="a frame that is too long"),
    ],
)
def test_frames_for_a_place_have_the_effects_of_others(
    limits: Limits | None, length: int | None, octets: bytes
) -> None:
    peers = {path: Peer(limits) for path in ("/placed", "/a")}

    for path, peer in peers.items():
        peer.send(opened(length=length, path=path))
        peer.written()
        peer.send(octets)

    placed, plain = peers["/placed"], peers["/a"]
    assert placed.written() == plain.written()
    assert placed.connection.fault == plain.connection.fault
    assert placed.connection.is_closed == plain.connection.is_closed
    assert placed.connection.frames_received == plain.connection.frames_received
    ours, theirs = placed.recorders[1], plain.recorders[1]
    assert ours.sink is not None
    assert ours.sink.finish() == theirs.body
    assert ours.missing == PLACE_BYTES - len(theirs.body)
    assert ours.receive_window.size == theirs.receive_window.size
    assert ours.is_remote_open == theirs.is_remote_open
    assert [event for event in plain.events if "data" not in event] == placed.events


def test_interleaved_streams_have_their_own_places() -> None:
    peer, octets = Peer(), {1: b"abcdef", 3: b"ABCDEF"}
    mixed = [data(octets[stream][n : n + 2], stream) for n in (0, 2, 4) for stream in (1, 3)]

    peer.send(opened(1) + opened(3) + b"".join(mixed))

    for stream, expected in octets.items():
        sink = peer.recorders[stream].sink
        assert sink is not None
        assert sink.finish() == expected


@pytest.mark.parametrize("looks", [0, 1, 3])
def test_each_turn_takes_something_and_none_is_lost(looks: int) -> None:
    peer, octets = Peer(), pieces(*[1000] * 100)
    peer.send(opened())

    peer.connection.receive(octets, peer.now_ns, over_after(looks))
    turns, filled = 1, [0]
    sink = peer.recorders[1].sink
    assert sink is not None
    while peer.connection.is_behind:
        assert sink.filled > filled[-1]
        filled.append(sink.filled)
        peer.connection.receive(b"", peer.now_ns, over_after(looks))
        turns += 1

    assert turns == -(-100 // (16 * (looks + 1)))
    assert len(sink.finish()) == 100_000
