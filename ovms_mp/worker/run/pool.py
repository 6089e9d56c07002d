# SPDX-License-Identifier: Apache-2.0
"""A compiled model's infer requests, and the threads that run tasks on them.

::

    loop --hand_over--> tasks ahead --> threads, one for each infer request --> Runs --> loop

The loop hands over one task for each infer request ahead of those that run, so that a thread goes on with the next task
while the loop still answers the last one. PERF: model of 1.2 ms, two streams, 16 in flight: without it 5 % of the
cores' time was idle between a run's end and the next one's start.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from ovms_mp.defects import report
from ovms_mp.errors import INTERNAL_ERROR_TEXT, InferenceFailed, OvmsError
from ovms_mp.wire.tasks import InferFailed, InferResult
from ovms_mp.worker.load.batches import OutputsTooLarge
from ovms_mp.worker.run.failures import defect_answer, failure
from ovms_mp.worker.run.queues import MOST_AHEAD

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ovms_mp.wire.channels import Wakeup
    from ovms_mp.wire.run_page import RunPage
    from ovms_mp.worker.load.batches import Batches
    from ovms_mp.worker.load.compiled import CompiledVersion, InferSlot
    from ovms_mp.worker.run.queues import QueuedTask

_log = logging.getLogger(__name__)


class Owner(Protocol):
    """What a pool knows of the version whose tasks it runs."""

    @property
    def title(self) -> str:
        """For the log."""

    @property
    def examiner(self) -> object:
        """Who finds out why a task failed; None where that needs nobody."""


OwnerT = TypeVar("OwnerT", bound=Owner)


@dataclass(slots=True)
class FinishedRun(Generic[OwnerT]):
    """A task that has run, or that nobody wanted any more when its turn came."""

    owner: OwnerT
    pool: InferPool[OwnerT]
    queued: QueuedTask
    answer: InferResult | InferFailed
    run_time_s: float
    """0.0 for a task that did not run."""
    company: int = 1
    """How many runs of the pool were under way when it began, with this one."""
    batch: int = 1
    """How many tasks this run had: there is one of these objects for each."""
    is_first: bool = True
    """Of the objects of one run."""
    ends_hand_over: bool = True
    """Whether it is the first of those that were handed over together, so that the pool has room again."""

    @property
    def did_run(self) -> bool:
        """Whether the engine has seen the task."""
        return self.run_time_s > 0.0


class Runs(Generic[OwnerT]):
    """What runs in threads: written by them, read by the loop and by the heartbeat."""

    def __init__(self, wakeup: Wakeup, page: RunPage) -> None:
        """Start with none.

        Args:
            wakeup: Wakes the loop when a run has ended.
            page: Where runs are marked, for those who ask what this process died of.
        """
        self.ended: deque[FinishedRun[OwnerT]] = deque()
        self.page = page
        self._wakeup = wakeup
        self._since_s: dict[int, float] = {}

    def begin(self, slot: InferSlot) -> None:
        """A run begins."""
        self._since_s[id(slot)] = time.monotonic()

    def end(self, slot: InferSlot, runs: Iterable[FinishedRun[OwnerT]]) -> None:
        """A run has ended; the loop learns of it with the next :meth:`announce`."""
        del self._since_s[id(slot)]
        self.ended.extend(runs)

    def announce(self) -> None:
        """Wake the loop if it has not taken note of a run's end."""
        if self.ended:
            self._wakeup.set()

    def oldest_s(self) -> float:
        """For how long the oldest run has been under way; 0.0 without one. Callable from any thread."""
        # SAFETY: list() of a dict's values is one step of the interpreter; no thread can change it meanwhile.
        oldest = min(list(self._since_s.values()), default=None)
        return 0.0 if oldest is None else time.monotonic() - oldest


