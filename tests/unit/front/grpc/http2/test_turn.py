# SPDX-License-Identifier: Apache-2.0
"""How long a connection's turn lasts. Sockets and time are in the integration tests."""

from __future__ import annotations

import pytest

from ovms_mp.front.grpc.http2.turn import Turn

MS_NS = 1_000_000


class Clock:
    """Time that a test moves."""

    now_ns = 10**12

    def __call__(self) -> int:
        return self.now_ns


@pytest.mark.parametrize(
    ("connections", "taken_ns", "is_over"),
    [
        (1, MS_NS, False),
        (1, 5 * MS_NS, True),
        (2, MS_NS // 10, False),
        (2, MS_NS, True),
    ],
)
def test_a_turn_is_longer_while_there_is_nobody_else(connections: int, taken_ns: int, is_over: bool) -> None:
    clock = Clock()
    turn = Turn(range(connections), clock)
    turn.begin_read()

    clock.now_ns += taken_ns

    assert turn.is_over() is is_over


def test_reads_that_follow_each_other_are_one_turn() -> None:
    clock = Clock()
    turn = Turn(range(2), clock)
    for _ in range(3):
        turn.begin_read()
        clock.now_ns += MS_NS // 10
        assert turn.end_read(has_more=True) == MS_NS // 10

    turn.begin_read()

    assert turn.is_over()


@pytest.mark.parametrize("ends_by_itself", [True, False])
def test_a_turn_that_others_followed_does_not_count(ends_by_itself: bool) -> None:
    clock = Clock()
    turn = Turn(range(2), clock)
    turn.begin_read()
    clock.now_ns += MS_NS
    turn.end_read(has_more=not ends_by_itself)
    if not ends_by_itself:
        turn.begin_again()

    turn.begin_read()

    assert not turn.is_over()
