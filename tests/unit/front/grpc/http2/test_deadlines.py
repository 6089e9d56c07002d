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
    peer, deadlines, later = watched(shakes_hands=False)

    later(9)
    assert not deadlines.is_handshake_late
    later(2)
    assert deadlines.is_handshake_late

    peer = Peer(LIMITS)
    peer.connection.now_ns += 11 * SECOND
    assert not Deadlines(peer.connection, SECOND).is_handshake_late


def test_a_frame_has_its_time_and_others_start_it_again() -> None:
    peer, deadlines, later = watched()
    later(50)
    peer.send(headers(end=False) + data(b"abc")[:-1])
    later(0)

    later(15)
    peer.send(b"c" + data(b"abc")[:-1])
    later(0)
    later(15)
    assert not deadlines.is_frame_late
    later(6)

    assert deadlines.is_frame_late


def test_a_connection_is_idle_from_its_last_call_on() -> None:
    peer, deadlines, later = watched()
    later(29)
    peer.send(headers(end=False))
    later(29)
    later(29)
    peer.send(reset(1))
    later(29)
    assert not deadlines.is_old
    later(2)

    assert deadlines.is_old


def test_a_call_since_the_last_look_is_no_idleness() -> None:
    peer, deadlines, later = watched()
    later(20)
    assert deadlines.idle_since_ns(peer.now_ns) == SECOND

    peer.send(headers() + reset(1))

    assert deadlines.idle_since_ns(peer.now_ns) == peer.now_ns


def test_a_drain_has_its_times() -> None:
    peer, deadlines, later = watched()
    later(100)
    assert not deadlines.is_drain_ping_late
    deadlines.drained_ns = peer.now_ns

    later(2)
    assert deadlines.is_drain_ping_late
    assert not deadlines.is_grace_over
    later(39)

    assert deadlines.is_grace_over
