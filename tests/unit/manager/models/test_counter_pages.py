# SPDX-License-Identifier: Apache-2.0
"""Which version has which page of counters, and when another one gets it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ovms_mp.manager.models.counter_pages import CounterPages
from ovms_mp.wire.counters import PAGES

from ..world import World, put, remove

if TYPE_CHECKING:
    from pathlib import Path

    from ..fakes import Clock


class Room:
    """Pages, and which were cleared."""

    def __init__(self) -> None:
        self.cleared: list[int] = []
        self.fails = False
        self.pages = CounterPages(self.clear)

    def clear(self, page: int) -> None:
        if self.fails:
            raise OSError("no")
        self.cleared.append(page)


def test_a_page_is_given_again_when_all_fronts_have_applied_a_snapshot_without_it() -> None:
    room = Room()
    assert [room.pages.take() for _ in range(3)] == [1, 2, 3]
    room.pages.give_back(2, 7)
    room.pages.give_back(1, 9)
    room.pages.fronts_applied(6)
    assert room.cleared == []
    room.pages.fronts_applied(7)
    assert room.cleared == [2]
    room.pages.fronts_applied(20)
    assert room.cleared == [2, 1]
    rest = [room.pages.take() for _ in range(PAGES - 2)]
    assert rest == [*range(4, PAGES), 2, 1]


def test_without_a_page_a_version_is_not_counted(caplog: pytest.LogCaptureFixture) -> None:
    room = Room()
    taken = [room.pages.take() for _ in range(PAGES + 1)]
    assert taken == [*range(1, PAGES), 0, 0]
    assert [record.getMessage() for record in caplog.records] == [
        "event=not_counted counters are kept for 4095 versions at once"
    ]
    room.pages.give_back(0, 1)
    room.pages.give_back(5, 1)
    room.pages.fronts_applied(1)
    assert [room.pages.take(), room.pages.take()] == [5, 0]


def test_a_page_that_cannot_be_cleared_is_not_given_again() -> None:
    room = Room()
    assert room.pages.take() == 1
    room.fails = True
    room.pages.give_back(1, 1)
    room.pages.fronts_applied(1)
    assert 1 not in [room.pages.take() for _ in range(PAGES - 2)]


def pages_of(world: World) -> dict[int, int]:
    return {number: record.counters for number, record in world.versions().items()}


def test_reloads_keep_a_version_s_page(base: Path, clock: Clock) -> None:
    world = World.serving(base, clock)
    assert pages_of(world) == {1: 1}
    put(base, 1, content=b"other")
    world.turn()
    world.turn(is_asked=True)
    message = world.load()
    assert message.counters == 1
    world.answer(message.handle)
    world.turn()
    world.end_unloads()
    assert pages_of(world) == {1: 1}
    assert world.cleared == []


def test_a_version_that_has_ended_gives_its_page_back_and_begins_anew(base: Path, clock: Clock) -> None:
    world = World.serving(base, clock)
    put(base, 2)
    assert world.serve().counters == 2
    assert pages_of(world) == {1: 1, 2: 2}
    assert world.cleared == []
    world.end_unloads()
    assert pages_of(world) == {1: 0, 2: 2}
    assert world.cleared == [1]
    remove(base, 2)
    assert world.serve().counters == 3
    assert pages_of(world) == {1: 3, 2: 2}
