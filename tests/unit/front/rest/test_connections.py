# SPDX-License-Identifier: Apache-2.0
"""How many connections a REST front has, and which one goes first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ovms_mp.front.budget import BodyBudget
from ovms_mp.front.rest.connections import Connections

if TYPE_CHECKING:
    from collections.abc import Iterable


class Played:
    """A connection that notes what becomes of it."""

    def __init__(self, stalls: str = "") -> None:
        self.end = ""
        self.stalls = stalls

    def check(self) -> str:
        return self.stalls

    def evict(self) -> None:
        self.end = "evicted"

    def turn_away(self) -> None:
        self.end = "turned away"


def full(count: int) -> tuple[Connections, list[Played]]:
    group = Connections(BodyBudget(0), 60.0, count)
    members = [Played() for _ in range(count)]
    for member in members:
        group.add(member)
    return group, members


def ends(members: Iterable[Played]) -> list[str]:
    return [member.end for member in members]


def test_the_longest_idle_goes_first() -> None:
    group, members = full(3)
    for member in (members[0], members[1]):
        group.is_busy(member)
    group.is_idle(members[0])

    for _ in range(2):
        group.add(Played())

    assert ends(members) == ["evicted", "", "evicted"]
    assert group.counts == {"idle_closed": 2}


def test_where_all_are_busy_the_new_one_is_turned_away() -> None:
    group, members = full(2)
    for member in members:
        group.is_busy(member)
    late = Played()
    group.add(late)

    assert ends([*members, late]) == ["", "", "turned away"]
    assert group.counts == {"turned_away": 1}


def test_one_that_ended_makes_room() -> None:
    group, members = full(2)
    group.remove(members[0])
    group.remove(members[0])
    group.is_idle(members[0])
    group.add(late := Played())

    assert ends([*members, late]) == ["", "", ""]


def test_what_is_done_to_many_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    group = Connections(BodyBudget(0), 60.0, 10_000)
    for _ in range(1000):
        group.add(Played("body_late"))
    for _ in range(10):
        group.sweep()

    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert lines[0] == "event=rest_clients_refused body_late=5000 connections=1000 limit=10000"
    assert group.counts == {"body_late": 10_000}


def test_the_limit_leaves_a_reserve() -> None:
    assert Connections(BodyBudget(0), 60.0).limit >= 1


def test_what_would_go_on_for_ever_is_ended_once_at_a_stop() -> None:
    group, _ = full(2)
    ended: list[str] = []
    group.at_stop.append(lambda: ended.append("streams"))
    group.stop()
    group.stop()

    assert ended == ["streams"]
