# SPDX-License-Identifier: Apache-2.0
"""The worker's queues: one per model version, bounded by tasks and bytes; connections take turns in it.

Tasks are of two classes. Those that go first (``InferTask.priority``) are taken before ordinary ones, in their
version's queue and among all versions of the worker; but every eighth turn is that of the ordinary ones, so that they
do not starve. Bounds are the same for both.
"""

from __future__ import annotations

import itertools
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ovms_mp.errors import CallCancelled, DeadlineExceeded, QueueFull

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ovms_mp.errors import OvmsError
    from ovms_mp.wire.arena import Arena
    from ovms_mp.wire.tasks import InferTask
    from ovms_mp.worker.run.region_maps import MappedRegion


LEAST_UNWANTED = 1024
MANY = 4
MOST_AHEAD = 7
"""So many turns in a row are those of tasks that go first, while ordinary ones wait."""


@dataclass(slots=True)
class Unwanted:
    """Tasks of one front that nobody waits for any more, by id; also some that had run before that was heard.

    Attributes:
        ids: Written by the loop, read by threads, too.
        most: With more of them it is time to forget those that are not here any more.
    """

    ids: set[int] = field(default_factory=set)
    most: int = LEAST_UNWANTED


@dataclass(frozen=True, slots=True)
class Peer:
    """A front, as its address on the data channel says: the arena it owns and that arena's epoch.

    ``regions`` are clients' memory that it has attached, by number.
    """

    identity: bytes
    arena_index: int
    arena_epoch: int
    arena: Arena
    unwanted: Unwanted = field(default_factory=Unwanted, compare=False)
    regions: dict[int, MappedRegion] = field(default_factory=dict, compare=False)

    @property
    def arena_key(self) -> tuple[int, int]:
        """The arena and its epoch."""
        return self.arena_index, self.arena_epoch


@dataclass(slots=True)
class QueuedTask:
    """A task that waits for an infer request.

    ``taken_ns`` is when it came, by the clock that runs are timed by. When it runs, ``charged_s`` is by how much that
    has moved its model's clock (:mod:`ovms_mp.worker.run.shares`).
    """

    peer: Peer
    task: InferTask
    nbytes: int
    taken_ns: int
    is_cancelled: bool = False
    is_second_try: bool = False
    charged_s: float = 0.0

    @property
    def flow_key(self) -> tuple[bytes, int]:
        """Whose task it is; a task without a flow is one by itself."""
        return self.peer.identity, self.task.flow or -self.task.task_id

    @property
    def is_expired(self) -> bool:
        """Whether its deadline has passed."""
        return 0 < self.task.deadline_ns < time.monotonic_ns()

    def refusal(self) -> OvmsError | None:
        """Why it need not run any more; None while its client waits."""
        if self.is_cancelled or self.task.task_id in self.peer.unwanted.ids:
            return CallCancelled("cancelled by the client")
        if self.is_expired:
            return DeadlineExceeded("deadline passed while waiting in the queue")
        return None


@dataclass(slots=True)
class FirstTasks:
    """How many tasks that go first wait at this worker, in all its queues."""

    waiting: int = 0


