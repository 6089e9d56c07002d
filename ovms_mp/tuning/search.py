# SPDX-License-Identifier: Apache-2.0
"""Which setting is measured next: successive halving, the neighbours of the best, and a final by turns.

Machines are noisy and grow warm, so whatever is compared is measured by turns, in an order that is turned round each
time, and medians are compared. What is close to the best is not dropped for one unlucky run. The setting that a user
has who sets nothing stays to the end, as everything is compared with it.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ovms_mp.tuning.candidates import Candidate

FINALISTS = 3
FINAL_ROUNDS = 5
_CLOSE = 0.9
"""Of the best score: what is not better than that after two runs is dropped, whatever half it is in."""
_TIE = 0.99
"""Of the best score: from there on the simpler setting wins."""
_SHORTEST_S, _LONGEST_S = 0.4, 4.0
_OVERHEAD = 1.3
"""What a run takes in all, relative to its length: a warm-up, the generator's start."""
_FIRST_LOOK, _HALVING, _NEIGHBOURS, _FINAL = 0.25, 0.45, 0.6, 1.0
"""By which part of the budget each phase is to be over."""


class Measurer(Protocol):
    """Who measures."""

    def prepare(self, candidates: Sequence[Candidate]) -> None:
        """These come next, by turns."""

    def measure(self, candidate: Candidate, seconds: float) -> float:
        """The score of a run; 0 where it cannot serve."""


@dataclass(slots=True)
class Trial:
    """What is known of a candidate: scores of its runs, all and those of the last round."""

    candidate: Candidate
    scores: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)
    dropped_in: str = ""

    @property
    def score(self) -> float:
        """Median of the last round that it was in."""
        return statistics.median(self.last) if self.last else 0.0


class Search:
    """One search; :attr:`trials` is what has been tried, also when it is ended early."""

    def __init__(
        self,
        candidates: Sequence[Candidate],
        neighbours: Callable[[Candidate], Sequence[Candidate]],
        measurer: Measurer,
        *,
        budget_s: float,
        clock: Callable[[], float],
        least_seconds: float = 0.0,
        on_run: Callable[[Trial, str], None] = lambda _trial, _round: None,
    ) -> None:
        """Plan; nothing is measured.

        Args:
            candidates: The coarse grid; the first is what a user has who sets nothing.
            neighbours: Finer steps from a candidate.
            measurer: Who measures.
            budget_s: How long all may take. What has begun is finished; the first run of each is always made.
            clock: Monotonic seconds.
            least_seconds: The shortest run that means something.
            on_run: Told of each run.
        """
        self.trials = [Trial(candidate) for candidate in candidates]
        self._neighbours = neighbours
        self._measurer = measurer
        self._clock = clock
        self._budget_s = budget_s
        self._begun_s = clock()
        self._least_seconds = least_seconds
        self._on_run = on_run

    def run(self) -> None:
        """Measure until the best is known or the time is up."""
        alive = self._round("first look", list(self.trials), 1, _FIRST_LOOK)
        number = 1
        while len(alive) > FINALISTS + 1 and self._left_s(_HALVING):
            number += 1
            alive = self._kept(alive, max(FINALISTS, len(alive) // 2), f"round {number}")
            alive = self._round(f"round {number}", alive, 2, _HALVING)
        if self._left_s(_NEIGHBOURS) and (best := self.best()) is not None:
            known = {trial.candidate for trial in self.trials}
            fresh = [Trial(one) for one in self._neighbours(best.candidate) if one not in known]
            if fresh:
                self.trials += fresh
                alive = self._round("neighbours of the best", [*alive, *fresh], 2, _NEIGHBOURS)
        alive = self._kept(alive, FINALISTS, "the final")
        self._round("final", alive, FINAL_ROUNDS, _FINAL)

    def best(self) -> Trial | None:
        """The winner: the simplest of those that nobody beats clearly; None where nothing serves.

        Those that have come furthest are compared: their scores are of the same minutes.
        """
        served = [trial for trial in self.trials if trial.score and not trial.dropped_in]
        if not served:
            return None
        # A newcomer whose round was cut short has fewer runs than those that it is compared with.
        top = max(trial.score for trial in served)
        close = [trial for trial in served if trial.score >= _TIE * top]
        return min(close, key=lambda trial: (trial.candidate.complexity, -trial.score))

    def _left_s(self, share: float) -> float:
        """Until a part of the budget is used up."""
        return max(0.0, self._begun_s + share * self._budget_s - self._clock())

    def _seconds(self, runs: int, share: float) -> float:
        """How long one of the ``runs`` of a round may be that is to be over by a part of the budget."""
        fair_s = self._left_s(share) / (runs * _OVERHEAD)
        return max(min(fair_s, _LONGEST_S), _SHORTEST_S, self._least_seconds)

    def _round(self, name: str, trials: list[Trial], times: int, share: float) -> list[Trial]:
        """Measure each ``times`` times by turns, until a part of the budget is used up; those that serve."""
        if not trials:
            return []
        self._measurer.prepare([trial.candidate for trial in trials])
        is_first = not any(trial.scores for trial in trials)
        found: dict[int, list[float]] = {id(trial): [] for trial in trials}
        seconds = self._seconds(len(trials) * times, share)
        for turn in range(times):
            for trial in trials[::-1] if turn % 2 else trials:
                if not is_first and not self._left_s(share):
                    break
                score = self._measurer.measure(trial.candidate, seconds)
                found[id(trial)].append(score)
                trial.scores.append(score)
                trial.last = trial.last or [score]
                self._on_run(trial, name)
        # Only a round in which each had a turn replaces what is known.
        is_whole = all(found.values())
        for trial in trials:
            trial.last = found[id(trial)] if is_whole else trial.scores[:]
        for trial in trials:
            if not trial.score:
                trial.dropped_in = trial.dropped_in or name
        return [trial for trial in trials if trial.score]

    def _kept(self, trials: list[Trial], most: int, name: str) -> list[Trial]:
        """The best, and the one that everything is compared with."""
        ranked = sorted(trials, key=lambda trial: -trial.score)
        kept = ranked[:most]
        top = ranked[0].score if ranked else 0.0
        kept = [trial for trial in kept if trial.score >= _CLOSE * top or len(trial.scores) == 1]
        if self.trials[0] in ranked and self.trials[0] not in kept:
            kept.append(self.trials[0])
        for trial in ranked:
            if trial not in kept:
                trial.dropped_in = name
        return kept
