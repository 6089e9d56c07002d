# SPDX-License-Identifier: Apache-2.0
"""Timers, under a clock of the test's own."""

from __future__ import annotations

import pytest

from ovms_mp.manager.timers import Timers

from .fakes import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_nothing_to_wait_for(clock: Clock) -> None:
    timers = Timers(clock)
    timers.run_due()

    assert timers.seconds_to_next() is None


def test_calls_are_made_when_due_and_once(clock: Clock) -> None:
    timers, calls = Timers(clock), list[str]()
    timers.call_after(2.0, lambda: calls.append("b"))
    timers.call_at(clock.now + 1.0, lambda: calls.append("a"))
    assert timers.seconds_to_next() == 1.0
    timers.run_due()
    assert calls == []
    clock.now += 1.0
    timers.run_due()
    assert calls == ["a"]
    assert timers.seconds_to_next() == 1.0
    clock.now += 5.0
    assert timers.seconds_to_next() == 0.0
    timers.run_due()
    timers.run_due()

    assert calls == ["a", "b"]
    assert timers.seconds_to_next() is None


def test_what_is_due_together_is_called_in_order_of_its_moment_then_of_its_asking(clock: Clock) -> None:
    timers, calls = Timers(clock), list[int]()
    for name, moment in ((0, 5.0), (1, 3.0), (2, 5.0), (3, 3.0)):
        timers.call_at(clock.now + moment, lambda name=name: calls.append(name))  # type: ignore[misc]  # binds now
    clock.now += 10.0
    timers.run_due()

    assert calls == [1, 3, 0, 2]


def test_a_call_that_asks_for_itself_at_once_waits_for_the_next_turn(clock: Clock) -> None:
    timers, calls = Timers(clock), list[float]()

    def again() -> None:
        calls.append(clock.now)
        timers.call_after(0.0, again)

    again()
    timers.run_due()
    assert len(calls) == 2
    timers.run_due()

    assert len(calls) == 3


def test_a_call_that_raises_does_not_take_others_of_later_turns_with_it(clock: Clock) -> None:
    timers, calls = Timers(clock), list[str]()
    timers.call_after(1.0, lambda: calls.append("later"))
    timers.call_after(0.0, lambda: [][0])
    timers.call_after(0.0, lambda: calls.append("beside"))
    timers.run_due()
    assert calls == ["beside"]
    clock.now += 1.0
    timers.run_due()

    assert calls == ["beside", "later"]


def test_a_call_that_raises_is_made_again_a_few_times(clock: Clock) -> None:
    timers, calls = Timers(clock), list[float]()

    def fail() -> None:
        calls.append(clock.now)
        raise ValueError("why")

    timers.call_after(0.0, fail)
    for _ in range(20):
        timers.run_due()
        clock.now += 0.5

    assert calls == [1000.0, 1001.0, 1002.0, 1003.0, 1004.0]
    assert timers.seconds_to_next() is None


def test_a_periodic_call_goes_on_whether_or_not_it_raises(clock: Clock) -> None:
    timers, calls = Timers(clock), list[float]()

    def fail_each_second_time() -> None:
        calls.append(clock.now)
        if len(calls) % 2:
            raise ValueError("why")

    timers.call_every(1.0, fail_each_second_time)
    for _ in range(6):
        timers.run_due()
        clock.now += 0.5

    assert calls == [1000.0, 1001.0, 1002.0]