class Turns:
    """Waiting tasks: flows take turns, a task each, so that a connection with many is not ahead of one with a few.

    Tasks of one flow, and flows of one task each, go in the order of their arrival. All that holds within a class.
    PERF: that there are two classes costs an ordinary task 30 ns.
    """

    __slots__ = ("_ahead", "_all_first", "_count", "_first", "_flows", "_has_passed")

    def __init__(self, all_first: FirstTasks) -> None:
        self._flows: OrderedDict[tuple[bytes, int], deque[QueuedTask]] = OrderedDict()
        self._first: OrderedDict[tuple[bytes, int], deque[QueuedTask]] = OrderedDict()
        self._all_first = all_first
        self._ahead = 0
        self._count = 0
        self._has_passed = False
        """Whether a new flow has had itself put ahead since one with several tasks had its turn."""

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[QueuedTask]:
        """Flow by flow."""
        return itertools.chain.from_iterable((*self._first.values(), *self._flows.values()))

    @property
    def has_first(self) -> bool:
        """Whether one of them goes first."""
        return bool(self._first)

    def ahead_of(self, queued: QueuedTask) -> int:
        """How many tasks would be taken before this one at least, if it were added now and no other came."""
        flows = self._first if queued.task.priority else self._flows
        own = flows.get(queued.flow_key)
        turns = 1 if own is None else len(own) + 1
        ahead = 0
        if own is not None or not self._may_pass(flows):
            for flow in flows.values():
                ahead += min(turns, len(flow))
                if flow is own:
                    turns -= 1  # Those behind it have had one less when it has its last.
        if self._first and not queued.task.priority:
            ahead += min(sum(map(len, self._first.values())), MOST_AHEAD * (ahead + 1) - self._ahead)
        return ahead

    def _may_pass(self, flows: OrderedDict[tuple[bytes, int], deque[QueuedTask]]) -> bool:
        """Whether a new flow would have the next turn."""
        return bool(flows) and not self._has_passed and len(flows[next(iter(flows))]) >= MANY

    def append(self, queued: QueuedTask) -> None:
        """Add a task behind those of its flow; a new flow has its turn when all others have had one.

        Or it has the next one, before a flow with many tasks: who asks for little waits for one run, not for two. Only
        one does so before each turn of theirs.
        """
        flows = self._note_first() if queued.task.priority else self._flows
        self._count += 1
        flow = flows.get(key := queued.flow_key)
        if flow is None:
            is_ahead = self._may_pass(flows)
            flows[key] = deque((queued,))
            if is_ahead:
                self._has_passed = True
                flows.move_to_end(key, last=False)
        else:
            flow.append(queued)

    def keep(self, several: Sequence[QueuedTask]) -> None:
        """Have these only, of those that are here, in the order in which they are; whose turn it is stays so."""
        self._all_first.waiting -= sum(map(len, self._first.values()))
        self._first.clear()
        self._flows.clear()
        self._count = 0
        has_passed, self._has_passed = self._has_passed, True  # None passes another flow's.
        for queued in several:
            self.append(queued)
        self._has_passed = has_passed

    def appendleft(self, queued: QueuedTask) -> None:
        """Add a task that is the next one of its class."""
        flows = self._note_first() if queued.task.priority else self._flows
        self._count += 1
        flows.setdefault(key := queued.flow_key, deque()).appendleft(queued)
        flows.move_to_end(key, last=False)

    def popleft(self) -> QueuedTask:
        """Take the next task; its flow's next one comes when all others have had a turn."""
        flows = self._next_class() if self._first else self._flows
        self._count -= 1
        key = next(iter(flows))
        flow = flows[key]
        queued = flow.popleft()
        if not flow:
            del flows[key]
        else:
            self._has_passed = False
            if len(flows) > 1:
                flows.move_to_end(key)
        return queued

    def evict_for(self, queued: QueuedTask, least_nbytes: int) -> QueuedTask | None:
        """Take out the newest task of the flow that has most, if a new one has a better right to its place.

        That is so if its own flow has fewer and would not have more then, or if it goes first.

        Args:
            queued: The new one.
            least_nbytes: So much must be won.
        """
        if not self._flows:
            return None
        key = max(self._flows, key=lambda key: len(self._flows[key]))
        flow = self._flows[key]
        own = self._flows.get(queued.flow_key, ())
        if (not queued.task.priority and len(own) + 1 >= len(flow)) or flow[-1].nbytes < least_nbytes:
            return None
        self._count -= 1
        evicted = flow.pop()
        if not flow:
            del self._flows[key]
        return evicted

    def _note_first(self) -> OrderedDict[tuple[bytes, int], deque[QueuedTask]]:
        self._all_first.waiting += 1
        return self._first

    def _next_class(self) -> OrderedDict[tuple[bytes, int], deque[QueuedTask]]:
        """Whose turn it is where some go first."""
        if self._flows and self._ahead >= MOST_AHEAD:
            self._ahead = 0
            return self._flows
        self._ahead = self._ahead + 1 if self._flows else 0
        self._all_first.waiting -= 1
        return self._first


