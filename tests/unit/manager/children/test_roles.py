# SPDX-License-Identifier: Apache-2.0
"""When a role is filled again, and when it is given up."""

from __future__ import annotations

import pytest

from ovms_mp.child.specs import ChildSpec
from ovms_mp.manager.children.child import Child, ChildState
from ovms_mp.manager.children.kinds import Kind
from ovms_mp.manager.children.roles import Role

from ..fakes import Clock


def no_spec(_child_id: str) -> ChildSpec:
    raise AssertionError("nothing is started here")


def role(pause_s: float = 0.0) -> Role:
    return Role("worker-0", Kind.WORKER, no_spec, (), pause_s=lambda: pause_s)


def dead(clock: Clock, status: int = -9, *, was_ready: bool = True, progress: int = 0) -> Child:
    child = Child("worker-0", "worker-0.1", Kind.WORKER, 2**22 + 1, -1, None, clock)
    child.to(ChildState.BOOTING)
    if was_ready:
        child.to(ChildState.READY)
    child.progress, child.status = progress, status
    return child


def test_each_process_has_an_id_of_its_own() -> None:
    one = role()

    assert [one.next_id(), one.next_id()] == ["worker-0.1", "worker-0.2"]


def test_one_that_has_served_is_replaced_at_once_and_quick_deaths_ever_later() -> None:
    clock, one = Clock(), role()
    assert one.died(dead(clock, progress=1), "killed", clock.now) == ""
    assert one.delay_s() == 0.0
    delays = []
    for _ in range(9):
        assert one.died(dead(clock), "killed", clock.now) == ""
        delays.append(one.delay_s())

    assert delays == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert one.died(dead(clock), "killed", clock.now + 2) == "", "it was ready for a while"
    assert one.delay_s() == 0.0


def test_a_pause_is_the_least_delay() -> None:
    clock, one = Clock(), role(pause_s=3.0)
    one.died(dead(clock, progress=1), "killed", clock.now)

    assert one.delay_s() == 3.0


def test_who_ends_with_a_code_before_it_is_ready_would_do_so_again() -> None:
    clock = Clock()

    assert (
        role()
        .died(dead(clock, 3, was_ready=False), "exit code 3", clock.now)
        .startswith("worker-0.1 could not start: exit code 3")
    )


def test_the_ninth_death_in_a_row_before_readiness_is_the_last() -> None:
    clock, one = Clock(), role()
    reasons = [one.died(dead(clock, was_ready=False), "killed", clock.now) for _ in range(9)]

    assert reasons[:8] == [""] * 8
    assert reasons[8] == "worker-0 died 9 times in a row before it was ready; the last one: killed"


@pytest.mark.parametrize("refusals", [8])
def test_a_system_that_spawns_nothing_is_asked_again_a_few_times(refusals: int) -> None:
    one = role()

    assert [one.spawn_failed() for _ in range(refusals + 1)] == [True] * refusals + [False]
