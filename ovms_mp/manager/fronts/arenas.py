# SPDX-License-Identifier: Apache-2.0
"""Which front owns which arena, and when a dead front's arena may be given to the next.

An arena passes through: free -> owned by a front under an epoch -> retired, until every worker that might
touch it has said :class:`~ovms_mp.wire.messages.ArenaReleased` or has been reaped -> free. There are twice as
many arenas as fronts, so that a successor does not wait for a worker's long inference to end.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ovms_mp.wire.arena import create_arena_file, discard_pages
from ovms_mp.wire.records import ArenaHandle

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(slots=True)
class _Arena:
    handle: ArenaHandle
    epoch: int = 0
    owner: str = ""
    waiting_for: set[str] = field(default_factory=set)


class ArenaPool:
    """The manager's record of all arenas; owns their descriptors."""

    def __init__(self, count: int, size_bytes: int) -> None:
        self._arenas = [
            _Arena(ArenaHandle(create_arena_file(index, size_bytes), size_bytes)) for index in range(count)
        ]

    @property
    def handles(self) -> tuple[ArenaHandle, ...]:
        """For the children's specs."""
        return tuple(arena.handle for arena in self._arenas)

    def descriptors(self) -> tuple[int, ...]:
        """For inheritance."""
        return tuple(arena.handle.descriptor for arena in self._arenas)

    def claim(self, owner: str) -> tuple[int, int] | None:
        """Give a free arena to a front: (index, epoch); None when all are owned or still being released."""
        for index, arena in enumerate(self._arenas):
            if not arena.owner and not arena.waiting_for:
                arena.owner = owner
                arena.epoch += 1
                return index, arena.epoch
        return None

    def retire(self, owner: str, workers: Iterable[str]) -> tuple[int, int] | None:
        """Take a dead front's arena back: (index, epoch) for the workers' notice; None if it owned none."""
        for index, arena in enumerate(self._arenas):
            if arena.owner == owner:
                arena.owner = ""
                arena.waiting_for = set(workers)
                self._discard_if_released(arena)
                return index, arena.epoch
        return None

    def released(self, worker: str, index: int, epoch: int) -> None:
        """A worker does not touch that epoch any more."""
        if not 0 <= index < len(self._arenas):
            return
        arena = self._arenas[index]
        if arena.epoch == epoch and worker in arena.waiting_for:
            arena.waiting_for.discard(worker)
            self._discard_if_released(arena)

    def worker_reaped(self, worker: str) -> None:
        """A worker is dead; whatever it still had to say about arenas is settled."""
        for arena in self._arenas:
            if worker in arena.waiting_for:
                arena.waiting_for.discard(worker)
                self._discard_if_released(arena)

    def close(self) -> None:
        """Give the descriptors back."""
        for arena in self._arenas:
            os.close(arena.handle.descriptor)
        self._arenas.clear()

    def _discard_if_released(self, arena: _Arena) -> None:
        if not arena.owner and not arena.waiting_for:
            discard_pages(arena.handle.descriptor, arena.handle.size_bytes)
