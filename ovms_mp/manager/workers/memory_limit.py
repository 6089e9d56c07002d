# SPDX-License-Identifier: Apache-2.0
"""Finds workers that exceed ``--worker_memory_limit_mb``, and avoids replacements that would not help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.child.memory import own_memory_bytes
from ovms_mp.config.server import MEBIBYTE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ovms_mp.manager.children.child import Child
    from ovms_mp.manager.clock import Clock
    from ovms_mp.manager.workers.workers import Seat

_AGAIN_FIRST_S = 10.0
_AGAIN_LONGEST_S = 3600.0
_GROWTH_WORTH_REPLACING = 1.1
"""A successor that starts out above the limit is replaced only when it has grown by this factor since."""


@dataclass(slots=True)
class _Record:
    """When a seat's worker was replaced for its memory, and what its successor needs at least."""

    allowed_at: float = 0.0
    delay_s: float = _AGAIN_FIRST_S
    at_start_bytes: int = 0


class MemoryLimit:
    """Remembers replacements by seat, so that they do not follow one another for nothing."""

    def __init__(self, limit_mb: int, clock: Clock) -> None:
        """Prepare.

        Args:
            limit_mb: Most memory of a worker's own.
            clock: The manager's.
        """
        self._limit_bytes = limit_mb * MEBIBYTE
        self._clock = clock
        self._records: dict[str, _Record] = {}

    def exceeded(self, seats: Iterable[Seat]) -> Iterator[tuple[Seat, str]]:
        """Seats whose workers are to be replaced, each with the reason."""
        for seat in seats:
            if not seat.is_ready or seat.child is None:
                continue
            record = self._records.setdefault(seat.name, _Record())
            own = own_memory_bytes(seat.child.pid)
            if own <= self._limit_bytes or self._clock.monotonic() < record.allowed_at:
                continue
            if own >= record.at_start_bytes * _GROWTH_WORTH_REPLACING:
                limit_mb = self._limit_bytes // MEBIBYTE
                yield (
                    seat,
                    f"{own // MEBIBYTE} MiB of its own, the limit is {limit_mb} (--worker_memory_limit_mb)",
                )

    def replaced(self, seat: Seat, successor: Seat) -> None:
        """Another one is being started in place of a worker that has outgrown the limit."""
        record = self._records[seat.name]
        # For the successor, and for this one should the successor not come to life.
        record.allowed_at = self._clock.monotonic() + record.delay_s
        record.delay_s = min(2 * record.delay_s, _AGAIN_LONGEST_S)
        self._records[successor.name] = _Record(record.allowed_at, record.delay_s)

    def succeeded(self, seat: Seat, child: Child) -> None:
        """A successor has loaded everything: what it takes now is what it needs."""
        if seat.name in self._records:
            self._records[seat.name].at_start_bytes = own_memory_bytes(child.pid)

    def forget(self, seat: Seat) -> None:
        """A seat is given up."""
        self._records.pop(seat.name, None)