@dataclass(slots=True)
class VersionQueue:
    """Tasks of one version, from all fronts."""

    max_tasks: int
    max_bytes: int
    all_first: FirstTasks = field(default_factory=FirstTasks)
    tasks: Turns = field(init=False)
    nbytes: int = 0

    def __post_init__(self) -> None:
        """Begin with none."""
        self.tasks = Turns(self.all_first)

    def push(self, queued: QueuedTask) -> None:
        """Append a task.

        Raises:
            QueueFull: One of the bounds would be passed. A single task longer than the byte bound is taken by
                an empty queue.
        """
        if len(self.tasks) >= self.max_tasks or (self.tasks and self.nbytes + queued.nbytes > self.max_bytes):
            raise _queue_full(len(self.tasks), self.nbytes, queued.nbytes, self.max_tasks, self.max_bytes)
        self.tasks.append(queued)
        self.nbytes += queued.nbytes

    def pop(self) -> QueuedTask | None:
        """The next task, or None."""
        if not self.tasks:
            return None
        queued = self.tasks.popleft()
        self.nbytes -= queued.nbytes
        return queued

    def put_back(self, queued: QueuedTask) -> None:
        """Put a task at the head again, whatever the bounds say: it has been let in before."""
        self.tasks.appendleft(queued)
        self.nbytes += queued.nbytes

    def evict_for(self, queued: QueuedTask) -> QueuedTask | None:
        """Make room for a task that was refused, where that is fair; what had it still needs its answer."""
        if len(self.tasks) > self.max_tasks:
            return None  # One was put back: another's place would not be enough.
        evicted = self.tasks.evict_for(queued, self._missing_bytes(queued))
        if evicted is not None:
            self.nbytes -= evicted.nbytes
        return evicted

    def _missing_bytes(self, queued: QueuedTask) -> int:
        return self.nbytes + queued.nbytes - self.max_bytes

    def take_out(self, is_unwanted: Callable[[QueuedTask], bool]) -> list[QueuedTask]:
        """Remove the tasks that nobody wants any more, wherever they stand; each still needs its answer."""
        taken = [queued for queued in self.tasks if is_unwanted(queued)]
        if taken:
            gone = {id(queued) for queued in taken}
            stay = [queued for queued in self.tasks if id(queued) not in gone]
            self.tasks.keep(stay)
            self.nbytes -= sum(queued.nbytes for queued in taken)
        return taken


@dataclass(slots=True)
class SharedBounds:
    """Bounds that several queues have together, and what waits in all of them."""

    max_tasks: int
    max_bytes: int
    tasks: int = 0
    nbytes: int = 0


class VariantQueue(VersionQueue):
    """The queue of one of a version's variants. A version does not get more room for being compiled several times."""

    __slots__ = ("_bounds",)

    def __init__(self, bounds: SharedBounds, all_first: FirstTasks) -> None:
        super().__init__(bounds.max_tasks, bounds.max_bytes, all_first)
        self._bounds = bounds

    def push(self, queued: QueuedTask) -> None:
        """Append a task.

        Raises:
            QueueFull: All variants of the version together would pass one of the bounds.
        """
        bounds = self._bounds
        if bounds.tasks >= bounds.max_tasks or (
            bounds.tasks and bounds.nbytes + queued.nbytes > bounds.max_bytes
        ):
            raise _queue_full(bounds.tasks, bounds.nbytes, queued.nbytes, bounds.max_tasks, bounds.max_bytes)
        self.tasks.append(queued)
        self._count(1, queued.nbytes)

    def pop(self) -> QueuedTask | None:
        """The next task, or None."""
        if not self.tasks:
            return None
        queued = self.tasks.popleft()
        self._count(-1, -queued.nbytes)
        return queued

    def put_back(self, queued: QueuedTask) -> None:
        """Put a task at the head again, whatever the bounds say: it has been let in before."""
        self.tasks.appendleft(queued)
        self._count(1, queued.nbytes)

    def evict_for(self, queued: QueuedTask) -> QueuedTask | None:
        """Make room for a task that was refused; what had it still needs its answer."""
        if self._bounds.tasks > self._bounds.max_tasks:
            return None
        evicted = super().evict_for(queued)
        if evicted is not None:
            self._bounds.tasks -= 1
            self._bounds.nbytes -= evicted.nbytes
        return evicted

    def _missing_bytes(self, queued: QueuedTask) -> int:
        return self._bounds.nbytes + queued.nbytes - self._bounds.max_bytes

    def take_out(self, is_unwanted: Callable[[QueuedTask], bool]) -> list[QueuedTask]:
        """Remove the tasks that nobody wants any more; each still needs its answer."""
        taken = super().take_out(is_unwanted)
        self._bounds.tasks -= len(taken)
        self._bounds.nbytes -= sum(queued.nbytes for queued in taken)
        return taken

    def _count(self, tasks: int, nbytes: int) -> None:
        self.nbytes += nbytes
        self._bounds.tasks += tasks
        self._bounds.nbytes += nbytes


def _queue_full(waiting: int, nbytes: int, more_nbytes: int, max_tasks: int, max_bytes: int) -> QueueFull:
    if waiting >= max_tasks:
        return QueueFull(f"{waiting} requests wait already, the limit (--max_queue_tasks); try again later")
    return QueueFull(
        f"{nbytes} bytes of tensors wait already and {more_nbytes} more would pass the limit of {max_bytes} "
        "(--max_queue_mb); try again later"
    )