class InferPool(Generic[OwnerT]):
    """The infer requests of one compiled model.

    Belongs to the loop's thread, but for what is said to run in others.
    """

    def __init__(self, owner: OwnerT, compiled: CompiledVersion, name: str) -> None:
        """Make threads' places; operating system threads appear with the first tasks that are handed over.

        Args:
            owner: The version whose tasks it runs.
            compiled: Not closed here.
            name: For the threads, in a debugger or in ``top``.
        """
        self._owner = owner
        self.compiled = compiled
        self.handed_over = 0
        """Runs that wait ahead, are under way, or have ended without the loop having taken note."""
        self.most_handed_over = 2 * compiled.nireq
        self.begun_ns = 0
        """When the last run began; monotonic."""
        self._idle = deque(compiled.slots)
        self._ahead: deque[Sequence[QueuedTask]] = deque()
        self._passed = 0
        """How many have passed an ordinary one since such a one began."""
        self._lock = threading.Lock()
        """Held to pass a task or an infer request from loop to thread or back."""
        self._threads = ThreadPoolExecutor(compiled.nireq, thread_name_prefix=name)

    @property
    def has_idle(self) -> bool:
        """Whether an infer request is back. A thread gives its one back a moment after the end of its last run."""
        return bool(self._idle)

    def run_now(self, members: Sequence[QueuedTask], runs: Runs[OwnerT]) -> list[FinishedRun[OwnerT]]:
        """Run tasks in the loop's thread, while none is handed over and an infer request is idle."""
        return self._run(self._idle[0], members, runs, is_in_loop=True)

    def hand_over(self, members: Sequence[QueuedTask], runs: Runs[OwnerT]) -> None:
        """Have a task, or several together, run by the next thread that is free; each ends in ``runs.ended``.

        What goes first passes ordinary ones that have not begun, but not for ever.

        Raises:
            RuntimeError: The system gives no further thread. The tasks are not handed over.
        """
        with self._lock:
            slot = self._idle.popleft() if self._idle else None
            if slot is not None:
                given = [slot]
                try:
                    self._threads.submit(self._work, given, runs)
                except Exception:
                    # Where the system gives no thread, the call stays in the executor's queue, so it must find nothing.
                    given.clear()
                    self._idle.append(slot)
                    raise
            place = len(self._ahead)
            if members[0].task.priority and self._passed < MOST_AHEAD:
                firsts = itertools.takewhile(lambda others: others[0].task.priority, self._ahead)
                place = sum(1 for _ in firsts)
                self._passed += place < len(self._ahead)
            self._ahead.insert(place, members)
        self.handed_over += 1

    def ahead(self) -> list[QueuedTask]:
        """Tasks that are handed over and have not begun."""
        with self._lock:
            return list(itertools.chain.from_iterable(self._ahead))

    def close(self) -> None:
        """No task comes any more; threads end when they have run what they have."""
        self._threads.shutdown(wait=False)

    def _work(self, given: list[InferSlot], runs: Runs[OwnerT]) -> None:
        """Run tasks while there are some. Runs in a thread, which owns the infer request that it is given meanwhile."""
        with self._lock:
            if not given:
                return
            slot = given[0]
        while (members := self._next(slot)) is not None:
            runs.begin(slot)
            ended: list[FinishedRun[OwnerT]] = []
            try:
                wanted = self._wanted(members, ended)
                if wanted:
                    charged_s, members[0].charged_s = members[0].charged_s, 0.0
                    wanted[0].charged_s = charged_s
                    ended[:0] = self._run(slot, wanted, runs)
            except Exception as raised:
                # Nobody else would hear of it, and tasks would have no answer, nor the infer request a task.
                report("worker.thread", raised, f"task {members[0].task.task_id} of {self._owner.title}")
                answered = {id(run.queued) for run in ended}
                ended += [
                    FinishedRun(self._owner, self, queued, defect_answer(queued.task), 0.0)
                    for queued in members
                    if id(queued) not in answered
                ]
            for run in ended[1:]:
                run.ends_hand_over = False
            runs.end(slot, ended)
        runs.announce()

    def _wanted(
        self, members: Sequence[QueuedTask], ended: list[FinishedRun[OwnerT]]
    ) -> Sequence[QueuedTask]:
        """Those that somebody still waits for; the others have ended."""
        wanted: list[QueuedTask] = []
        for queued in members:
            error = queued.refusal()
            if error is None:
                wanted.append(queued)
            else:
                ended.append(FinishedRun(self._owner, self, queued, failure(queued.task, error), 0.0))
        return wanted

    def _next(self, slot: InferSlot) -> Sequence[QueuedTask] | None:
        """Take what is next, or give the infer request back. Runs in a thread."""
        with self._lock:
            if self._ahead:
                members = self._ahead.popleft()
                if not members[0].task.priority:
                    self._passed = 0
                return members
            self._idle.append(slot)
            return None

    def _run(
        self, slot: InferSlot, members: Sequence[QueuedTask], runs: Runs[OwnerT], *, is_in_loop: bool = False
    ) -> list[FinishedRun[OwnerT]]:
        """Run one task, or several together and, should that fail, one by one."""
        batches = self.compiled.batches
        if len(members) > 1 and batches is not None:
            together = self._run_batch(slot, batches, members, runs, is_in_loop=is_in_loop)
            if together:
                return together
        if len(members) == 1:
            return [self._run_one(slot, members[0], runs, is_in_loop=is_in_loop)]
        ended: list[FinishedRun[OwnerT]] = []
        for queued in members:
            try:
                run = self._run_one(slot, queued, runs, is_in_loop=is_in_loop)
            except Exception as raised:
                report("worker.thread", raised, f"task {queued.task.task_id} of {self._owner.title}")
                run = FinishedRun(self._owner, self, queued, defect_answer(queued.task), 0.0)
            run.ends_hand_over = not ended
            ended.append(run)
        return ended

    def _run_batch(
        self,
        slot: InferSlot,
        batches: Batches,
        members: Sequence[QueuedTask],
        runs: Runs[OwnerT],
        *,
        is_in_loop: bool,
    ) -> list[FinishedRun[OwnerT]]:
        """Run several tasks together; empty where that failed. Whose fault it is shows when they run one by one."""
        company = self._company(is_in_loop=is_in_loop)
        start_ns = self.begun_ns = time.perf_counter_ns()
        # Should the process die of it, each of them is suspected, and runs alone.
        marks = [
            runs.page.begin(queued.peer.arena_key, queued.task.task_id, queued.task.handle)
            for queued in members
        ]
        if min(marks) < 0:
            # One that is not marked would be held innocent of the process's death.
            for mark in marks:
                runs.page.end(mark)
            return []
        try:
            if not is_in_loop:
                runs.announce()
            found = batches.infer(slot, [(queued.task, queued.peer.arena) for queued in members])
        except Exception as error:
            batches.pause()
            _log.warning(
                "event=batch_failed model=%r requests=%d error=%s; they run one by one",
                self._owner.title,
                len(members),
                error,
                # What is no engine's refusal is a defect of ours.
                exc_info=not isinstance(error, OvmsError),
            )
            return []
        finally:
            for mark in marks:
                runs.page.end(mark)
        infer_ns = time.perf_counter_ns() - start_ns
        count, run_time_s = len(members), infer_ns / 1e9
        ended: list[FinishedRun[OwnerT]] = []
        for queued, outputs in zip(members, found, strict=True):
            task_id = queued.task.task_id
            answer: InferResult | InferFailed
            if isinstance(outputs, OutputsTooLarge):
                answer = InferFailed(task_id, "", "", outputs.needed_nbytes)
            else:
                answer = InferResult(task_id, outputs, start_ns - queued.taken_ns, infer_ns)
            ended.append(
                FinishedRun(
                    self._owner, self, queued, answer, run_time_s, company, count, not ended, not ended
                )
            )
        return ended

    def _company(self, *, is_in_loop: bool) -> int:
        return 1 if is_in_loop else max(1, self.compiled.nireq - len(self._idle))

    def _run_one(
        self, slot: InferSlot, queued: QueuedTask, runs: Runs[OwnerT], *, is_in_loop: bool = False
    ) -> FinishedRun[OwnerT]:
        """Run one task; never raises, as exactly one answer must follow.

        Args:
            slot: Used by nobody else.
            queued: What to run.
            runs: Where it is marked, and whose ends the loop may not know yet.
            is_in_loop: The loop itself runs the task.
        """
        peer, task = queued.peer, queued.task
        company = self._company(is_in_loop=is_in_loop)
        start_ns = self.begun_ns = time.perf_counter_ns()
        mark = runs.page.begin(peer.arena_key, task.task_id, task.handle)
        answer: InferResult | InferFailed
        try:
            self.compiled.bind(slot, task, peer.arena, peer.arena_index)
            if not is_in_loop:
                # As late as this: woken earlier, the loop would hold the interpreter while the engine waits.
                runs.announce()
            outputs = self.compiled.infer(slot, task, peer.arena)
            infer_ns = time.perf_counter_ns() - start_ns
            answer = InferResult(task.task_id, outputs, start_ns - queued.taken_ns, infer_ns)
        except OutputsTooLarge as error:
            answer = InferFailed(task.task_id, "", "", error.needed_nbytes)
        except OvmsError as error:
            # Where there is an examiner, it finds out first whose fault it was.
            if self._owner.examiner is None or not isinstance(error, InferenceFailed):
                _log.error("event=inference_failed model=%r error=%s", self._owner.title, error)
            answer = failure(task, error)
        except Exception:
            _log.exception("event=inference_raised model=%r", self._owner.title)
            answer = failure(task, InferenceFailed(INTERNAL_ERROR_TEXT))
        finally:
            runs.page.end(mark)
        run_time_s = (time.perf_counter_ns() - start_ns) / 1e9
        return FinishedRun(self._owner, self, queued, answer, run_time_s, company)
