# SPDX-License-Identifier: Apache-2.0
"""The arena's allocator: which bytes are leased. Pure bookkeeping in the front that owns the arena.

First fit over a sorted list of free extents, neighbours merged on release. Low addresses are taken first, so
that the pages touched are as few as the load needs. Nothing of this lives in shared memory: no lock, no flag,
no free list that a crashed process could leave half-written.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

ALIGNMENT_BYTES = 64
"""Start of every lease and tensor: a cache line, and the widest vector load (AVX-512)."""


def aligned(nbytes: int) -> int:
    """``nbytes`` rounded up to the alignment."""
    return (nbytes + ALIGNMENT_BYTES - 1) & -ALIGNMENT_BYTES


@dataclass(frozen=True, slots=True)
class AllocatorStatistics:
    """What an arena holds at one moment."""

    size_bytes: int
    leased_bytes: int
    leases: int
    high_water_bytes: int


class ArenaAllocator:
    """Leases byte ranges of one arena. Not thread-safe: it belongs to one event loop."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes & -ALIGNMENT_BYTES
        self._starts = [0] if self.size_bytes else []
        self._sizes = [self.size_bytes] if self.size_bytes else []
        self._leases: dict[int, int] = {}
        self._high_water = 0

    def allocate(self, nbytes: int) -> int | None:
        """Lease ``nbytes``; the offset, a multiple of 64, or None when no free extent is long enough."""
        needed = aligned(nbytes) or ALIGNMENT_BYTES
        index = next((index for index, size in enumerate(self._sizes) if size >= needed), -1)
        if index < 0:
            return None
        offset, size = self._starts[index], self._sizes[index]
        if size == needed:
            del self._starts[index], self._sizes[index]
        else:
            self._starts[index] = offset + needed
            self._sizes[index] = size - needed
        self._leases[offset] = needed
        if offset + needed > self._high_water:
            self._high_water = offset + needed
        return offset

    def release(self, offset: int) -> None:
        """Give a lease back.

        Raises:
            KeyError: No lease starts there: a second release, the caller's defect.
        """
        size = self._leases.pop(offset)
        starts, sizes = self._starts, self._sizes
        index = bisect_left(starts, offset)
        joins_next = index < len(starts) and offset + size == starts[index]
        joins_previous = index > 0 and starts[index - 1] + sizes[index - 1] == offset
        if joins_previous and joins_next:
            sizes[index - 1] += size + sizes[index]
            del starts[index], sizes[index]
        elif joins_previous:
            sizes[index - 1] += size
        elif joins_next:
            starts[index] = offset
            sizes[index] += size
        else:
            starts.insert(index, offset)
            sizes.insert(index, size)

    def free_bytes(self) -> int:
        """What is not leased, in whatever pieces."""
        return sum(self._sizes)

    def take_high_water(self) -> int:
        """End of the highest lease since the last call; the mark then falls to what is leased now."""
        mark = self._high_water
        self._high_water = max((start + size for start, size in self._leases.items()), default=0)
        return mark

    def statistics(self) -> AllocatorStatistics:
        """A record of this moment."""
        return AllocatorStatistics(
            self.size_bytes, sum(self._leases.values()), len(self._leases), self._high_water
        )
