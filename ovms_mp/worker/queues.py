# SPDX-License-Identifier: Apache-2.0
"""The worker's queues: one per model version, first in first out, bounded by tasks and bytes."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ovms_mp.errors import QueueFull

if TYPE_CHECKING:
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
        if len(self.tasks) >= self.max_tasks:
            raise QueueFull(
                f"{len(self.tasks)} requests wait already, the limit (--max_queue_tasks); try again later"
            )
        if self.tasks and self.nbytes + queued.nbytes > self.max_bytes:
            raise QueueFull(
                f"{self.nbytes} bytes of tensors wait already and {queued.nbytes} more would pass the limit of "
                f"{self.max_bytes} (--max_queue_mb); try again later"
            )
        self.tasks.append(queued)
        self.nbytes += queued.nbytes

    def pop(self) -> QueuedTask | None:
        """The oldest task, or None."""
        if not self.tasks:
            return None
        queued = self.tasks.popleft()
        self.nbytes -= queued.nbytes
        return queued
