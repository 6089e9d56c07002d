# SPDX-License-Identifier: Apache-2.0
"""Arenas: anonymous shared memory that cannot be left behind.

::

    manager: memfd_create ---fd---> front: maps, leases, copies inputs in, outputs out
                          ---fd---> worker: maps, binds tensors on it

The file has no name, so the kernel frees it with the last process that holds it, and the size of ``/dev/shm``
does not matter. It is sparse: pages appear when first written. Descriptors are made before any child exists
and inherited by all.
Source: memfd_create(2).
"""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING

from ovms_mp.errors import ProtocolError, RegionUnusable
from ovms_mp.wire.allocator import ALIGNMENT_BYTES

if TYPE_CHECKING:
    from ovms_mp.wire.records import ArenaHandle, TensorRef


def create_arena_file(index: int, size_bytes: int) -> int:
    """Make an arena's memfd; the caller owns the descriptor (close-on-exec until it is passed on).

    Raises:
        OSError: The kernel refuses the size.
    """
    descriptor = os.memfd_create(f"ovms_mp-arena-{index}", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, size_bytes)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def discard_pages(descriptor: int, size_bytes: int) -> None:
    """Give an idle arena's memory back to the machine; it reads as zeros afterwards.

    SAFETY: a mapping survives, but an access between the two calls would be SIGBUS. So only an arena whose epoch is
    retired, which means that no process touches it, may be passed.
    """
    os.ftruncate(descriptor, 0)
    os.ftruncate(descriptor, size_bytes)


class Arena:
    """One process's mapping of an arena. Lives as long as the process."""

    def __init__(self, handle: ArenaHandle) -> None:
        self.size_bytes = handle.size_bytes
        self._map = mmap.mmap(handle.descriptor, handle.size_bytes)
        self.memory = memoryview(self._map)
        self.regions: dict[int, memoryview] = {}
        """Clients' memory that the front of this arena has attached, by number; a worker's to fill. Read only."""

    def view(self, ref: TensorRef) -> memoryview:
        """The bytes of a tensor, not copied; writable, unless they are in a client's region.

        Raises:
            ProtocolError: The range is not inside the arena, or not aligned.
            RegionUnusable: The region could not be attached.
        """
        if ref.region:
            return self._region_view(ref)
        self.check_range(ref.offset_bytes, ref.nbytes)
        return self.memory[ref.offset_bytes : ref.offset_bytes + ref.nbytes]

    def check_range(self, offset_bytes: int, nbytes: int) -> None:
        """Hold a range that another process named against the arena's bounds.

        Raises:
            ProtocolError: The range is not inside the arena, or not aligned.
        """
        if (
            offset_bytes < 0
            or nbytes < 0
            or offset_bytes % ALIGNMENT_BYTES
            or offset_bytes + nbytes > self.size_bytes
        ):
            raise ProtocolError(
                f"range of {nbytes} bytes at {offset_bytes} is not inside an arena of {self.size_bytes} bytes"
            )

    def _region_view(self, ref: TensorRef) -> memoryview:
        memory = self.regions.get(ref.region)
        if memory is None:
            raise RegionUnusable(
                "the client's shared memory could not be mapped by the inference worker; see its log"
            )
        end = ref.offset_bytes + ref.nbytes
        if ref.offset_bytes < 0 or ref.nbytes < 0 or ref.offset_bytes % ALIGNMENT_BYTES or end > len(memory):
            raise ProtocolError(
                f"range of {ref.nbytes} bytes at {ref.offset_bytes} is not inside a region of {len(memory)} bytes"
            )
        return memory[ref.offset_bytes : end]

    def discard(self, start_bytes: int, end_bytes: int) -> None:
        """Give the memory of an unleased range back to the machine; it reads as zeros afterwards.

        Only whole pages are given back. Source: madvise(2), MADV_REMOVE.
        """
        page = mmap.PAGESIZE
        start = -(-start_bytes // page) * page
        end = end_bytes // page * page
        if end > start:
            self._map.madvise(mmap.MADV_REMOVE, start, end - start)
