# SPDX-License-Identifier: Apache-2.0
"""From the queues to infer requests: which task runs next, in the loop or in a thread, and what follows its end.

Quick models run inside the loop: handing a 30 us inference to a thread and back would cost more than it. A model whose
run takes longer than a millisecond runs on one thread per infer request (:mod:`ovms_mp.worker.run.pool`), so that the
loop stays free for the other models, for cancellations and for the manager; so does one that takes a quarter of that
while several tasks of it wait that its infer requests can run at once. Which of these holds follows the measured time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ovms_mp.defects import contain
from ovms_mp.errors import CallCancelled, DeadlineExceeded, OvmsError, VersionNotFound
from ovms_mp.wire.tasks import InferFailed, InferResult
from ovms_mp.worker.run.answers import count_unstarted
from ovms_mp.worker.run.failures import failure
from ovms_mp.worker.run.queues import MOST_AHEAD
from ovms_mp.worker.run.shares import charge_s

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ovms_mp.worker.load.batches import Batches
    from ovms_mp.worker.run.answers import Answers
    from ovms_mp.worker.run.examinations import Examinations
    from ovms_mp.worker.run.peers import Peers
    from ovms_mp.worker.run.pool import FinishedRun, InferPool, Runs
    from ovms_mp.worker.run.queues import FirstTasks, QueuedTask
    from ovms_mp.worker.run.served import ServedVersion
    from ovms_mp.worker.run.shares import Shares

_TURN_LIMIT_S = 0.0002
"""After so long in inline runs the loop sends what it has and looks at its sockets: the front encodes these answers
while the next tasks run. PERF: tiny model, 16 in flight: 11,200/s with 2 ms, 12,800 with 0.2, 11,900 with 0.1."""
_SMOOTHING = 0.2
"""Weight of the newest run in the smoothed run time."""
_OUTLIER_SLACK_S = 0.0001
SWEEP_INTERVAL_S = 0.05
"""As often as fronts look for requests whose time is over."""
_UNSTARTED = frozenset({CallCancelled.__name__, DeadlineExceeded.__name__})


@dataclass(slots=True)
class _Lone:
    """A task under suspicion: what it is handed over to runs nothing else, so that it is convicted or cleared."""

    version: ServedVersion
    queued: QueuedTask
    has_begun: bool = False


class Scheduler:
    """Starts tasks and takes note of their ends. Belongs to the loop."""

    def __init__(
        self,
        versions: Mapping[int, ServedVersion],
        peers: Peers,
        answers: Answers,
        runs: Runs[ServedVersion],
        examinations: Examinations,
        all_first: FirstTasks,
        shares: Shares,
    ) -> None:
        """Start nothing yet.

        Args:
            versions: What is served, by handle, with its queues.
            peers: The fronts whose arenas runs touch.
            answers: Takes the answers.
            runs: What runs in threads.
            examinations: For tasks whose shapes may be at fault.
            all_first: Counts tasks that go first, in all queues.
            shares: Whose time it is where several models have tasks.
        """
        self._shares = shares
        self._next_sweep_s = 0.0
        self._versions = versions
        self._peers = peers
        self._answers = answers
        self._runs = runs
        self._examinations = examinations
        self._all_first = all_first
        self._turns_of_first = 0
        self._lone: _Lone | None = None

    def can_start(self) -> bool:
        """Whether :meth:`start_tasks` has something to do at once."""
        return self._lone is None and bool((self._all_first.waiting and self._ahead()) or self._due())

    @property
    def has_waiting(self) -> bool:
        """Whether tasks wait for infer requests that others have for long, so that :meth:`sweep` is due."""
        return any(version.runs_in_threads and version.queue.tasks for version in self._versions.values())

    def sweep(self) -> None:
        """Answer tasks that nobody wants any more, also behind others: they hold memory, and room in the queue."""
        now_s = time.monotonic()
        if now_s < self._next_sweep_s:
            return
        for version in list(self._versions.values()):
            if version.runs_in_threads and version.pool is not None and version.queue.tasks:
                is_unwanted = partial(self._answers.dismiss, counters=version.counters)
                contain("worker.sweep", version.title, version.queue.take_out, is_unwanted)
        # PERF: 0.4 us a task; so never more than a fiftieth of the loop's time.
        self._next_sweep_s = now_s + max(SWEEP_INTERVAL_S, 50 * (time.monotonic() - now_s))

    def start_tasks(self) -> None:
        """Start what can start, one task in turn of each version whose model's share allows it.

        While tasks wait that go first, only their versions have turns, but for every eighth.
        """
        if self._lone is not None and not self._run_lone(self._lone):
            return
        turn_ends = time.perf_counter() + _TURN_LIMIT_S
        is_busy = True
        while is_busy:
            is_busy = False
            for version in self._whose_turn() if self._all_first.waiting else self._due():
                pool = version.free_pool()
                if pool is None or (queued := self._next_task(version)) is None:
                    continue
                is_busy = True
                try:
                    if queued.task.is_suspect:
                        self._lone = _Lone(version, queued)
                        version.running += 1  # It is not done with before this one is.
                        if not self._run_lone(self._lone):
                            return
                        continue
                    self._start(version, pool, queued)
                except Exception as error:
                    self._answers.fail("worker.start", error, queued.peer, queued.task)
            if time.perf_counter() > turn_ends:
                return

    def _start(self, version: ServedVersion, pool: InferPool[ServedVersion], queued: QueuedTask) -> None:
        """Run a task here, with those that wait and may run with it, or have that done by a thread."""
        members = [queued]
        ended: Sequence[FinishedRun[ServedVersion]] = ()
        try:
            if pool.compiled.batches is not None and version.queue.tasks:
                self._add_others(version, pool, pool.compiled.batches, members)
            if len(self._versions) > 1:
                queued.charged_s = self._shares.began(version, time.monotonic())
            if version.runs_in_threads or not pool.has_idle:
                self._hand_over(version, pool, members)
            else:
                version.counters.taken()
                ended = pool.run_now(members, self._runs)
        except Exception:
            # The first one is the victim; the others have their turn again.
            for other in members[:0:-1]:
                version.queue.put_back(other)
            raise
        for run in ended:
            self._note(run)

    def _add_others(
        self,
        version: ServedVersion,
        pool: InferPool[ServedVersion],
        batches: Batches,
        members: list[QueuedTask],
    ) -> None:
        """Add those behind a task that run with it: as many as cost least for each, of the same shapes.

        Infer requests that are idle have a part each, so that none stays idle for others to have less to do.
        """
        idle = pool.compiled.nireq - pool.handed_over if version.runs_in_threads else 1
        part = -(-(len(version.queue.tasks) + 1) // max(1, idle))
        most, shapes = batches.most(part), batches.shapes_of(members[0].task)
        while len(members) < most and shapes is not None:
            other = self._next_task(version)
            if other is None:
                break
            if other.task.is_suspect or batches.shapes_of(other.task) != shapes:
                version.queue.put_back(other)
                break
            members.append(other)

    def take_finished(self) -> None:
        """Take note of the runs that have ended in threads."""
        while self._runs.ended:
            run = self._runs.ended.popleft()
            version = run.owner
            if self._lone is not None and run.queued is self._lone.queued:
                self._lone = None
            run.pool.handed_over -= run.ends_hand_over
            version.running -= 1
            self._peers.ended(run.queued.peer)
            # Those of a batch leave together anyway.
            self._note(run, 0.0 if run.batch > 1 else time.monotonic() + version.patience_s())

    def _note(self, run: FinishedRun[ServedVersion], leaves_at_s: float = 0.0) -> None:
        """Take note of a run, or fail its task."""
        try:
            self._note_run(run, leaves_at_s)
        except Exception as error:
            self._answers.fail("worker.note_run", error, run.queued.peer, run.queued.task)

    def _whose_turn(self) -> Sequence[ServedVersion]:
        """Versions with a task that goes first and can start, or those that are due: now and then, or without any."""
        if self._turns_of_first < MOST_AHEAD and (ahead := self._ahead()):
            self._turns_of_first += 1
            return ahead
        self._turns_of_first = 0
        return self._due()

    def _ahead(self) -> Sequence[ServedVersion]:
        return [
            version
            for version in self._versions.values()
            if version.queue.tasks.has_first and version.free_pool()
        ]

    def _due(self) -> Sequence[ServedVersion]:
        """Versions that may start a task. PERF: 0.2 us where one has some."""
        waiting = [
            version for version in self._versions.values() if version.queue.tasks and version.pool is not None
        ]
        if len(waiting) > 1:
            return self._shares.due(waiting, time.monotonic())
        return waiting if waiting and waiting[0].free_pool() else ()

    def _run_lone(self, lone: _Lone) -> bool:
        """Carry on with a task under suspicion; whether it is done with, so that others may start."""
        if lone.has_begun or self._peers.are_running:
            return False
        lone.has_begun = True
        version, queued = lone.version, lone.queued
        version.running -= 1
        try:
            if not self._answers.dismiss(queued, version.counters):
                if version.pool is None:
                    raise VersionNotFound("the version was unloaded before the request could run alone")
                self._hand_over(version, version.pool, (queued,))
                return False
        except OvmsError as error:
            self._answers.give(queued.peer, failure(queued.task, error))
        except Exception as error:
            self._answers.fail("worker.start", error, queued.peer, queued.task)
        self._lone = None
        return True

    def _next_task(self, version: ServedVersion) -> QueuedTask | None:
        """The next task that is still wanted."""
        while (queued := version.queue.pop()) is not None:
            try:
                if self._answers.dismiss(queued, version.counters):
                    continue
                if not version.is_too_late(queued):
                    return queued
                self._answers.give(queued.peer, failure(queued.task, version.too_late(queued)))
            except Exception as error:
                self._answers.fail("worker.dismiss", error, queued.peer, queued.task)
        return None

    def _hand_over(
        self, version: ServedVersion, pool: InferPool[ServedVersion], members: Sequence[QueuedTask]
    ) -> None:
        # The loop alone takes note of ends, so it is early enough to count when the hand-over has gone well.
        pool.hand_over(members, self._runs)
        version.counters.taken()
        version.running += len(members)
        for queued in members:
            self._peers.begun(queued.peer)

    def _note_run(self, run: FinishedRun[ServedVersion], leaves_at_s: float = 0.0) -> None:
        version = run.owner
        if run.did_run:
            if run.is_first:
                self._note_time(version, run)
        else:
            version.share.clock_s -= run.queued.charged_s
            if run.ends_hand_over:
                version.counters.not_run()
        if not run.did_run and isinstance(run.answer, InferFailed) and run.answer.error_name in _UNSTARTED:
            count_unstarted(run.queued, version.counters)
        answer, examiner = run.answer, version.examiner if run.did_run else None
        if examiner is not None and isinstance(answer, InferFailed) and not answer.needed_nbytes:
            self._examinations.examine(run, answer, examiner)
        else:
            self._answers.give(run.queued.peer, answer, leaves_at_s)

    def _note_time(self, version: ServedVersion, run: FinishedRun[ServedVersion]) -> None:
        # A quick run that the scheduler interrupted measures milliseconds; believing it would move the model to
        # threads, where it costs several times as much. A run time that really grew is followed within some runs.
        measured_s = min(run.run_time_s, 2.0 * version.run_time_s + _OUTLIER_SLACK_S)
        version.run_time_s += _SMOOTHING * (measured_s - version.run_time_s)
        version.batch_size += _SMOOTHING * (run.batch - version.batch_size)
        if not run.ends_hand_over:
            version.counters.taken()  # Once more: the batch that it was in failed.
        if isinstance(run.answer, InferResult):
            version.recent_s.append(run.run_time_s / run.batch)
            inputs = run.queued.task.inputs
            samples = run.batch * (inputs[0].shape[0] if inputs and inputs[0].shape else 1)
            version.counters.executed(samples, run.batch, round(1e9 * run.run_time_s))
            batches = run.pool.compiled.batches
            if batches is not None and run.batch == 1:
                batches.ran_alone(run.queued.task, run.answer.outputs)
        else:
            version.counters.executed()
        if version.forms is not None:
            version.note_form(run)
        if run.queued.charged_s or not run.ends_hand_over:
            version.share.clock_s += charge_s(version, run.run_time_s) - run.queued.charged_s
        if run.company > 1:
            version.counters.stages.ran_in_company(run.company)
        if run.batch > 1:
            version.counters.stages.ran_in_batch(run.batch)
