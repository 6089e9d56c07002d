# SPDX-License-Identifier: Apache-2.0
"""What the manager counts: ends, loads, fetches, and what processes take."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ovms_mp.child.process_use import Use, use_of
from ovms_mp.manager.children.child import Child
from ovms_mp.manager.children.kinds import Kind
from ovms_mp.manager.machine_use import Throttling, read_throttling
from ovms_mp.manager.tally import Tally
from ovms_mp.wire import process_counters as words
from ovms_mp.wire.counters import CounterRow
from ovms_mp.wire.messages import FetchDone
from ovms_mp.wire.process_counters import Cause, KindWord, Phase, process_words
from ovms_mp.wire.records import ErrorRecord
from ovms_mp.wire.stage_counters import STAGE_WORDS, reason_number
from tests.unit.manager.fakes import Clock

if TYPE_CHECKING:
    from collections.abc import Callable

WORKER, PROBE = words.KIND_NAMES.index("worker"), words.KIND_NAMES.index("probe")


class Scene:
    def __init__(self) -> None:
        row = CounterRow()
        self.clock, self.uses, self.words = Clock(), dict[int, Use](), process_words(row)
        self.throttling: Throttling | None = None
        self.tally = Tally(row, self.clock, self.uses.get, lambda: self.throttling, 2.0)

    def child(self, kind: Kind = Kind.WORKER, pid: int = 4711) -> Child:
        return Child("role", "child", kind, pid, -1, None, self.clock)

    def ends(self, kind: int, cause: Cause) -> int:
        return self.words[words.ENDS + kind * words.CAUSE_WORDS + cause]

    def of_kind(self, word: KindWord, kind: int = WORKER) -> int:
        return self.words[words.KINDS + kind * words.KIND_WORDS + word]

    def phase(self, phase: Phase) -> tuple[int, int]:
        """Count and sum."""
        found = self.words[words.PHASES + phase * STAGE_WORDS :][:STAGE_WORDS].tolist()
        return sum(found[:-1]), found[-1]


def crashed(child: Child) -> None:
    child.ready_at, child.status = 1.0, -signal.SIGSEGV


def refused(child: Child) -> None:
    child.ready_at, child.status = 1.0, 70


def stuck(child: Child) -> None:
    child.ready_at, child.status, child.killed_for = 1.0, -signal.SIGKILL, "it is stuck"


def never_ready(child: Child) -> None:
    child.status = 3


@pytest.mark.parametrize(
    ("happens", "cause"),
    [(crashed, Cause.SIGNAL), (refused, Cause.EXIT_CODE), (stuck, Cause.ENDED), (never_ready, Cause.BOOT)],
)
def test_deaths_have_causes(happens: Callable[[Child], None], cause: Cause) -> None:
    scene = Scene()
    child = scene.child()
    happens(child)
    scene.tally.died(child)

    assert [scene.ends(WORKER, each) for each in Cause] == [int(each is cause) for each in Cause]


def test_loads_and_trials_are_timed_by_what_processes_say() -> None:
    scene = Scene()
    for kind in (Kind.PROBE, Kind.WORKER):
        child = scene.child(kind)
        scene.clock.now += 1.0
        scene.tally.stage_begun(child.child_id, 1, "reading")
        scene.clock.now += 2.0
        scene.tally.stage_begun(child.child_id, 1, "first inference")
        scene.clock.now += 3.0
        scene.tally.load_ended(child, 1, has_failed=False)
        scene.tally.load_ended(child, 1, has_failed=False)  # An unload ends in the same message.

    assert scene.phase(Phase.TRIAL) == (1, 6 * 10**9)
    assert scene.phase(Phase.LOAD) == (1, 5 * 10**9)
    assert scene.phase(Phase.FIRST_RUN) == (2, 6 * 10**9)


def test_failures_are_no_observations() -> None:
    scene = Scene()
    child = scene.child()
    scene.tally.stage_begun(child.child_id, 1, "reading")
    scene.tally.load_ended(child, 1, has_failed=True)
    scene.tally.load_failed("ModelTooLarge")

    assert scene.phase(Phase.LOAD) == (0, 0)
    assert scene.words[words.LOAD_FAILURES + reason_number("ModelTooLarge")] == 1


def test_fetches() -> None:
    scene = Scene()
    scene.tally.fetched(FetchDone(1, (1,), 100, 0.1, (), None), 2.0)
    scene.tally.fetched(FetchDone(2, (1,), 0, 0.1, (), None), 2.0)
    scene.tally.fetched(FetchDone(3, (), 7, 0.1, (), ErrorRecord("StoreUnavailable", "away")), 1.0)

    assert [scene.words[word] for word in (words.FETCHES, words.FAILED_FETCHES, words.FETCHED_BYTES)] == [
        2,
        1,
        107,
    ]
    assert scene.phase(Phase.FETCH) == (2, 3 * 10**9)


def test_cpu_time_of_the_dead_stays() -> None:
    scene = Scene()
    scene.uses[1] = Use(1000, 10, 3, 5.0)
    scene.tally.look([scene.child(pid=1)], 0.5)
    scene.uses[1] = Use(1500, 10, 3, 6.0)
    scene.clock.now += 1.0
    scene.tally.look([scene.child(pid=1)], 0.5)
    assert scene.words[words.CPU_PERMILLE] == 250
    del scene.uses[1]
    scene.uses[2] = Use(200, 20, 4, 1.0)
    scene.tally.look([scene.child(pid=1), scene.child(pid=2)], 0.25)

    assert scene.of_kind(KindWord.CPU_MS) == 1700
    assert scene.of_kind(KindWord.PROCESSES) == 1
    assert (scene.of_kind(KindWord.RESIDENT_BYTES), scene.of_kind(KindWord.DESCRIPTORS)) == (20, 4)
    assert scene.words[words.LONGEST_TURN_NS] == 250_000_000


def test_throttling_is_shown_where_there_is_a_quota() -> None:
    scene = Scene()
    scene.tally.look([], 0.0)
    assert not scene.words[words.HAS_THROTTLING]
    scene.throttling = Throttling(10, 2, 3000)
    scene.tally.look([], 0.0)

    assert scene.words[words.HAS_THROTTLING]
    assert [scene.words[words.PERIODS + index] for index in range(3)] == [10, 2, 3000]


def test_what_this_process_takes() -> None:
    use = use_of(os.getpid())
    assert use is not None
    assert use.resident_bytes > 1 << 20
    assert use.descriptors > 2
    assert use.age_s > 0


def test_who_has_gone_takes_nothing(tmp_path: Path) -> None:
    assert use_of(1, tmp_path) is None


@pytest.mark.parametrize(
    ("groups", "place", "text", "found"),
    [
        (
            "0::/a/b",
            "sys/fs/cgroup/a/b",
            "usage_usec 9\nnr_periods 5\nnr_throttled 2\nthrottled_usec 77\n",
            Throttling(5, 2, 77),
        ),
        (
            "0::/\n4:cpu,cpuacct:/x",
            "sys/fs/cgroup/cpu",
            "nr_periods 5\nnr_throttled 2\nthrottled_time 77000\n",
            Throttling(5, 2, 77),
        ),
        ("0::/", "sys/fs/cgroup", "usage_usec 9\n", None),
        ("", "sys/fs/cgroup", "", None),
    ],
)
def test_cpu_stat(tmp_path: Path, groups: str, place: str, text: str, found: Throttling | None) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(groups)
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "cpu.stat").write_text(text)

    assert read_throttling(tmp_path) == found
