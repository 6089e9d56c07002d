# SPDX-License-Identifier: Apache-2.0
"""Which limits in time of a connection are over. The server's ticks and sockets are in the integration tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ovms_mp.front.grpc.http2.deadlines import Deadlines, is_late
from ovms_mp.front.grpc.http2.limits import Limits
from tests.unit.front.grpc.http2.peer import SECOND, Peer, data, headers, reset

if TYPE_CHECKING:
    from collections.abc import Callable

LIMITS = Limits(
    handshake_timeout_s=10, message_timeout_s=20, idle_timeout_s=30, max_age_s=1000, age_grace_s=40
)


def watched(*, shakes_hands: bool = True) -> tuple[Peer, Deadlines, Callable[[float], None]]:
    """A connection, its deadlines, and how its time goes on."""
    peer = Peer(LIMITS, shakes_hands=shakes_hands)
    deadlines = Deadlines(peer.connection, peer.now_ns)

    def later(seconds: float) -> None:
        peer.now_ns += int(seconds * SECOND)
        peer.connection.now_ns = peer.now_ns
        deadlines.look()

    return peer, deadlines, later


@pytest.mark.parametrize(
    ("since_ns", "limit_s", "is_over"),
    [(None, 1.0, False), (0, 0.0, False), (0, 1.0, False), (0, 0.5, True), (SECOND // 2, 0.6, False)],
)
def test_what_has_not_begun_or_has_no_limit_is_never_late(
    since_ns: int | None, limit_s: float, is_over: bool
) -> None:
    assert is_late(since_ns, limit_s, SECOND) is is_over


def test_a_handshake_has_its_time() -> None:
    _, deadlines, later = watched(shakes_hands=False)

    looks = []
    for seconds in (9, 2):
        later(seconds)
        looks.append(deadlines.is_handshake_late)

    assert looks == [False, True]


def test_a_handshake_that_is_done_is_not_late() -> None:
    _, deadlines, later = watched()

    later(11)

    assert not deadlines.is_handshake_late


def test_a_frame_has_its_time_and_others_start_it_again() -> None:
    peer, deadlines, later = watched()
    later(50)
    peer.send(headers(end=False) + data(b"abc")[:-1])
    later(0)

    later(15)
    peer.send(b"c" + data(b"abc")[:-1])
    looks = []
    for seconds in (0, 15, 6):
        later(seconds)
        looks.append(deadlines.is_frame_late)

    assert looks == [False, False, True]


def test_a_connection_is_idle_from_its_last_call_on() -> None:
    peer, deadlines, later = watched()
    later(29)
    peer.send(headers(end=False))
    later(29)
    later(29)
    peer.send(reset(1))
    looks = []
    for seconds in (29, 2):
        later(seconds)
        looks.append(deadlines.is_old)

    assert looks == [False, True]


def test_a_call_since_the_last_look_is_no_idleness() -> None:
    peer, deadlines, later = watched()
    later(20)
    assert deadlines.idle_since_ns(peer.now_ns) == SECOND

    peer.send(headers() + reset(1))

    assert deadlines.idle_since_ns(peer.now_ns) == peer.now_ns


def test_a_drain_has_its_times() -> None:
    peer, deadlines, later = watched()
    later(100)
    looks = [(deadlines.is_drain_ping_late, deadlines.is_grace_over)]
    deadlines.drained_ns = peer.now_ns

    for seconds in (2, 39):
        later(seconds)
        looks.append((deadlines.is_drain_ping_late, deadlines.is_grace_over))

    assert looks == [(False, False), (True, False), (True, True)]
