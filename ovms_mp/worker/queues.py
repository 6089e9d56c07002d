# SPDX-License-Identifier: Apache-2.0
"""The worker's queues: one per model version, first in first out, bounded by tasks and bytes."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ovms_mp.errors import QueueFull

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovms_mp.wire.arena import Arena
    from ovms_mp.wire.messages import InferTask


@dataclass(frozen=True, slots=True)
class Peer:
    """A front, as its address on the data channel says: the arena it owns and that arena's epoch."""

    identity: bytes
    arena_index: int
    arena_epoch: int
    arena: Arena

    @property
    def arena_key(self) -> tuple[int, int]:
        """The arena and its epoch."""
        return self.arena_index, self.arena_epoch


@dataclass(slots=True)
class QueuedTask:
    """A task that waits for an infer request."""

    peer: Peer
    task: InferTask
    nbytes: int
    is_cancelled: bool = False
    is_second_try: bool = False


@dataclass(slots=True)
class VersionQueue:
    """Tasks of one version, in the order of their arrival over all fronts."""

    max_tasks: int
    max_bytes: int
    tasks: deque[QueuedTask] = field(default_factory=deque)
    nbytes: int = 0

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
        """The oldest task, or None."""
        if not self.tasks:
            return None
        queued = self.tasks.popleft()
        self.nbytes -= queued.nbytes
        return queued

    def put_back(self, queued: QueuedTask) -> None:
        """Put a task at the head again, whatever the bounds say: it has been let in before."""
        self.tasks.appendleft(queued)
        self.nbytes += queued.nbytes

    def take_out(self, is_unwanted: Callable[[QueuedTask], bool]) -> list[QueuedTask]:
        """Remove the tasks that nobody wants any more, wherever they stand; each still needs its answer."""
        taken = [queued for queued in self.tasks if is_unwanted(queued)]
        if taken:
            gone = {id(queued) for queued in taken}
            self.tasks = deque(queued for queued in self.tasks if id(queued) not in gone)
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

    def __init__(self, bounds: SharedBounds) -> None:
        super().__init__(bounds.max_tasks, bounds.max_bytes)
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
        """The oldest task, or None."""
        if not self.tasks:
            return None
        queued = self.tasks.popleft()
        self._count(-1, -queued.nbytes)
        return queued

    def put_back(self, queued: QueuedTask) -> None:
        """Put a task at the head again, whatever the bounds say: it has been let in before."""
        self.tasks.appendleft(queued)
        self._count(1, queued.nbytes)

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
