# SPDX-License-Identifier: Apache-2.0
"""The planner: named cases, its rules on any input, and what becomes of a model that obeys it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovms_mp.manager.planner import Known, Plan, plan
from ovms_mp.model.status import State
from ovms_mp.model.versions import All, Latest, Specific, VersionPolicy, desired_versions

NOW = 100.0
SERVED = Known(State.AVAILABLE)
LOADING = Known(State.LOADING)
GOING = Known(State.UNLOADING)
GONE = Known(State.END)
FAILED = Known(State.LOADING, has_failed=True, retry_at=NOW + 5)
DUE = Known(State.LOADING, has_failed=True, retry_at=NOW)
NEWEST = Latest(1)
ONLY_3 = Specific(frozenset({3}))


@dataclass(frozen=True)
class Case:
    """A situation and the plan for it."""

    available: set[int]
    known: dict[int, Known]
    policy: VersionPolicy = NEWEST
    load: tuple[int, ...] = ()
    unload: tuple[int, ...] = ()
    forget: tuple[int, ...] = ()
    retry: float | None = None


CASES = {
    "nothing there": Case(set(), {}),
    "first version": Case({1}, {}, load=(1,)),
    "only the newest of several": Case({1, 2, 3}, {}, load=(3,)),
    "latest two": Case({1, 2, 3}, {}, Latest(2), load=(2, 3)),
    "all": Case({1, 2, 3}, {}, All(), load=(1, 2, 3)),
    "specific, of which one exists": Case({1, 3}, {}, Specific(frozenset({3, 4})), load=(3,)),
    "specific, of which none exists": Case({1, 2}, {}, ONLY_3),
    "satisfied": Case({1, 2}, {2: SERVED}),
    "loading is not loaded twice": Case({1}, {1: LOADING}),
    "a newer one appears: load it, keep the old one": Case({1, 2}, {1: SERVED}, load=(2,)),
    "the newer one is loading: keep the old one": Case({1, 2}, {1: SERVED, 2: LOADING}),
    "the newer one is served: the old one goes": Case({1, 2}, {1: SERVED, 2: SERVED}, unload=(1,)),
    "the newer one has failed: keep the old one": Case({1, 2}, {1: SERVED, 2: FAILED}, retry=NOW + 5),
    "the newer one is tried again": Case({1, 2}, {1: SERVED, 2: DUE}, load=(2,)),
    "the newest has failed first: fall back": Case({1, 2}, {2: FAILED}, load=(1,), retry=NOW + 5),
    "the fallback was never needed": Case({1, 2}, {1: LOADING, 2: SERVED}),
    "a fallback of latest two": Case({1, 2, 3}, {2: SERVED, 3: FAILED}, Latest(2), load=(1,), retry=NOW + 5),
    "specific has no fallback": Case({2, 3}, {3: FAILED}, ONLY_3, retry=NOW + 5),
    "gone from disk": Case(set(), {1: SERVED}, unload=(1,)),
    "gone from disk before its successor is served": Case({2}, {1: SERVED, 2: LOADING}, unload=(1,)),
    "gone from disk while loading: wait for the outcome": Case(set(), {1: LOADING}),
    "gone from disk after it failed": Case(set(), {1: FAILED}, forget=(1,)),
    "gone from disk before it was begun": Case(set(), {1: Known(State.START)}, forget=(1,)),
    "a failed one that is not wanted any more": Case({1, 2}, {1: FAILED, 2: SERVED}, forget=(1,)),
    "the newest is gone: the next lower one is loaded": Case(
        {1}, {1: GONE, 2: SERVED}, load=(1,), unload=(2,)
    ),
    "an old one comes back": Case({1}, {1: GONE}, load=(1,)),
    "an old one comes back, but a newer one is served": Case({1, 2}, {1: GONE, 2: SERVED}),
    "back on disk before it has ended": Case({1}, {1: GOING}),
    "on its way out": Case(set(), {1: GOING}),
    "two leave when both successors are served": Case(
        {1, 2, 3, 4}, {1: SERVED, 2: SERVED, 3: SERVED, 4: SERVED}, Latest(2), unload=(1, 2)
    ),
    "two stay until both successors are served": Case(
        {1, 2, 3, 4}, {1: SERVED, 2: SERVED, 3: SERVED, 4: LOADING}, Latest(2)
    ),
    "all: only what left the disk goes": Case({1, 3}, {1: SERVED, 2: SERVED, 3: SERVED}, All(), unload=(2,)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_case(case: Case) -> None:
    decided = plan(case.available, case.policy, case.known, NOW)

    assert decided == Plan(case.load, case.unload, case.forget, case.retry)


@pytest.mark.parametrize(("retry_at", "is_due"), [(NOW + 0.001, False), (NOW, True), (NOW - 1, True)])
def test_a_failed_load_is_tried_again_only_when_its_time_has_come(retry_at: float, is_due: bool) -> None:
    decided = plan({1}, Latest(1), {1: Known(State.LOADING, has_failed=True, retry_at=retry_at)}, NOW)

    assert decided.load == ((1,) if is_due else ())
    assert decided.next_retry_at == (None if is_due else retry_at)


# Rules that hold whatever is given.

VERSIONS = st.integers(1, 5)
KNOWN = st.one_of(
    st.sampled_from(State).map(Known),
    st.floats(NOW - 10, NOW + 10).map(lambda moment: Known(State.LOADING, has_failed=True, retry_at=moment)),
)
POLICIES: st.SearchStrategy[VersionPolicy] = st.one_of(
    st.builds(Latest, st.integers(1, 3)),
    st.just(All()),
    st.builds(Specific, st.frozensets(VERSIONS, min_size=1)),
)
SITUATIONS = st.tuples(st.sets(VERSIONS), POLICIES, st.dictionaries(VERSIONS, KNOWN))
Situation = tuple[set[int], VersionPolicy, dict[int, Known]]


@given(situation=SITUATIONS)
def test_loads_are_of_what_is_on_disk_and_not_there_yet(situation: Situation) -> None:
    available, policy, known = situation
    decided = plan(available, policy, known, NOW)

    assert list(decided.load) == sorted(set(decided.load))
    assert set(decided.load) <= available
    for version in decided.load:
        entry = known.get(version)
        assert entry is None or entry.state is State.END or (entry.has_failed and entry.retry_at <= NOW)


@given(situation=SITUATIONS)
def test_everything_wanted_is_loaded_or_underway_or_waits_for_its_retry(situation: Situation) -> None:
    available, policy, known = situation
    decided = plan(available, policy, known, NOW)
    failed = {version for version, entry in known.items() if entry.has_failed}
    # What would be served if just it loaded after all is hoped for, too.
    hoped = {entry for entry in failed if entry in desired_versions(available - (failed - {entry}), policy)}
    waiting = []
    for version in {
        *desired_versions(available, policy),
        *desired_versions(available - failed, policy),
        *hoped,
    }:
        assert version not in decided.unload
        assert version not in decided.forget
        entry = known.get(version)
        if entry is None or entry.state is State.END or (entry.has_failed and entry.retry_at <= NOW):
            assert version in decided.load
        elif entry.has_failed:
            waiting.append(entry.retry_at)
    assert decided.next_retry_at == min(waiting, default=None)


@given(situation=SITUATIONS)
def test_nothing_on_disk_is_taken_away_before_its_replacement_is_available(situation: Situation) -> None:
    available, policy, known = situation
    decided = plan(available, policy, known, NOW)
    failed = {version for version, entry in known.items() if entry.has_failed}
    replacements = desired_versions(available - failed, policy)

    assert list(decided.unload) == sorted(set(decided.unload))
    for version in decided.unload:
        assert known[version].state is State.AVAILABLE
        if version in available:
            assert all(known.get(other) == SERVED for other in replacements)
            assert not set(replacements) & set(decided.unload)


@given(situation=SITUATIONS)
def test_only_what_no_worker_has_is_forgotten(situation: Situation) -> None:
    available, policy, known = situation
    decided = plan(available, policy, known, NOW)

    assert list(decided.forget) == sorted(set(decided.forget))
    for version in decided.forget:
        assert known[version].has_failed or known[version].state is State.START
    assert not set(decided.forget) & set(decided.unload)
    assert not set(decided.forget) & set(decided.load)


# What becomes of a model that obeys the plans.


class World:
    """Carries plans out; loads of some versions fail."""

    def __init__(
        self, available: set[int], policy: VersionPolicy, known: dict[int, Known], broken: set[int]
    ) -> None:
        self.available, self.policy, self.known, self.broken = available, policy, dict(known), broken
        self.now = NOW
        self.underway: deque[int] = deque(
            version for version, entry in known.items() if entry.state in (State.LOADING, State.UNLOADING)
        )

    def available_on_disk(self) -> set[int]:
        return {
            version
            for version, entry in self.known.items()
            if entry.state is State.AVAILABLE and version in self.available
        }

    def obey(self) -> Plan:
        decided = plan(self.available, self.policy, self.known, self.now)
        for version in decided.load:
            self.known[version] = LOADING
            self.underway.append(version)
        for version in decided.unload:
            self.known[version] = GOING
            self.underway.append(version)
        for version in decided.forget:
            self.known[version] = GONE
        return decided

    def finish_one(self) -> bool:
        """The oldest action ends."""
        if not self.underway:
            return False
        version = self.underway.popleft()
        entry = self.known[version]
        if entry.state is State.UNLOADING:
            self.known[version] = GONE
        elif entry == LOADING:
            is_broken = version in self.broken or version not in self.available
            self.known[version] = Known(State.LOADING, True, self.now + 5) if is_broken else SERVED
        return True


RESTING = st.dictionaries(VERSIONS, st.sampled_from([SERVED, LOADING, GOING, GONE, DUE]))


@given(
    available=st.sets(VERSIONS),
    policy=POLICIES,
    known=RESTING,
    broken=st.sets(VERSIONS, max_size=1),
    rush=st.lists(st.booleans()),
)
def test_it_settles_on_the_best_that_can_be_served(
    available: set[int], policy: VersionPolicy, known: dict[int, Known], broken: set[int], rush: list[bool]
) -> None:
    # What is served already is not broken.
    broken -= {version for version, entry in known.items() if entry is SERVED}
    world = World(available, policy, known, broken)
    turns = iter(rush)
    for _ in range(60):
        before = world.available_on_disk()
        decided = world.obey()
        after = world.available_on_disk()
        if before and not after:
            # Only a policy that never wanted what was served may leave nothing.
            assert isinstance(policy, Specific)
            assert not before & policy.versions
        if next(turns, True) and not world.finish_one() and decided.load == ():
            break
    else:
        pytest.fail("never settles")

    served = {version for version, entry in world.known.items() if entry.state is State.AVAILABLE}
    assert served == set(desired_versions(available - broken, policy))
    assert world.obey() == replace(decided, load=(), unload=(), forget=())
    wanted_but_broken = set(desired_versions(available, policy)) & broken
    assert (decided.next_retry_at is None) == (not wanted_but_broken)


@given(available=st.sets(VERSIONS, min_size=1), policy=POLICIES)
def test_a_mended_version_is_served_after_its_back_off(available: set[int], policy: VersionPolicy) -> None:
    wanted = set(desired_versions(available, policy))
    world = World(available, policy, dict.fromkeys(wanted, FAILED), set())
    world.obey()
    while world.finish_one():
        world.obey()
    world.now += 5
    for _ in range(12):
        world.obey()
        world.finish_one()

    assert world.available_on_disk() == wanted
