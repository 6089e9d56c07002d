# SPDX-License-Identifier: Apache-2.0
"""What is decided: named cases, its rules on any input, and what becomes of a model that obeys it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovms_mp.manager.models.decision import Decision, Known, decide
from ovms_mp.model.status import State
from ovms_mp.model.versions import All, Latest, Specific, VersionPolicy, desired_versions

NOW = 100.0
SERVED = Known(State.AVAILABLE)
LOADING = Known(State.LOADING)
GOING = Known(State.UNLOADING)
GONE = Known(State.END)
FAILED = Known(State.LOADING, has_failed=True, retry_at=NOW + 5)
DUE = Known(State.LOADING, has_failed=True, retry_at=NOW)
STARTED = Known(State.START)
OLD = Known(State.AVAILABLE, is_outdated=True)
OLD_LATER = Known(State.AVAILABLE, is_outdated=True, retry_at=NOW + 5)
NEWEST = Latest(1)
ONLY_3 = Specific(frozenset({3}))


@dataclass(frozen=True)
class Case:
    """A situation and what is decided in it."""

    available: set[int]
    known: dict[int, Known]
    policy: VersionPolicy = NEWEST
    load: tuple[int, ...] = ()
    replace: tuple[int, ...] = ()
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
    "the fallback was never needed": Case({1, 2}, {1: LOADING, 2: SERVED}, forget=(1,)),
    "the fallback is on its way and the newest too: both go on": Case({1, 2}, {1: LOADING, 2: LOADING}),
    "a fallback of latest two": Case({1, 2, 3}, {2: SERVED, 3: FAILED}, Latest(2), load=(1,), retry=NOW + 5),
    "specific has no fallback": Case({2, 3}, {3: FAILED}, ONLY_3, retry=NOW + 5),
    "gone from disk": Case(set(), {1: SERVED}, unload=(1,)),
    "gone from disk before its successor is served: what is in memory serves on": Case(
        {2}, {1: SERVED, 2: LOADING}
    ),
    "gone from disk, and its successor has failed": Case(
        {2}, {1: SERVED, 2: FAILED}, unload=(1,), retry=NOW + 5
    ),
    "gone from disk, its worker dead: nothing to serve on with": Case(
        {2}, {1: LOADING, 2: LOADING}, forget=(1,)
    ),
    "gone from disk while loading": Case(set(), {1: LOADING}, forget=(1,)),
    "gone from disk after it failed": Case(set(), {1: FAILED}, forget=(1,)),
    "gone from disk before it was begun": Case(set(), {1: Known(State.START)}, forget=(1,)),
    "a failed one that is not wanted any more": Case({1, 2}, {1: FAILED, 2: SERVED}, forget=(1,)),
    "the newest is gone: the next lower one is loaded first": Case({1}, {1: GONE, 2: SERVED}, load=(1,)),
    "the newest is gone, the next lower one is served": Case({1}, {1: SERVED, 2: SERVED}, unload=(2,)),
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
    "all: what left the disk serves until the rest does": Case({1}, {1: LOADING, 2: SERVED}, All()),
    "known, and nothing is on its way for it": Case({1}, {1: STARTED}, load=(1,)),
    "started, but a newer one has come": Case({1, 2}, {1: STARTED, 2: LOADING}, forget=(1,)),
    "its settings are not today's: replaced beside itself": Case({1}, {1: OLD}, replace=(1,)),
    "its replacement failed a moment ago": Case({1}, {1: OLD_LATER}, retry=NOW + 5),
    "outdated, and its worker is dead: what serves comes back first": Case(
        {1}, {1: Known(State.LOADING, is_outdated=True)}
    ),
    "outdated, but a newer one is coming: not worth it": Case({1, 2}, {1: OLD, 2: LOADING}),
    "outdated below a newer one that serves": Case({1, 2}, {1: OLD, 2: SERVED}, unload=(1,)),
    "outdated, and the fallback of one that failed": Case(
        {1, 2}, {1: OLD, 2: FAILED}, replace=(1,), retry=NOW + 5
    ),
    "outdated and gone from disk": Case(set(), {1: OLD}, unload=(1,)),
    "all outdated": Case({1, 2}, {1: OLD, 2: OLD_LATER}, All(), replace=(1,), retry=NOW + 5),
    "outdated, on its way out": Case({1}, {1: Known(State.UNLOADING, is_outdated=True)}),
    "the policy asks for an older one: loaded before the newer one goes": Case(
        {2, 3}, {3: SERVED}, Specific(frozenset({2})), load=(2,)
    ),
    "the policy asks for an older one, which is served": Case(
        {2, 3}, {2: SERVED, 3: SERVED}, Specific(frozenset({2})), unload=(3,)
    ),
    "the policy asks for an older one, which has failed": Case(
        {2, 3}, {2: FAILED, 3: SERVED}, Specific(frozenset({2})), unload=(3,), retry=NOW + 5
    ),
    "the earliest of several retries": Case(
        {1, 2}, {1: replace(FAILED, retry_at=NOW + 3), 2: FAILED}, All(), retry=NOW + 3
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_case(case: Case) -> None:
    decided = decide(case.available, case.policy, case.known, NOW)

    assert decided == Decision(case.load, case.replace, case.unload, case.forget, case.retry)


@pytest.mark.parametrize(("retry_at", "is_due"), [(NOW + 0.001, False), (NOW, True), (NOW - 1, True)])
def test_a_failed_load_is_tried_again_only_when_its_time_has_come(retry_at: float, is_due: bool) -> None:
    decided = decide({1}, Latest(1), {1: Known(State.LOADING, has_failed=True, retry_at=retry_at)}, NOW)

    assert decided.load == ((1,) if is_due else ())
    assert decided.next_retry_at == (None if is_due else retry_at)


# Rules that hold whatever is given.

VERSIONS = st.integers(1, 5)
KNOWN = st.one_of(
    st.sampled_from(State).map(Known),
    st.floats(NOW - 10, NOW + 10).map(lambda moment: Known(State.LOADING, has_failed=True, retry_at=moment)),
    st.floats(NOW - 10, NOW + 10).map(
        lambda moment: Known(State.AVAILABLE, is_outdated=True, retry_at=moment)
    ),
)
POLICIES: st.SearchStrategy[VersionPolicy] = st.one_of(
    st.builds(Latest, st.integers(1, 3)),
    st.just(All()),
    st.builds(Specific, st.frozensets(VERSIONS, min_size=1)),
)
SITUATIONS = st.tuples(st.sets(VERSIONS), POLICIES, st.dictionaries(VERSIONS, KNOWN))
Situation = tuple[set[int], VersionPolicy, dict[int, Known]]


def failed_of(known: dict[int, Known]) -> set[int]:
    return {version for version, entry in known.items() if entry.has_failed}


def is_lacking(entry: Known | None) -> bool:
    """Whether nothing is on its way for a version, and nothing serves."""
    return entry is None or entry.has_failed or entry.state in (State.START, State.END)


@given(situation=SITUATIONS)
def test_loads_are_of_what_is_on_disk_and_not_there_yet(situation: Situation) -> None:
    available, policy, known = situation
    decided = decide(available, policy, known, NOW)

    assert list(decided.load) == sorted(set(decided.load))
    assert set(decided.load) <= available
    for version in decided.load:
        entry = known.get(version)
        assert is_lacking(entry)
        assert entry is None or entry.retry_at <= NOW


@given(situation=SITUATIONS)
def test_replaced_is_what_serves_on_disk_with_something_that_is_not_todays(situation: Situation) -> None:
    available, policy, known = situation
    decided = decide(available, policy, known, NOW)

    assert list(decided.replace) == sorted(set(decided.replace))
    assert set(decided.replace) <= available
    for version in decided.replace:
        entry = known[version]
        assert entry.state is State.AVAILABLE
        assert entry.is_outdated
        assert entry.retry_at <= NOW


@given(situation=SITUATIONS)
def test_everything_wanted_is_loaded_or_underway_or_waits_for_its_retry(situation: Situation) -> None:
    available, policy, known = situation
    decided = decide(available, policy, known, NOW)
    failed = failed_of(known)
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
        is_outdated = entry is not None and entry.state is State.AVAILABLE and entry.is_outdated
        if entry is not None and entry.retry_at > NOW and (is_lacking(entry) or is_outdated):
            waiting.append(entry.retry_at)
        elif is_lacking(entry):
            assert version in decided.load
        elif is_outdated:
            assert version in decided.replace
    assert decided.next_retry_at == min(waiting, default=None)


@given(situation=SITUATIONS)
def test_nothing_is_taken_away_before_what_should_serve_is_available(situation: Situation) -> None:
    available, policy, known = situation
    decided = decide(available, policy, known, NOW)
    replacements = desired_versions(available - failed_of(known), policy)

    assert list(decided.unload) == sorted(set(decided.unload))
    for version in decided.unload:
        assert known[version].state is State.AVAILABLE
        assert all(other in known and known[other].state is State.AVAILABLE for other in replacements)
        assert not set(replacements) & set(decided.unload)


@given(situation=SITUATIONS)
def test_what_was_served_before_its_worker_died_is_not_dropped_before_its_replacement_is_available(
    situation: Situation,
) -> None:
    # It is LOADING without an error then, like what is on its way for the first time.
    available, policy, known = situation
    decided = decide(available, policy, known, NOW)
    replacements = desired_versions(available - failed_of(known), policy)

    for version in decided.forget:
        entry = known[version]
        if version in available and entry.state is State.LOADING and not entry.has_failed:
            assert all(other in known and known[other].state is State.AVAILABLE for other in replacements)


@given(situation=SITUATIONS)
def test_only_what_does_not_serve_is_forgotten_and_never_twice(situation: Situation) -> None:
    available, policy, known = situation
    decided = decide(available, policy, known, NOW)

    assert list(decided.forget) == sorted(set(decided.forget))
    for version in decided.forget:
        assert known[version].state in (State.START, State.LOADING)


@given(situation=SITUATIONS)
def test_no_version_gets_two_orders_at_once(situation: Situation) -> None:
    available, policy, known = situation
    decided = decide(available, policy, known, NOW)
    orders = [*decided.load, *decided.replace, *decided.unload, *decided.forget]

    assert len(orders) == len(set(orders))


@given(situation=SITUATIONS)
def test_what_is_underway_is_not_ordered_again(situation: Situation) -> None:
    available, policy, known = situation
    first = decide(available, policy, known, NOW)
    after = dict(known)
    after |= dict.fromkeys(first.load, LOADING)
    # The catalogue says outdated only until the successor is on its way.
    after |= dict.fromkeys(first.replace, SERVED)
    after |= dict.fromkeys(first.unload, GOING)
    after |= dict.fromkeys(first.forget, GONE)
    second = decide(available, policy, after, NOW)

    underway = {*first.load, *first.replace, *first.unload, *first.forget}
    assert not underway & {*second.load, *second.replace, *second.unload}
    # A retry makes the policy hope again, so a fallback that is still on its way may turn out not to be needed.
    assert underway & set(second.forget) <= set(first.load)


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

    def served(self) -> set[int]:
        return {version for version, entry in self.known.items() if entry.state is State.AVAILABLE}

    def obey(self) -> Decision:
        decided = decide(self.available, self.policy, self.known, self.now)
        for version in decided.load:
            self.known[version] = LOADING
            self.underway.append(version)
        for version in decided.replace:
            self.known[version] = SERVED
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
            self.known[version] = (
                Known(State.LOADING, has_failed=True, retry_at=self.now + 5) if is_broken else SERVED
            )
        return True


RESTING = st.dictionaries(VERSIONS, st.sampled_from([SERVED, OLD, LOADING, GOING, GONE, DUE]))


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
    broken -= {version for version, entry in known.items() if entry in (SERVED, OLD)}
    world = World(available, policy, known, broken)
    turns = iter(rush)
    for _ in range(60):
        before = world.served()
        rest = world.available - failed_of(world.known)
        decided = world.obey()
        after = world.served()
        if before and not after:
            # Only when all that is left has failed.
            assert not desired_versions(rest, policy)
        if next(turns, True) and not world.finish_one() and decided.load == ():
            break
    else:
        pytest.fail("never settles")

    served = {version for version, entry in world.known.items() if entry.state is State.AVAILABLE}
    assert served == set(desired_versions(available - broken, policy))
    assert world.obey() == replace(decided, load=(), replace=(), unload=(), forget=())
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

    assert world.served() == wanted
