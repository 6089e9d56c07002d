# SPDX-License-Identifier: Apache-2.0
"""Whether a descriptor that a client has handed over is memory which can be mapped without fear.

A file that may become shorter ends every process that has it mapped (SIGBUS), so its size must be sealed for ever. What
is asked first is whether it has seals at all: only files in memory have, and so nothing else is ever touched, which
might not answer. Pages of huge page pools are refused, as one that the pool does not have is a SIGBUS, too.

Source: fcntl(2), F_GET_SEALS; memfd_create(2).
"""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import NamedTuple

from ovms_mp.errors import RegionUnusable

_F_SEAL_FUTURE_WRITE = 0x10  # Of linux/fcntl.h; the module has no name for it.
_NEEDED = {
    "F_SEAL_SHRINK": fcntl.F_SEAL_SHRINK,
    "F_SEAL_GROW": fcntl.F_SEAL_GROW,
    "F_SEAL_SEAL": fcntl.F_SEAL_SEAL,
}


class SealedMemory(NamedTuple):
    """What is known of it.

    Attributes:
        nbytes: Its size, for ever.
        is_writable: Whether its owner lets the server write to it.
        device: Of the file.
        inode: Of the file.
    """

    nbytes: int
    is_writable: bool
    device: int
    inode: int


def inspect_memory(descriptor: int) -> SealedMemory:
    """Look at a descriptor that may be anything; never waits.

    Raises:
        RegionUnusable: It is not sealed memory, or has no size, or cannot be opened again.
    """
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError:
        raise RegionUnusable(
            "the descriptor is no memory that can be sealed; make one with memfd_create and MFD_ALLOW_SEALING"
        ) from None
    missing = [name for name, seal in _NEEDED.items() if not seals & seal]
    if missing:
        raise RegionUnusable(
            f"the memory can still change its size, as it lacks the seals {', '.join(missing)}; add them with "
            f"fcntl(F_ADD_SEALS) when it has its size"
        )
    if os.fstatvfs(descriptor).f_bsize != mmap.PAGESIZE:
        raise RegionUnusable(
            "the memory is of huge pages, which may be missing when they are touched; use plain ones"
        )
    status = os.fstat(descriptor)
    if not status.st_size:
        raise RegionUnusable("the memory has a size of 0 bytes; set it with ftruncate before it is sealed")
    is_open_for_writing = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
    is_writable = is_open_for_writing and not seals & (fcntl.F_SEAL_WRITE | _F_SEAL_FUTURE_WRITE)
    _refuse_closed(descriptor, is_writable=is_writable)
    return SealedMemory(status.st_size, is_writable, status.st_dev, status.st_ino)


def _refuse_closed(descriptor: int, *, is_writable: bool) -> None:
    """Open it as fronts and workers will.

    Raises:
        RegionUnusable: They could not.
    """
    flags = (os.O_RDWR if is_writable else os.O_RDONLY) | os.O_CLOEXEC
    try:
        os.close(os.open(f"/proc/self/fd/{descriptor}", flags))
    except OSError as error:
        raise RegionUnusable(
            f"the server's processes cannot open the memory ({error.strerror}); leave its mode as it was made"
        ) from None
