# SPDX-License-Identifier: Apache-2.0
"""When changes begin, and when who asked for them is answered."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from ovms_mp.errors import OvmsError, RegionExists
from ovms_mp.manager.changes.changes import Changes
from ovms_mp.manager.changes.course import Outcome
from ovms_mp.manager.changes.regions import MOST_REGIONS, Regions
from ovms_mp.manager.timers import Timers
from ovms_mp.wire.changes import (
    LoadNamed,
    RegionRecord,
    RegisterRegion,
    ReloadConfig,
    SetLog,
    UnloadNamed,
    UnregisterRegion,
)
from ovms_mp.wire.messages import StateChanged
from ovms_mp.wire.records import ErrorRecord
from tests.unit.manager.fakes import Clock

if TYPE_CHECKING:
    from ovms_mp.wire.changes import AnyChange


@dataclass
class PlayedSnapshots:
    """Fronts that apply what and when the test says."""

    epoch: int = 5
    applied_epoch: int = 5
    is_news: bool = False

    @property
    def covering_epoch(self) -> int:
        return self.epoch + self.is_news

    def behind(self, epoch: int) -> list[str]:
        return ["grpc-0.1"] if self.applied_epoch < epoch else []

    def publish(self) -> None:
        self.epoch += self.is_news
        self.is_news = False


@dataclass(eq=False)
class PlayedCourse:
    """A change that ends when the test says."""

    subject: str
    begun: list[PlayedCourse]
    result: Outcome | None = None
    error: OvmsError | None = None

    def begin(self) -> None:
        self.begun.append(self)
        if self.error is not None:
            raise self.error

    def outcome(self) -> Outcome | None:
        return self.result


@dataclass
class Desk:
    """Changes, and what has become of them."""

    clock: Clock = field(default_factory=Clock)
    snapshots: PlayedSnapshots = field(default_factory=PlayedSnapshots)
    begun: list[PlayedCourse] = field(default_factory=list)
    answers: dict[str, Outcome] = field(default_factory=dict)
    is_allowed: bool = True

    def __post_init__(self) -> None:
        self.timers = Timers(self.clock)
        self.regions = Regions()
        # Nobody reloads or loads here.
        nobody: Any = None
        self.changes = Changes(
            nobody,
            nobody,
            self.regions,
            nobody,
            nobody,
            self.snapshots,
            self.timers,
            self.clock,
            is_allowed=self.is_allowed,
        )

    def begin(self, title: str, course: PlayedCourse, within_s: float = 100.0) -> PlayedCourse:
        def answer(outcome: Outcome) -> None:
            assert title not in self.answers
            self.answers[title] = outcome

        self.changes.begin(title, course, self.clock.monotonic() + within_s, answer)
        return course

    def course(self, subject: str = "", error: OvmsError | None = None) -> PlayedCourse:
        return PlayedCourse(subject, self.begun, error=error)

    def turn(self) -> None:
        """What the manager's loop does."""
        self.timers.run_due()
        self.snapshots.publish()
        self.changes.advance()


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_the_answer_waits_until_every_front_has_applied_what_shows_it(desk: Desk) -> None:
    course = desk.begin("a", desk.course())
    assert desk.begun == [course]
    desk.turn()
    assert desk.answers == {}
    course.result = Outcome()
    desk.snapshots.is_news = True
    desk.turn()
    assert desk.answers == {}
    desk.snapshots.applied_epoch = 6
    desk.turn()
    assert desk.answers == {"a": Outcome()}
    desk.turn()


def test_what_changed_after_the_last_snapshot_of_a_turn_is_shown_by_the_next_one(desk: Desk) -> None:
    course = desk.begin("a", desk.course())
    desk.snapshots.publish()
    course.result = Outcome()
    desk.snapshots.is_news = True
    desk.changes.advance()
    assert desk.answers == {}
    assert desk.timers.seconds_to_next() == 0.0
    desk.turn()
    desk.snapshots.applied_epoch = 6
    desk.turn()
    assert set(desk.answers) == {"a"}


