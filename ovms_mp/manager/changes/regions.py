# SPDX-License-Identifier: Apache-2.0
"""Which regions of clients' shared memory are registered. They stay until somebody unregisters them, as in Triton.

The manager never opens one: fronts do, each for itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.errors import MalformedPayload, RegionExists, TooManyRegions
from ovms_mp.manager.changes.course import Outcome
from ovms_mp.wire.changes import LONGEST_REGION_NAME, RegisterRegion

if TYPE_CHECKING:
    from ovms_mp.wire.changes import RegionRecord, UnregisterRegion

MOST_REGIONS = 1024


class Regions:
    """Owned by the manager's loop.

    Attributes:
        is_changed: Whether the newest snapshot does not have them as they are.
    """

    def __init__(self) -> None:
        """None is registered."""
        self._by_name: dict[str, RegionRecord] = {}
        self.is_changed = False

    def note_snapshot(self, _epoch: int) -> None:
        """What has changed until now is in a snapshot."""
        self.is_changed = False

    def records(self) -> tuple[RegionRecord, ...]:
        """All of them, in the order in which they were registered."""
        return tuple(self._by_name.values())

    def register(self, region: RegionRecord) -> None:
        """Add a region.

        Raises:
            MalformedPayload: Its name is too long.
            RegionExists: Its name is taken.
            TooManyRegions: There are as many as there may be.
        """
        if len(region.name) > LONGEST_REGION_NAME:
            raise MalformedPayload(
                f"a shared memory region's name of {len(region.name)} characters; at most {LONGEST_REGION_NAME}"
            )
        if region.name in self._by_name:
            raise RegionExists(
                f"shared memory region '{region.name}' already in manager; unregister it first, or use another name"
            )
        if len(self._by_name) >= MOST_REGIONS:
            raise TooManyRegions(
                f"{MOST_REGIONS} shared memory regions are registered, which is the limit; unregister those of "
                f"clients that are gone"
            )
        self._by_name[region.name] = region
        self.is_changed = True

    def unregister(self, name: str) -> bool:
        """Forget a region, or all with an empty name; whether there was any."""
        names = [name] if name else list(self._by_name)
        found = [entry for entry in names if self._by_name.pop(entry, None) is not None]
        self.is_changed |= bool(found)
        return bool(found)

    def course(self, change: RegisterRegion | UnregisterRegion) -> RegionCourse:
        """A change of these."""
        return RegionCourse(self, change)


@dataclass(slots=True)
class RegionCourse:
    """See :class:`~.course.Course`; has its outcome when it has begun."""

    regions: Regions
    change: RegisterRegion | UnregisterRegion
    subject: str = ""
    is_changed: bool = True

    def begin(self) -> None:
        """Register or unregister."""
        if isinstance(self.change, RegisterRegion):
            self.regions.register(self.change.region)
        else:
            self.is_changed = self.regions.unregister(self.change.name)

    def outcome(self) -> Outcome:
        """It is done."""
        return Outcome(self.is_changed)
