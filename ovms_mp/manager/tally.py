# SPDX-License-Identifier: Apache-2.0
"""What the manager counts for metrics, in its own row of the counters: whoever shows it asks nobody.

Children's ends, loads and fetches are written when they happen; what processes take of the machine every five seconds.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from ovms_mp.manager.children.kinds import Kind
from ovms_mp.wire import process_counters as words
from ovms_mp.wire.process_counters import Cause, KindWord, Phase, observe, process_words
from ovms_mp.wire.stage_counters import STAGE_WORDS, reason_number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ovms_mp.child.process_use import Use
    from ovms_mp.manager.children.child import Child
    from ovms_mp.manager.clock import Clock
    from ovms_mp.manager.machine_use import Throttling
    from ovms_mp.wire.counters import CounterRow
    from ovms_mp.wire.messages import FetchDone

LOOK_S = 5.0
_FIRST_INFERENCE = "first inference"
"""The stage of :mod:`ovms_mp.worker.engine.stages` that ends a load."""
_MOST_STAGES = 10_000
"""Loads under way whose stages are remembered; a bound against what is never said to have ended."""


class Tally:
    """Owned by the manager's loop."""

    def __init__(
        self,
        row: CounterRow,
        clock: Clock,
        use_of: Callable[[int], Use | None],
        throttling: Callable[[], Throttling | None],
        cores: float,
    ) -> None:
        """Begin with nothing counted.

        Args:
            row: The manager's own.
            clock: Monotonic time.
            use_of: Reads what a process takes; None if it has gone.
            throttling: Reads how the cgroup's quota has held it up; None without one.
            cores: That the server may use.
        """
        self._words = process_words(row)
        self._clock = clock
        self._use_of = use_of
        self._throttling = throttling
        self._cores = cores
        self._cpu_ms: dict[int, int] = {}
        """What each living process had taken at the last look."""
        self._begun: dict[tuple[str, int], tuple[float, float]] = {}
        """When a process began with a deployment, and with its first inference; 0.0 before that."""
        self._looked_at = 0.0

    def died(self, child: Child) -> None:
        """A child has ended that nobody had asked to."""
        if not child.was_ready and not child.kind.ends_by_itself:
            cause = Cause.BOOT
        elif child.killed_for and not child.has_crashed:
            cause = Cause.ENDED
        elif child.status is not None and child.status < 0:
            cause = Cause.SIGNAL
        else:
            cause = Cause.EXIT_CODE
        self._words[words.ENDS + _number(child.kind) * words.CAUSE_WORDS + cause] += 1

    def stage_begun(self, child_id: str, handle: int, stage: str) -> None:
        """A process says what it is doing with a deployment."""
        if len(self._begun) >= _MOST_STAGES:
            self._begun.clear()
        now = self._clock.monotonic()
        began_at, ran_at = self._begun.get((child_id, handle), (now, 0.0))
        is_first_run = stage == _FIRST_INFERENCE and not ran_at
        self._begun[child_id, handle] = (began_at, now if is_first_run else ran_at)

    def load_ended(self, child: Child, handle: int, *, has_failed: bool) -> None:
        """A process has done with a deployment, in whatever way; only what went well is observed."""
        begun = self._begun.pop((child.child_id, handle), None)
        if begun is None or has_failed:
            return
        now = self._clock.monotonic()
        began_at, ran_at = begun
        if child.kind is Kind.PROBE:
            self._observe(Phase.TRIAL, now - child.spawned_at)
        else:
            self._observe(Phase.LOAD, now - began_at)
        if ran_at:
            self._observe(Phase.FIRST_RUN, now - ran_at)

    def load_failed(self, error_name: str) -> None:
        """A version could not be loaded."""
        self._words[words.LOAD_FAILURES + reason_number(error_name)] += 1

    def fetched(self, done: FetchDone, took_s: float) -> None:
        """A look at an object store has ended."""
        self._words[words.FAILED_FETCHES if done.error is not None else words.FETCHES] += 1
        self._words[words.FETCHED_BYTES] += done.fetched_bytes
        if done.fetched_bytes:
            self._observe(Phase.FETCH, took_s)

    def fetching(self, count: int, here_bytes: int, wanted_bytes: int) -> None:
        """What goes on at object stores now: looks and downloads under way, and how far these are."""
        self._words[words.FETCHING] = count
        self._words[words.FETCHING_BYTES], self._words[words.FETCHING_OF_BYTES] = here_bytes, wanted_bytes

    def _observe(self, phase: Phase, took_s: float) -> None:
        observe(self._words, words.PHASES + phase * STAGE_WORDS, int(took_s * 1e9))

    def look(self, children: Iterable[Child], longest_turn_s: float) -> None:
        """Write what the processes take. Called each :data:`LOOK_S`. PERF: 0.1 ms for each process.

        Args:
            children: All that live.
            longest_turn_s: Of the manager's loop, lately.
        """
        now, wall_s = self._clock.monotonic(), time.time()
        totals = [[0] * len(KindWord) for _ in words.KIND_NAMES]
        cpu_ms: dict[int, int] = {}
        for pid, kind in ((os.getpid(), 0), *((child.pid, _number(child.kind)) for child in children)):
            use = self._use_of(pid)
            if use is None:
                continue
            total = totals[kind]
            cpu_ms[pid] = use.cpu_ms
            total[KindWord.PROCESSES] += 1
            total[KindWord.CPU_MS] += max(0, use.cpu_ms - self._cpu_ms.get(pid, 0))
            total[KindWord.RESIDENT_BYTES] += use.resident_bytes
            total[KindWord.DESCRIPTORS] += use.descriptors
            started_ms = int((wall_s - use.age_s) * 1000)
            total[KindWord.STARTED_MS] = max(total[KindWord.STARTED_MS], started_ms)
        self._cpu_ms = cpu_ms
        for kind, total in enumerate(totals):
            self._write_kind(words.KINDS + kind * words.KIND_WORDS, total)
        self._write_load(sum(total[KindWord.CPU_MS] for total in totals), now)
        self._words[words.LONGEST_TURN_NS] = int(longest_turn_s * 1e9)
        if (throttling := self._throttling()) is not None:
            for index, value in enumerate(throttling):
                self._words[words.PERIODS + index] = value
            self._words[words.HAS_THROTTLING] = 1

    def _write_kind(self, word: int, total: list[int]) -> None:
        started = self._words[word + KindWord.STARTED_MS]
        for index, value in enumerate(total):
            if index == KindWord.CPU_MS:
                self._words[word + index] += value
            # A moment that is computed anew each time would seem to change by a millisecond.
            elif index != KindWord.STARTED_MS or abs(value - started) > 1000:
                self._words[word + index] = value

    def _write_load(self, cpu_ms: int, now: float) -> None:
        """How much of the machine was used since the last look."""
        if self._looked_at:
            share = cpu_ms / max(1e-3, now - self._looked_at) / self._cores
            self._words[words.CPU_PERMILLE] = min(1000, int(share))
        self._looked_at = now


def _number(kind: Kind) -> int:
    return words.KIND_NAMES.index(kind.value)