def test_what_shows_no_news_is_answered_at_once_if_all_fronts_are_up_to_date(desk: Desk) -> None:
    desk.begin("a", desk.course()).result = Outcome(is_changed=False)
    desk.turn()
    assert desk.answers == {"a": Outcome(is_changed=False)}


def test_changes_of_one_subject_come_one_after_another_and_others_do_not_wait(desk: Desk) -> None:
    first = desk.begin("first", desk.course("model m"))
    second = desk.begin("second", desk.course("model m"))
    third = desk.begin("third", desk.course("model m"))
    other = desk.begin("other", desk.course("model n"))
    free = desk.begin("free", desk.course())
    assert desk.begun == [first, other, free]
    first.result = Outcome()
    desk.snapshots.is_news = True
    desk.turn()
    assert desk.begun == [first, other, free], "the first has not been answered"
    desk.snapshots.applied_epoch = 6
    desk.turn()
    assert desk.begun == [first, other, free, second]
    second.result = Outcome()
    desk.turn()
    assert desk.begun[-1] is third


def test_a_front_that_hangs_holds_nothing_up_beyond_the_deadline(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    first = desk.begin("first", desk.course("model m"), within_s=3.0)
    first.result = Outcome()
    desk.snapshots.is_news = True
    second = desk.begin("second", desk.course("model m"), within_s=100.0)
    desk.turn()
    assert desk.timers.seconds_to_next() == 3.0
    desk.clock.now += 3.0
    desk.turn()
    assert desk.answers == {}, "its front waits no longer"
    desk.turn()
    assert desk.begun == [first, second]
    assert "what='first' waits_for=grpc-0.1" in caplog.text


def test_what_nobody_waits_for_any_more_is_not_begun(desk: Desk) -> None:
    desk.begin("first", desk.course("model m"), within_s=100.0)
    second = desk.begin("second", desk.course("model m"), within_s=1.0)
    desk.clock.now += 1.0
    desk.turn()
    desk.clock.now += 99.0
    desk.turn()
    assert second not in desk.begun


def test_one_timer_serves_all_deadlines(desk: Desk) -> None:
    courses = [desk.begin(str(index), desk.course(), within_s=50.0 + index) for index in range(100)]
    desk.turn()
    assert desk.timers.seconds_to_next() == 50.0
    for course in courses:
        course.result = Outcome()
    desk.turn()
    assert len(desk.answers) == 100
    desk.clock.now += 50.0
    desk.turn()
    assert desk.timers.seconds_to_next() is None


def test_a_change_that_cannot_begin_is_answered_with_the_reason(desk: Desk) -> None:
    desk.begin("a", desk.course(error=RegionExists("taken")))
    desk.turn()
    assert desk.answers == {"a": Outcome(is_changed=False, error=ErrorRecord("RegionExists", "taken"))}


def test_a_defect_fails_one_change(desk: Desk) -> None:
    class Broken(PlayedCourse):
        def outcome(self) -> Outcome | None:
            raise ZeroDivisionError

    desk.begin("broken", Broken("", desk.begun))
    desk.begin("sound", desk.course()).result = Outcome()
    desk.turn()
    assert desk.answers["sound"] == Outcome()
    error = desk.answers["broken"].error
    assert error is not None
    assert error.name == "OvmsError"


def test_so_many_changes_may_be_under_way_and_no_more(desk: Desk) -> None:
    for index in range(256):
        desk.begin(str(index), desk.course())
    desk.begin("one more", desk.course())
    desk.turn()
    error = desk.answers["one more"].error
    assert error is not None
    assert error.name == "TooManyChanges"
    assert "256 changes" in error.message


def region(name: str, key: str = "/k") -> RegionRecord:
    return RegionRecord(name, key, 0, 64, 1, 2)


def test_regions_are_registered_by_name_until_they_are_unregistered(desk: Desk) -> None:
    answers: list[StateChanged] = []

    def ask(change: RegisterRegion | UnregisterRegion) -> StateChanged:
        desk.changes.ask(change, desk.clock.monotonic() + 1.0, answers.append, len(answers))
        desk.turn()
        return answers[-1]

    assert ask(RegisterRegion(region("a"))).error is None
    assert ask(RegisterRegion(region("b"))).is_changed
    again = ask(RegisterRegion(region("a", "/other")))
    assert again.error is not None
    assert again.error.name == "RegionExists"
    assert "shared memory region 'a' already in manager" in again.error.message
    assert desk.regions.records() == (region("a"), region("b"))
    assert ask(UnregisterRegion("a")).is_changed
    assert not ask(UnregisterRegion("a")).is_changed
    assert ask(UnregisterRegion("a")).error is None
    assert desk.regions.records() == (region("b"),)
    ask(RegisterRegion(region("c")))
    assert ask(UnregisterRegion("")).is_changed
    assert desk.regions.records() == ()
    assert [answer.request_id for answer in answers] == list(range(len(answers)))


def test_there_is_an_end_to_regions() -> None:
    regions = Regions()
    for index in range(MOST_REGIONS):
        regions.register(region(str(index)))
    with pytest.raises(OvmsError, match=f"{MOST_REGIONS} shared memory regions are registered"):
        regions.register(region("one more"))
    regions.unregister("7")
    regions.register(region("one more"))
    with pytest.raises(OvmsError, match="name of 257 characters; at most 256"):
        regions.register(region("n" * 257))


def sealed(name: str, nbytes: int = 8) -> RegionRecord:
    descriptor = os.memfd_create("region")
    return RegionRecord(name, "memfd:1", 0, nbytes, 1, 1, descriptor)


def test_sealed_regions_are_their_owners_and_closed_when_they_go() -> None:
    before = len(os.listdir("/proc/self/fd"))
    regions = Regions(64)
    regions.register(region("a"))
    regions.register(sealed("b"), 1)
    regions.register(sealed("c"), 2)

    assert [record.name for record in regions.of(1)] == ["b"]
    regions.unregister("")
    assert [record.name for record in regions.records()] == ["b", "c"]
    regions.unregister("b")
    regions.unregister("c")
    assert regions.records() == ()
    assert len(os.listdir("/proc/self/fd")) == before


def test_there_is_an_end_to_sealed_regions() -> None:
    regions = Regions(64)
    regions.register(sealed("a", 32), 1)
    refused = sealed("b", 1)
    with pytest.raises(
        OvmsError, match=r"1 bytes more are too many: this connection's regions have 32 .* most 32"
    ):
        regions.register(refused, 1)
    regions.register(sealed("c", 32), 2)
    with pytest.raises(
        OvmsError, match=r"all clients' regions have 64 bytes of at most 64 .*--client_shm_limit_mb"
    ):
        regions.register(refused, 3)
    os.close(refused.descriptor)
    for name in ("a", "c"):
        regions.unregister(name)


def test_regions_say_when_fronts_must_hear_of_them() -> None:
    regions = Regions()
    news = [regions.is_changed]
    for step in (
        lambda: regions.register(region("a")),
        lambda: regions.note_snapshot(1),
        lambda: regions.unregister("b"),
        lambda: regions.unregister("a"),
    ):
        step()
        news.append(regions.is_changed)
    assert news == [False, True, False, False, True]


@pytest.mark.parametrize("change", [ReloadConfig(), LoadNamed("m"), UnloadNamed("m"), SetLog(info=False)])
def test_changes_can_be_switched_off(change: AnyChange) -> None:
    desk = Desk(is_allowed=False)
    answers: list[StateChanged] = []
    desk.changes.ask(change, desk.clock.monotonic() + 1.0, answers.append, 7)
    desk.turn()
    (answer,) = answers
    assert answer.error is not None
    assert answer.error.name == "ChangesNotAllowed"
    assert answer.error.message == (
        f"{change.title} is not allowed to clients of this server (--allow_client_changes false)"
    )
    # Regions have a flag of their own.
    desk.changes.ask(UnregisterRegion(""), desk.clock.monotonic() + 1.0, answers.append, 8)
    desk.turn()
    assert answers[-1] == StateChanged(8, is_changed=False, error=None)
