# SPDX-License-Identifier: Apache-2.0
"""A version as the worker's loop sees it."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ovms_mp.errors import QueueFull
from ovms_mp.wire.version_counters import UNCOUNTED, VersionCounters
from ovms_mp.worker.load.variants import Refusals, VariantTable
from ovms_mp.worker.run.demand import Form
from ovms_mp.worker.run.pool import InferPool
from ovms_mp.worker.run.shares import Share

if TYPE_CHECKING:
    from typing import TypeAlias

    from ovms_mp.wire.tasks import InferTask
    from ovms_mp.worker.load.compiled import CompiledVersion
    from ovms_mp.worker.load.maker import VariantMaker
    from ovms_mp.worker.load.variants import Shapes
    from ovms_mp.worker.run.form_state import Forms
    from ovms_mp.worker.run.pool import FinishedRun
    from ovms_mp.worker.run.queues import QueuedTask, SharedBounds, VersionQueue

    Evicted: TypeAlias = tuple[QueuedTask, QueueFull]

_RETRY_PART = 0.25
"""Who finds a full queue tries again when a part of it has been worked off."""
_INLINE_LIMIT_S = 0.001
"""Longest run inside the loop. A hand-over to a thread and back costs 53 us alone, a twentieth of it."""
_LEAST_IN_COMPANY_S = 0.00025
"""Shorter runs stay in the loop however many tasks wait; of others several run at once. PERF: model of 0.7 ms, two
streams, 16 in flight: 1250/s in the loop, 2050/s in threads."""
_LONG_RUN_S = 0.02
"""Longer runs have no task handed over ahead: a hand-over is nothing beside them, and whoever has the next turn would
wait for one more run."""
UNKNOWN_RUN_TIME_S = 0.01
"""Of a version that has not run yet: in a thread, until the run time is known."""
_RECENT_RUNS = 32
"""The quickest of so many is what a run takes at least: run times differ by shapes, and the first ones are slow."""
_PATIENCE = 0.5
"""PERF: 1.3 ms a run, two streams, 16 in flight: 616/s when each answer leaves at once, 646 with a quarter or half."""
_LEAST_PATIENCE_S, _MOST_PATIENCE_S = 0.001, 0.016
"""The loop waits in whole milliseconds; a shorter wait would become one of these. PERF: 2.5 ms a run, two streams, 16
in flight: 2 % more with 16 ms than with 8."""


@dataclass(slots=True)
class ServedVersion:
    """A version, or one variant of it.

    Attributes:
        handle: The manager's; a variant has a negative one that no other process knows.
        title: For the log.
        queue: Tasks that wait.
        share: Its model's share of the device.
        counters: Where its executions are counted; a variant's are the version's.
        run_time_s: Of a run, smoothed.
        batch_size: How many tasks a run had, smoothed.
        recent_s: What the last runs took for each of their tasks.
        pool: None while a variant is not compiled, and for a version whose variants are.
        forms: What it is compiled for, where that follows the demand; ``pool`` is that of the form in use.
        inline_limit_s: Longest run inside the loop.
        is_crowded: Whether there was more than one task, and infer request, of it when one was to start.
        running: Tasks handed over to threads or being examined; and a variant's compilation.
        is_retiring: It ends when it has nothing left.
        examiner: Tells whether a failed task's shapes were at fault; None where the specs say that.
        cure_after_s: Not compiled again before this moment, as that has just been in vain.
        refusals: What the examiner or a compilation said.
        family: Its variants, if it has some.
        parent: The version that a variant belongs to.
        shapes: What a variant is compiled for.
    """

    handle: int
    title: str
    queue: VersionQueue
    share: Share = field(default_factory=Share)
    counters: VersionCounters = UNCOUNTED
    run_time_s: float = 0.0
    batch_size: float = 1.0
    recent_s: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT_RUNS))
    pool: InferPool[ServedVersion] | None = None
    forms: Forms[ServedVersion] | None = None
    inline_limit_s: float = _INLINE_LIMIT_S
    is_crowded: bool = False
    running: int = 0
    is_retiring: bool = False
    examiner: VariantMaker | None = None
    cure_after_s: float = 0.0
    refusals: Refusals | None = None
    family: Family | None = None
    parent: ServedVersion | None = None
    shapes: Shapes = ()

    def equip(self, compiled: CompiledVersion, run_time_s: float) -> None:
        """Give it what runs its tasks."""
        self.run_time_s = run_time_s
        self.recent_s.append(0.0 if run_time_s == UNKNOWN_RUN_TIME_S else run_time_s)
        self.pool = InferPool(self, compiled, f"infer-{self.handle}")

    def replace(self, compiled: CompiledVersion) -> None:
        """Go on with another compiled model of it; what is handed over ends on the old one."""
        if self.pool is not None:
            self.pool.close()
            old = self.pool.compiled
            if old.batches is not None:
                compiled.batches = old.batches.again(old.compiled, compiled.compiled)
        self.equip(compiled, self.run_time_s)
        if self.forms is not None:
            # It was compiled as the version was loaded.
            self.use(self.pool, Form.LONE, self.run_time_s)
            self.forms.replaced()

    def use(self, pool: InferPool[ServedVersion] | None, form: Form, run_time_s: float) -> None:
        """Have the next tasks run by another form; what is handed over ends on the old one."""
        self.pool = pool
        self.run_time_s = run_time_s
        self.recent_s.clear()
        # What is done in the loop is done alone.
        self.inline_limit_s = _INLINE_LIMIT_S if form is Form.LONE else 0.0

    def note_form(self, run: FinishedRun[ServedVersion]) -> None:
        """A run has ended, which says something about which form should be in use."""
        if self.forms is not None and self.pool is not None:
            waiting, is_in_loop = len(self.queue.tasks), not self.runs_in_threads
            self.forms.note(
                run,
                self.pool,
                waiting,
                is_in_loop=is_in_loop,
                usual_s=self.run_time_s / self.batch_size,
                handle=self.handle,
            )

    def ahead(self) -> list[QueuedTask]:
        """Tasks that are handed over and have not begun."""
        pools = (self.pool, self.forms.other if self.forms is not None else None)
        return [queued for pool in pools if pool is not None for queued in pool.ahead()]

    def unequip(self) -> CompiledVersion | None:
        """Take away what ran its tasks, whose memory can then be given back; None where there was nothing.

        Pool and version know each other, so that left to the garbage collector the infer requests would stay.
        """
        pool, self.pool = self.pool, None
        if pool is None:
            return None
        pool.close()
        return pool.compiled

    @property
    def nireq(self) -> int:
        """Number of its infer requests."""
        return 1 if self.pool is None else self.pool.compiled.nireq

    @property
    def has_tasks(self) -> bool:
        """Whether some wait."""
        return len(self.queue.tasks) > 0

    @property
    def runs_in_threads(self) -> bool:
        """Whether its tasks take too long for the loop, or others wait that could run meanwhile."""
        run_time_s = self.run_time_s
        return run_time_s > self.inline_limit_s or (self.is_crowded and run_time_s > _LEAST_IN_COMPANY_S)

    def free_pool(self) -> InferPool[ServedVersion] | None:
        """What can take a task now. One that the loop may run has nothing that a thread has not ended."""
        pool = self.pool
        if pool is None:
            return None
        self.is_crowded = pool.compiled.nireq > 1 and (pool.handed_over > 0 or len(self.queue.tasks) > 1)
        most = 1
        if self.runs_in_threads:
            is_long = self.run_time_s > _LONG_RUN_S
            most = pool.compiled.nireq if is_long else pool.most_handed_over
        return pool if pool.handed_over < most else None

    def take(self, queued: QueuedTask) -> Evicted | None:
        """Queue a task, unless others before it leave too little of the time that its client waits.

        Returns:
            A task that has lost its place in a full queue, as its flow has more there, and its answer.

        Raises:
            QueueFull: They do, or the queue is at its bounds. How long the client might wait before it tries again
                is what the tasks that wait take to run.
        """
        pool, deadline_ns = self.pool, queued.task.deadline_ns
        if not self.queue.tasks:
            # It may have had some whose clients have gone, and has not waited since.
            self.share.is_waiting = False
        if pool is not None and deadline_ns:
            # PERF: 0.2 us. Most have much more time than all that is there would take one by one.
            most = len(self.queue.tasks) + pool.handed_over + 1
            if most * self.run_time_s * 1e9 > deadline_ns - queued.taken_ns and most > 1:
                self._refuse_late(pool, queued)
        try:
            self.queue.push(queued)
        except QueueFull as full:
            if pool is not None:
                waiting = len(self.queue.tasks)
                each_s = self.run_time_s / self.batch_size
                full.retry_after_s = _RETRY_PART * self._wait_s(pool, waiting, queued.taken_ns, each_s)
            evicted = self.queue.evict_for(queued)
            if evicted is None:
                raise
            self.queue.push(queued)
            return evicted, full
        return None

    def _refuse_late(self, pool: InferPool[ServedVersion], queued: QueuedTask) -> None:
        left_s = (queued.task.deadline_ns - queued.taken_ns) / 1e9
        if left_s <= 0.0:
            return  # Where its turn comes, or the queue is swept, it is told that its deadline has passed.
        ahead, least_s = self.queue.tasks.ahead_of(queued), self.least_run_time_s
        # What goes first passes what waits at the pool, too.
        passed = max(0, pool.handed_over - pool.compiled.nireq) if queued.task.priority else 0
        wait_s = self._wait_s(pool, ahead - passed, queued.taken_ns, least_s)
        if wait_s > left_s:
            raise _too_late(ahead + pool.handed_over, least_s, wait_s, left_s)

    @property
    def least_run_time_s(self) -> float:
        """Of the quickest of the last runs: a request is refused for its deadline only when that cannot be met."""
        return min(self.recent_s, default=0.0)

    def _wait_s(self, pool: InferPool[ServedVersion], ahead: int, now_ns: int, run_time_s: float) -> float:
        """When a task would be answered that has so many before it in the queue."""
        each_s = run_time_s / pool.compiled.nireq
        until_next_s = 0.0
        if pool.handed_over >= pool.compiled.nireq:
            ahead += pool.handed_over - pool.compiled.nireq
            until_next_s = max(0.0, each_s - (now_ns - pool.begun_ns) / 1e9)
        return ahead * each_s + until_next_s + run_time_s

    def is_too_late(self, queued: QueuedTask) -> bool:
        """Whether a task would end after its deadline, and others wait that may not."""
        deadline_ns = queued.task.deadline_ns
        return (
            deadline_ns > 0
            and bool(self.queue.tasks)
            and deadline_ns < time.monotonic_ns() + int(1e9 * self.least_run_time_s)
        )

    def too_late(self, queued: QueuedTask) -> QueueFull:
        """The failure of such a task."""
        left_s = max(0.0, (queued.task.deadline_ns - time.monotonic_ns()) / 1e9)
        least_s = self.least_run_time_s
        return _too_late(len(self.queue.tasks), least_s, least_s, left_s)

    def patience_s(self) -> float:
        """How long an answer may wait for others, so that they leave together: half of what those behind it will wait.

        Until then the threads have enough to do. An answer that travels alone wakes four threads on its way.
        """
        return (
            0.0
            if self.pool is None
            else patience_s(
                len(self.queue.tasks), self.run_time_s / self.batch_size, self.pool.compiled.nireq
            )
        )

    def has_nothing_left(self) -> bool:
        """Whether no task of it waits or runs, nor one of its variants exists."""
        return not self.running and not self.queue.tasks and not (self.family and self.family.living)


@dataclass(slots=True)
class Family:
    """What the variants of one version share.

    Attributes:
        maker: Compiles them.
        bounds: Of all their queues together.
        table: Those that take new tasks.
        living: How many exist, with those that only finish what they have.
    """

    maker: VariantMaker
    bounds: SharedBounds
    table: VariantTable[ServedVersion]
    living: int = 0


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds >= 0.01 else f"{1000 * seconds:.2g} ms"


def _too_late(ahead: int, run_time_s: float, wait_s: float, left_s: float) -> QueueFull:
    full = QueueFull(
        f"{ahead} requests wait or run already, each runs for {_ms(run_time_s)} or longer, so the answer would come "
        f"in {_ms(wait_s)} at the earliest and the request's deadline is in {_ms(left_s)}; try again later or with "
        "more time"
    )
    full.retry_after_s = max(run_time_s, wait_s - left_s)
    return full


def patience_s(waiting: int, run_time_s: float, nireq: int) -> float:
    """See :meth:`ServedVersion.patience_s`; 0.0 where less than a millisecond would do, or where not two would come."""
    until_next_s = run_time_s / nireq
    wait_s = min(_MOST_PATIENCE_S, _PATIENCE * waiting * until_next_s)
    return wait_s if wait_s >= max(_LEAST_PATIENCE_S, 2 * until_next_s) else 0.0


def shapes_of(task: InferTask) -> Shapes:
    """The shape of each input."""
    return tuple([ref.shape for ref in task.inputs])
