# SPDX-License-Identifier: Apache-2.0
"""Which regions of clients' shared memory are registered.

Those that have names in the system stay until somebody unregisters them, as in Triton, and the manager never opens one:
fronts do, each for itself. Sealed ones belong to a connection (:mod:`.region_socket`). Their descriptors are here, from
where fronts open them, until they are unregistered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.errors import MalformedPayload, RegionExists, TooManyRegions
from ovms_mp.manager.changes.course import Outcome
from ovms_mp.wire.changes import LONGEST_REGION_NAME, RegisterRegion
from ovms_mp.wire.closing import close_aside

if TYPE_CHECKING:
    from ovms_mp.wire.changes import RegionRecord, UnregisterRegion

MOST_REGIONS = 1024
MOST_SEALED = 256
"""Over all connections: manager and fronts have a descriptor of each open."""
MOST_OF_ONE = 64
"""Of one connection."""
NOBODY = 0
"""Who owns regions that have names in the system."""
_MEBIBYTE = 1 << 20


class Regions:
    """Owned by the manager's loop.

    Attributes:
        is_changed: Whether the newest snapshot does not have them as they are.
    """

    def __init__(self, most_sealed_bytes: int = 0) -> None:
        """None is registered.

        Args:
            most_sealed_bytes: Of all connections together (--client_shm_limit_mb).
        """
        self._most_sealed_bytes = most_sealed_bytes
        self._by_name: dict[str, RegionRecord] = {}
        self._owners: dict[str, int] = {}
        self.is_changed = False

    def note_snapshot(self, _epoch: int) -> None:
        """What has changed until now is in a snapshot."""
        self.is_changed = False

    def records(self) -> tuple[RegionRecord, ...]:
        """All of them, in the order in which they were registered."""
        return tuple(self._by_name.values())

    def of(self, owner: int) -> list[RegionRecord]:
        """Those of a connection."""
        return [record for name, record in self._by_name.items() if self._owners[name] == owner]

    def owners(self) -> set[int]:
        """Connections that have some."""
        return set(self._owners.values())

    def register(self, region: RegionRecord, owner: int = NOBODY) -> None:
        """Add a region; the descriptor of a sealed one is owned here from then on.

        Args:
            region: What there is.
            owner: The connection's number.

        Raises:
            MalformedPayload: Its name is too long.
            RegionExists: Its name is taken.
            TooManyRegions: There are as many as there may be, or with so many bytes.
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
        if region.is_sealed:
            self._refuse_too_much(region, owner)
        self._by_name[region.name] = region
        self._owners[region.name] = owner
        self.is_changed = True

    def _refuse_too_much(self, region: RegionRecord, owner: int) -> None:
        sealed = [record for record in self._by_name.values() if record.is_sealed]
        if len(sealed) >= MOST_SEALED:
            raise TooManyRegions(
                f"{MOST_SEALED} regions are registered over all connections, which is the limit; try again later"
            )
        own = self.of(owner)
        if len(own) >= MOST_OF_ONE:
            raise TooManyRegions(
                f"{MOST_OF_ONE} regions are registered over this connection, which is the limit; unregister some"
            )
        limit = self._most_sealed_bytes
        for records, most, whose in (
            (own, limit // 2, "this connection's regions"),
            (sealed, limit, "all clients' regions"),
        ):
            there = sum(record.byte_size for record in records)
            if there + region.byte_size > most:
                raise TooManyRegions(
                    f"{region.byte_size} bytes more are too many: {whose} have {there} bytes of at most {most} (raise "
                    f"--client_shm_limit_mb, which is {limit // _MEBIBYTE})"
                )

    def unregister(self, name: str) -> bool:
        """Forget a region, or with an empty name all that have names in the system; whether there was any."""
        names = [name] if name else [record.name for record in self.of(NOBODY)]
        found = [record for entry in names if (record := self._by_name.pop(entry, None)) is not None]
        for record in found:
            del self._owners[record.name]
            if record.is_sealed:
                close_aside(record.descriptor, record.byte_size)
        self.is_changed |= bool(found)
        return bool(found)

    def course(self, change: RegisterRegion | UnregisterRegion, owner: int = NOBODY) -> RegionCourse:
        """A change of these, for a connection or for whoever has asked a front."""
        return RegionCourse(self, change, owner)


@dataclass(slots=True)
class RegionCourse:
    """See :class:`~.course.Course`; has its outcome when it has begun."""

    regions: Regions
    change: RegisterRegion | UnregisterRegion
    owner: int = NOBODY
    subject: str = ""
    is_changed: bool = True

    def begin(self) -> None:
        """Register or unregister."""
        if isinstance(self.change, RegisterRegion):
            self.regions.register(self.change.region, self.owner)
        else:
            self.is_changed = self.regions.unregister(self.change.name)

    def outcome(self) -> Outcome:
        """It is done."""
        return Outcome(self.is_changed)
