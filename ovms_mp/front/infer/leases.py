# SPDX-License-Identifier: Apache-2.0
"""Who holds which memory of this front's arena: leases for requests, and for messages that are still arriving.

A lease ends when all its holders have let go and no worker has a task with it; never with the client's patience, as
the worker may still be writing. One event loop owns it all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.errors import NoFreeSlot, TensorTooLarge
from ovms_mp.wire.allocator import ArenaAllocator

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ovms_mp.front.infer.arrivals import Arrival, Arrivals
    from ovms_mp.front.regions.region import Region
    from ovms_mp.wire.arena import Arena

_TRIM_SLACK_BYTES = 16 << 20
"""Arena memory above the recent high-water mark that is not worth giving back."""


@dataclass(slots=True)
class Lease:
    """A range of the arena. It is free when all its holders have let go *and* no worker can touch it.

    Or of a client's ``region``, which is held once for it until then.
    """

    offset_bytes: int
    nbytes: int
    holders: int = 1
    tasks: int = 0
    region: Region | None = None


@dataclass(frozen=True, slots=True)
class LeaseStatistics:
    """What is leased at one moment, and the end of the highest lease that there was."""

    leases: int
    leased_bytes: int
    most_bytes: int


class Leases:
    """All leases of one arena."""

    def __init__(self, arena: Arena, arrivals: Arrivals) -> None:
        """Begin with none.

        Args:
            arena: The arena that this front owns.
            arrivals: Where a lease does not fit, those that lag behind are given up.
        """
        self.memory = arena.memory
        self._arena = arena
        self._arrivals = arrivals
        self._allocator = ArenaAllocator(arena.size_bytes)
        self._touched_bytes = 0
        self._most_bytes = 0

    def lease(self, nbytes: int) -> Lease:
        """Lease arena memory.

        Raises:
            TensorTooLarge: It would not fit an empty arena.
            NoFreeSlot: It does not fit now, and no arrival lags behind.
        """
        offset = self._allocator.allocate(nbytes)
        size = self._arena.size_bytes
        while offset is None and nbytes <= size and self._arrivals.give_up_latest():
            offset = self._allocator.allocate(nbytes)
        if offset is None:
            if nbytes > size:
                raise TensorTooLarge(
                    f"the request's tensors need {nbytes} bytes of shared memory, the arena of this front has {size}; "
                    f"raise --arena_size_mb"
                )
            raise NoFreeSlot(
                f"the request's tensors need {nbytes} bytes of shared memory and the arena of {size} bytes is in use; "
                f"try again later or raise --arena_size_mb"
            )
        return Lease(offset, nbytes)

    def lease_arriving(self, arrival: Arrival, nbytes: int) -> Lease:
        """Lease memory for a message that is still arriving, which may be given up for others from then on.

        Raises:
            TensorTooLarge: It would not fit an empty arena.
            NoFreeSlot: It does not fit now, and no other arrival lags behind.
        """
        # It is not among the arrivals while it asks, so it cannot be given up for itself.
        begun_ns = self._arrivals.take_out(arrival)
        lease = self.lease(nbytes)
        self._arrivals.put_in(arrival, begun_ns)
        return lease

    def hold(self, lease: Lease) -> None:
        """Hold a lease once more, beyond whoever holds it now; ends with a :meth:`release` of its own."""
        lease.holders += 1

    def release(self, lease: Lease) -> None:
        """Let go of a lease; its memory is free once nobody else holds it and no worker has a task with it."""
        lease.holders -= 1
        if not lease.holders and not lease.tasks:
            self._free(lease)

    def task_ended(self, leases: Iterable[Lease]) -> None:
        """A worker has answered a task with these leases, or has been reaped, so it does not touch them any more."""
        for lease in leases:
            lease.tasks -= 1
            if not lease.holders and not lease.tasks:
                self._free(lease)

    def _free(self, lease: Lease) -> None:
        if lease.region is None:
            self._allocator.release(lease.offset_bytes)
        else:
            lease.region.release()

    def free_bytes(self) -> int:
        """Arena memory that is not leased, though not in one piece."""
        return self._allocator.free_bytes()

    def trim(self) -> None:
        """Give memory that recent requests did not need back to the machine. Called now and then."""
        mark = self._allocator.take_high_water()
        self._most_bytes = max(self._most_bytes, mark)
        if self._touched_bytes - mark > _TRIM_SLACK_BYTES:
            self._arena.discard(mark, self._touched_bytes)
            self._touched_bytes = mark
        else:
            self._touched_bytes = max(mark, self._touched_bytes)

    def statistics(self) -> LeaseStatistics:
        """A record of this moment."""
        arena = self._allocator.statistics()
        most_bytes = max(self._most_bytes, arena.high_water_bytes)
        return LeaseStatistics(arena.leases, arena.leased_bytes, most_bytes)
