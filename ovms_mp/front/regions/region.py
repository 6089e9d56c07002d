# SPDX-License-Identifier: Apache-2.0
"""An open region of a client's shared memory, from which tensors are copied and to which results are.

It is never mapped here: who touches a mapping whose file has shrunk is killed by SIGBUS, while reading and writing give
an error or less than was asked for. PERF: preadv copies 602 kB in 26 us, memcpy from a mapping in 7. Sealed memory
cannot shrink, so that workers map it, and read inputs where they are.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ovms_mp.errors import RegionMismatch, RegionUnusable, shortened
from ovms_mp.front.regions.opening import SHARED_MEMORY_DIRECTORY, FileIdentity, open_file, open_sealed
from ovms_mp.wire.allocator import ALIGNMENT_BYTES
from ovms_mp.wire.closing import close_aside
from ovms_mp.wire.tasks import AttachRegion

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovms_mp.front.regions.ranges import SharedRange
    from ovms_mp.wire.changes import RegionRecord

_LONGEST_NAME = 256


class Region:
    """A region and its file, which is open until all who hold the region have let go of it.

    Whoever has opened it holds it. All calls but :meth:`read` and :meth:`write` come from one event loop.
    """

    __slots__ = ("_descriptor", "_ended", "_holders", "number", "record")

    def __init__(
        self, record: RegionRecord, descriptor: int, number: int, ended: Callable[[int], None]
    ) -> None:
        """Take an open file over; see :func:`open_region`.

        Args:
            record: What was registered.
            descriptor: Closed by the last :meth:`release`.
            number: What tasks call it.
            ended: Told the number when nobody holds it any more.
        """
        self.record = record
        self.number = number
        self._descriptor = descriptor
        self._ended = ended
        self._holders = 1

    def hold(self) -> None:
        """Keep the file open until a :meth:`release` of its own."""
        self._holders += 1

    def release(self) -> None:
        """Let go; the last one closes the file."""
        self._holders -= 1
        if not self._holders:
            descriptor, self._descriptor = self._descriptor, -1
            self._ended(self.number)
            close_aside(descriptor, self.record.byte_size)

    def can_be_read_in_place(self, place: SharedRange) -> bool:
        """Whether a worker can be referred to a range, as far as that is the region's and the range's business."""
        return self.record.is_sealed and place.nbytes > 0 and place.offset % ALIGNMENT_BYTES == 0

    def attachment(self) -> AttachRegion:
        """What a worker has to know to map it, while it is held."""
        record = self.record
        return AttachRegion(
            self.number, os.getpid(), self._descriptor, record.device, record.inode, record.byte_size
        )

    def refuse_read_only(self, what: str) -> None:
        """Refuse to write where the memory's owner does not let anybody.

        Args:
            what: Begins the message, e.g. ``output 'y'``.

        Raises:
            RegionMismatch: It is for inputs only.
        """
        if not self.record.is_writable:
            raise RegionMismatch(
                f"{what}: region {self._title} is for inputs only: its memory is sealed against writing, or was handed "
                f"over open for reading"
            )

    def refuse_outside(self, place: SharedRange, what: str) -> None:
        """Hold a range against what was registered.

        Args:
            place: In this region.
            what: Begins the message, e.g. ``input 'x'``.

        Raises:
            RegionMismatch: It is not all inside.
        """
        if place.offset + place.nbytes > self.record.byte_size:
            raise RegionMismatch(
                f"{what}: Invalid offset + byte size for shared memory region: {self._title}: {place.nbytes} bytes at "
                f"{place.offset} are not inside a region of {self.record.byte_size} bytes"
            )

    @property
    def identity(self) -> FileIdentity:
        """Which file it is in."""
        return FileIdentity(self.record.device, self.record.inode)

    def file_range(self, place: SharedRange) -> tuple[int, int]:
        """Where a range begins and ends in the file."""
        start = self.record.offset + place.offset
        return start, start + place.nbytes

    def read(self, place: SharedRange, memory: memoryview) -> None:
        """Copy a tensor out of the file; may run in a thread while the region is held.

        Args:
            place: Inside the region.
            memory: Of the range's size.

        Raises:
            RegionMismatch: The file has become too short, or cannot be read.
        """
        start, end = self.file_range(place)
        at = start
        while at < end:
            try:
                count = os.preadv(self._descriptor, [memory[at - start :]], at)
            except OSError as error:
                raise RegionMismatch(f"region {self._title} cannot be read: {error.strerror}") from None
            if not count:
                raise self._too_short(end)
            at += count

    def refuse_shrunk(self, place: SharedRange) -> None:
        """Look whether the file still has a range.

        Raises:
            RegionMismatch: It has become too short.
        """
        _, end = self.file_range(place)
        if os.fstat(self._descriptor).st_size < end:
            raise self._too_short(end)

    def write(self, place: SharedRange, data: memoryview) -> None:
        """Copy a result into the file; may run in a thread while the region is held.

        The file does not become longer: it is as long as it was when it is written to, unless its owner cuts it off in
        that very moment; then it has in the end at most the length that it was registered with.

        Args:
            place: Inside the region, of the result's size.
            data: The result.

        Raises:
            RegionMismatch: The file has become too short, or cannot be written.
        """
        self.refuse_shrunk(place)
        start, end = self.file_range(place)
        at = start
        while at < end:
            try:
                at += os.pwrite(self._descriptor, data[at - start :], at)
            except OSError as error:
                raise RegionMismatch(f"region {self._title} cannot be written: {error.strerror}") from None
        self.refuse_shrunk(place)

    @property
    def _title(self) -> str:
        return repr(shortened(self.record.name, _LONGEST_NAME))

    def _too_short(self, end: int) -> RegionMismatch:
        size = os.fstat(self._descriptor).st_size
        return RegionMismatch(
            f"the file {self.record.key!r} of region {self._title} has {size} bytes by now, and the tensor ends at "
            f"{end}; it was cut off after it was registered"
        )


def identify(name: str, key: str, offset: int, byte_size: int) -> FileIdentity:
    """Hold what a client wants to register against the file; which one it is.

    Raises:
        RegionUnusable: It is no part of a file that can be shared memory of a client.
        RegionForbidden: The file is none of the server's user and groups.
    """
    file = open_file(key, SHARED_MEMORY_DIRECTORY)
    os.close(file.descriptor)
    _refuse_outside_file(name, key, offset, byte_size, file.size)
    return file.identity


def open_region(
    record: RegionRecord, number: int, ended: Callable[[int], None], directory: str, manager_pid: int
) -> Region:
    """Open a registered region: the file that it was registered with, and no other one.

    Args:
        record: What was registered.
        number: What tasks shall call it.
        ended: See :class:`Region`.
        directory: Where files with names are.
        manager_pid: Who has sealed memory.

    Raises:
        RegionUnusable: There is another file of that name, or none, or it is too short by now.
        RegionForbidden: The file is none of the server's user and groups any more.
    """
    if record.is_sealed:
        file = open_sealed(manager_pid, record.descriptor, is_writable=record.is_writable)
    else:
        file = open_file(record.key, directory)
    try:
        if file.identity != (record.device, record.inode):
            raise RegionUnusable(
                f"region {record.name!r}: {record.key!r} is another file than the one that was registered; unregister "
                f"the region, and register it again"
            )
        _refuse_outside_file(record.name, record.key, record.offset, record.byte_size, file.size)
    except RegionUnusable:
        os.close(file.descriptor)
        raise
    return Region(record, file.descriptor, number, ended)


def _refuse_outside_file(name: str, key: str, offset: int, byte_size: int, size: int) -> None:
    if byte_size < 1 or offset < 0 or offset + byte_size > size:
        raise RegionUnusable(
            f"failed to register shared memory region {shortened(name, _LONGEST_NAME)!r}: invalid args: {byte_size} "
            f"bytes at {offset} are not in a file of {size} bytes ({key!r})"
        )
