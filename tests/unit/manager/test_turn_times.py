# SPDX-License-Identifier: Apache-2.0
"""The longest turn is remembered for a while, and then forgotten."""

from __future__ import annotations

from ovms_mp.manager.turn_times import TurnTimes

from .fakes import Clock


def test_the_longest_turn_of_the_last_minute() -> None:
    clock = Clock()
    times = TurnTimes(clock)

    def turn(seconds: float) -> None:
        began_at = clock.monotonic()
        clock.pass_time(seconds)
        times.note(began_at)

    assert times.longest_s() == 0.0
    turn(0.5)
    turn(0.25)
    assert times.longest_s() == 0.5
    clock.pass_time(30.0)
    turn(0.25)
    assert times.longest_s() == 0.5, "of the half minute before"
    clock.pass_time(30.0)
    turn(0.125)
    assert times.longest_s() == 0.25
    clock.pass_time(90.0)
    assert times.longest_s() == 0.0
