# SPDX-License-Identifier: Apache-2.0
"""The regions that are registered, as this front has opened them.

The manager knows which there are, and every snapshot says it; each front opens them for itself: those with a name by
that, sealed ones by the manager's descriptor in ``/proc``. As a file may be replaced by another one of the same name or
number between two fronts' opening it, the record says which file it was, and a front that finds another one has none.
So no descriptor has to travel between our processes.
"""

from __future__ import annotations

import itertools
import logging
import time
from typing import TYPE_CHECKING

from ovms_mp.errors import OvmsError, RegionNotFound, UnsupportedOperation, shortened
from ovms_mp.front.regions.opening import SHARED_MEMORY_DIRECTORY
from ovms_mp.front.regions.ranges import SharedRange
from ovms_mp.front.regions.region import Region, open_region

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ovms_mp.wire.changes import RegionRecord
    from ovms_mp.wire.records import TensorRef

_log = logging.getLogger(__name__)

_LONGEST_NAME = 256


def _tell_nobody(_number: int) -> None:
    """No worker is referred to a region."""


class Regions:
    """All regions. All calls come from one event loop."""

    def __init__(
        self,
        *,
        is_allowed: bool,
        directory: str = SHARED_MEMORY_DIRECTORY,
        manager_pid: int = 0,
        ended: Callable[[int], None] = _tell_nobody,
    ) -> None:
        """Begin with none.

        Args:
            is_allowed: Whether clients may have any (--allow_client_shm).
            directory: Where clients' files are.
            manager_pid: Who has sealed memory.
            ended: Told the number of each region that nobody holds any more.
        """
        self.is_allowed = is_allowed
        self._directory = directory
        self._manager_pid = manager_pid
        self._ended = ended
        # No front that has this one's arena after it may begin with a number that was used: workers remember places.
        self._numbers = itertools.count(time.monotonic_ns())
        self._records: dict[str, RegionRecord] = {}
        self._open: dict[str, Region] = {}

    def replace(self, records: Sequence[RegionRecord]) -> None:
        """Take what a new snapshot says: open what has come, close what has gone once nobody uses it.

        What could not be opened when it came is tried again by :meth:`find` only: there are many snapshots, and there
        may be many regions whose clients have gone.
        """
        before, self._records = self._records, {record.name: record for record in records}
        for name, region in list(self._open.items()):
            if self._records.get(name) != region.record:
                del self._open[name]
                region.release()
        reasons: list[str] = []
        for name, record in self._records.items():
            if name not in self._open and before.get(name) != record:
                try:
                    self._open[name] = self._opened(record)
                except OvmsError as error:
                    reasons.append(f"region={name!r} {error.message}")
        if reasons:
            _log.warning("event=regions_not_opened count=%d first: %s", len(reasons), reasons[0])

    def records(self, name: str = "") -> list[RegionRecord]:
        """What is registered by this name, or everything.

        Raises:
            RegionNotFound: Nothing is.
        """
        if not name:
            return list(self._records.values())
        record = self._records.get(name)
        if record is None:
            raise RegionNotFound(
                f"Unable to find system shared memory region: '{shortened(name, _LONGEST_NAME)}'"
            )
        return [record]

    def find(self, name: str) -> Region:
        """A region; who keeps it beyond this turn of the loop holds it.

        Raises:
            UnsupportedOperation: Clients may have none.
            RegionNotFound: None is registered by this name.
            RegionUnusable: Its file cannot be opened here.
            RegionForbidden: Its file is none of the server's user and groups any more.
        """
        region = self._open.get(name)
        if region is not None:
            return region
        self.refuse_disallowed()
        record = self._records.get(name)
        if record is None:
            raise RegionNotFound(f"Unable to find shared memory region: '{shortened(name, _LONGEST_NAME)}'")
        # What failed when it came may have been for a moment.
        region = self._open[name] = self._opened(record)
        return region

    def read_part(self, ref: TensorRef, start: int, end: int) -> memoryview:
        """A copy of a part of an input that a task refers to; empty when its region has gone."""
        for region in self._open.values():
            if region.number == ref.region:
                content = memoryview(bytearray(end - start))
                region.read(SharedRange(region.record.name, ref.offset_bytes + start, end - start), content)
                return content
        return memoryview(b"")

    def _opened(self, record: RegionRecord) -> Region:
        return open_region(record, next(self._numbers), self._ended, self._directory, self._manager_pid)

    def refuse_disallowed(self) -> None:
        """Refuse what needs regions, if there may be none.

        Raises:
            UnsupportedOperation: There may be none. The first words are Triton's.
        """
        if not self.is_allowed:
            raise UnsupportedOperation(
                "Client shared memory is disabled. Start the server with '--allow_client_shm' to enable it; clients "
                "and server must then be on one machine, with one shared memory directory and one user or group"
            )

    def close(self) -> None:
        """Let go of all; the front is about to end."""
        self.replace(())
