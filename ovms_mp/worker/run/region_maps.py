# SPDX-License-Identifier: Apache-2.0
"""Clients' memory in this process: mapped for reading, at addresses that stay mapped.

An engine may keep a pointer to what an infer request was bound to last, and an access to an address that is not mapped
any more ends the process. So a region that goes is replaced in its place by memory of nobody, which gives the client's
memory back at once, and the addresses are used again for the next region that fits them. They are never given back:
a process has 128 TiB of them, and needs as many as were attached at the same time.

Only a memfd whose seals say that it cannot become shorter is mapped. Its holes read as zeros, and take memory.

Source: mmap(2), MAP_FIXED; fcntl(2), F_GET_SEALS.
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import mmap
import os
import threading
from typing import TYPE_CHECKING, NamedTuple

from ovms_mp.defects import contain
from ovms_mp.errors import RegionUnusable

if TYPE_CHECKING:
    from ovms_mp.wire.tasks import AttachRegion

_log = logging.getLogger(__name__)

_MAP_FIXED, _MAP_NORESERVE = 0x10, 0x4000
_FAILED = ctypes.c_void_p(-1).value
_libc = ctypes.CDLL(None, use_errno=True)
_mmap = _libc.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_NOBODYS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE


class _Place(NamedTuple):
    """Addresses of this process."""

    start: int
    nbytes: int


class MappedRegion(NamedTuple):
    """A client's memory as this process sees it.

    Attributes:
        memory: All of it. Looks writable, as the engine's bindings want it, and is not.
        place: Where it is.
    """

    memory: memoryview
    place: _Place


class RegionMaps:
    """Maps and unmaps. Belongs to the loop, but for :meth:`_empty`."""

    def __init__(self) -> None:
        """Begin with none."""
        self._free: dict[int, list[_Place]] = {}
        """Addresses that can be used again, by their size."""

    def attach(self, region: AttachRegion) -> MappedRegion:
        """Map a region that a front has opened.

        Raises:
            RegionUnusable: It cannot be opened or mapped, or is not what the front says.
        """
        try:
            # A description of its own: what is open for reading only can be mapped whatever else is sealed.
            descriptor = os.open(
                f"/proc/{region.pid}/fd/{region.descriptor}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
            )
        except OSError as error:
            raise RegionUnusable(f"the memory cannot be opened: {error.strerror}") from None
        try:
            _refuse_other(descriptor, region)
            place = self._reserve(region.nbytes)
            try:
                _map(place.start, region.nbytes, mmap.PROT_READ, mmap.MAP_SHARED | _MAP_FIXED, descriptor)
            except OSError:
                self._free[place.nbytes].append(place)
                raise
        except OSError as error:
            raise RegionUnusable(f"the memory cannot be mapped: {error.strerror}") from None
        finally:
            os.close(descriptor)
        octets = (ctypes.c_ubyte * region.nbytes).from_address(place.start)
        return MappedRegion(memoryview(octets).cast("B"), place)

    def detach(self, region: MappedRegion) -> None:
        """Give the client's memory back; nothing that runs may read it any more.

        In a thread, as whoever is the last to let go of a gigabyte is busy for a tenth of a second.
        """
        try:
            threading.Thread(
                target=self._empty, args=(region.place,), name="detach-region", daemon=True
            ).start()
        except RuntimeError:
            self._empty(region.place)

    def is_free(self, place: _Place) -> bool:
        """Whether a region's place can be used again."""
        return place in self._free.get(place.nbytes, ())

    def _reserve(self, nbytes: int) -> _Place:
        # Powers of two, so that regions of all sizes find places of others.
        size = max(mmap.PAGESIZE, 1 << (nbytes - 1).bit_length())
        free = self._free.setdefault(size, [])
        return free.pop() if free else _Place(_map(0, size, mmap.PROT_READ, _NOBODYS, -1), size)

    def _empty(self, place: _Place) -> None:
        # SAFETY: the place is nobody's until the last line, and append is one step of the interpreter.
        contain("worker.detach", "a client's memory", _replace, place)
        self._free[place.nbytes].append(place)


def _replace(place: _Place) -> None:
    _map(place.start, place.nbytes, mmap.PROT_READ, _NOBODYS | _MAP_FIXED, -1)


def _refuse_other(descriptor: int, region: AttachRegion) -> None:
    """Hold a file against what the front has said; what is asked here is asked by whoever would be killed.

    Raises:
        RegionUnusable: It is another one, or might become shorter.
    """
    status = os.fstat(descriptor)
    if (status.st_dev, status.st_ino) != (region.device, region.inode) or status.st_size < region.nbytes:
        raise RegionUnusable("the memory is not the one that was registered")
    if not fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
        raise RegionUnusable("the memory is not sealed")


def _map(start: int, nbytes: int, protection: int, flags: int, descriptor: int) -> int:
    address = _mmap(start, nbytes, protection, flags, descriptor, 0)
    if address == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(address)
