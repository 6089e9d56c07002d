# SPDX-License-Identifier: Apache-2.0
"""The search on synthetic costs with noise: it finds what is nearly the best, within its budget."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence

import pytest

from ovms_mp.tuning.candidates import NOTHING, Candidate, first_candidates, neighbours
from ovms_mp.tuning.search import Search, Trial

Cost = Callable[[Candidate], float]


class Machine:
    """Serves each setting at a rate of its own, with noise; its clock goes on by what is measured."""

    def __init__(self, cost: Cost, *, noise: float = 0.0, seed: int = 0, start_s: float = 0.0) -> None:
        self._cost = cost
        self._noise = noise
        self._random = random.Random(seed)
        self._start_s = start_s
        self.now_s = 0.0
        self.runs: list[Candidate] = []
        self.prepared: list[tuple[Candidate, ...]] = []

    def clock(self) -> float:
        return self.now_s

    def prepare(self, candidates: Sequence[Candidate]) -> None:
        self.now_s += self._start_s
        self.prepared.append(tuple(candidates))

    def measure(self, candidate: Candidate, seconds: float) -> float:
        self.now_s += 1.3 * seconds
        self.runs.append(candidate)
        return self._cost(candidate) * self._random.gauss(1.0, self._noise)


def search_of(machine: Machine, cores: int, budget_s: float = 120.0) -> Search:
    return Search(
        first_candidates(cores, "CPU", {}),
        functools.partial(neighbours, cores=cores, given={}),
        machine,
        budget_s=budget_s,
        clock=machine.clock,
    )


def like_resnet(candidate: Candidate) -> float:
    """Streams help up to the cores of a worker."""
    streams = candidate.streams or (2 if candidate.hint == "THROUGHPUT" else 1)
    total = streams * candidate.workers
    return 38.0 + 18.0 * (total >= 2) - 2.0 * (total > 2)


def like_tiny(candidate: Candidate) -> float:
    """Whatever is more than one of anything costs."""
    return 9000.0 - 900.0 * candidate.streams - 2000.0 * candidate.workers


def with_a_good_nireq(candidate: Candidate) -> float:
    """Only a neighbour of the best on the coarse grid is the best."""
    return 100.0 + 20.0 * (candidate.nireq == 4) + 50.0 * (candidate.streams == 2)


@pytest.mark.parametrize("cost", [like_resnet, like_tiny, with_a_good_nireq])
@pytest.mark.parametrize("seed", range(5))
def test_it_finds_what_is_nearly_the_best_in_spite_of_noise(cost: Cost, seed: int) -> None:
    machine = Machine(cost, noise=0.03, seed=seed)
    search = search_of(machine, 2)

    search.run()

    best = search.best()
    assert best is not None
    grid = [
        Candidate(hint=hint, streams=streams, workers=workers, nireq=nireq)
        for hint in ("", "THROUGHPUT")
        for streams in (0, 1, 2, 4)
        for workers in (1, 2)
        for nireq in (0, 2, 4)
    ]
    assert cost(best.candidate) >= 0.97 * max(map(cost, grid))


@pytest.mark.parametrize("budget_s", [30.0, 120.0, 600.0])
def test_it_keeps_its_budget(budget_s: float) -> None:
    machine = Machine(like_resnet, noise=0.1)
    search = search_of(machine, 16, budget_s)

    search.run()

    assert machine.now_s <= 1.2 * budget_s
    assert search.best() is not None


def test_a_budget_that_is_too_small_ends_with_a_look_at_each() -> None:
    machine = Machine(like_resnet)
    search = search_of(machine, 2, 0.5)

    search.run()

    assert set(machine.runs) == {trial.candidate for trial in search.trials}
    assert search.best() is not None


def test_what_nobody_sets_stays_to_the_end_and_wins_a_tie() -> None:
    machine = Machine(lambda _candidate: 10.0)
    search = search_of(machine, 4)

    search.run()

    best = search.best()
    assert best is not None
    assert best.candidate == NOTHING
    assert NOTHING in machine.prepared[-1]


def test_the_slow_default_is_compared_with_to_the_end() -> None:
    machine = Machine(lambda candidate: 1.0 if candidate == NOTHING else 10.0)
    search = search_of(machine, 4)

    search.run()

    best = search.best()
    assert best is not None
    assert best.candidate != NOTHING
    assert len(search.trials[0].last) == 5


def test_what_cannot_serve_is_left_out() -> None:
    machine = Machine(lambda candidate: 0.0 if candidate.workers > 1 else like_resnet(candidate))
    search = search_of(machine, 2)

    search.run()

    best = search.best()
    assert best is not None
    assert best.candidate.workers == 1
    assert all(trial.dropped_in == "first look" for trial in search.trials if trial.candidate.workers > 1)


def test_nothing_serves() -> None:
    search = search_of(Machine(lambda _candidate: 0.0), 2)

    search.run()

    assert search.best() is None


def test_rounds_turn_round() -> None:
    machine = Machine(like_resnet)
    search = search_of(machine, 2)

    search.run()

    last = machine.prepared[-1]
    final = machine.runs[-5 * len(last) :]
    assert tuple(final[: len(last)]) == last
    assert tuple(final[len(last) : 2 * len(last)]) == last[::-1]


def test_each_run_is_told() -> None:
    told: list[tuple[Candidate, str]] = []
    machine = Machine(like_resnet)

    def tell(trial: Trial, name: str) -> None:
        told.append((trial.candidate, name))

    search = Search([NOTHING], lambda _best: [], machine, budget_s=10.0, clock=machine.clock, on_run=tell)
    search.run()

    assert [name for _, name in told] == ["first look", *["final"] * 5]
    assert len(machine.runs) == len(told)
