# SPDX-License-Identifier: Apache-2.0
"""Limits of the process (``ulimit``) that would end the server later, in ways that do not say why."""

from __future__ import annotations

import resource

from ovms_mp.config.server import MEBIBYTE
from ovms_mp.errors import BootError

_FEWEST_FILES = 64
"""Of a process: ZeroMQ aborts where it gets no descriptor. A manager of a small server has about 35 open."""
_FILES_OF_A_FRONT = 8
"""Arenas, channels and pidfds, in the manager and in each worker."""
_ADDRESSES_BESIDE_ARENAS = 1 << 30
"""What a worker maps beside arenas before it has a model: OpenVINO's libraries, and heaps and stacks of its
threads; 0.4 GB on two cores."""


def check_process_limits(fronts: int, arena_size_mb: int) -> None:
    """Refuse limits that cannot be enough; the soft limit of open files has been raised already.

    Args:
        fronts: Front processes.
        arena_size_mb: Size of an arena, of which there are two for each front; a worker comes to map all.

    Raises:
        BootError: Names the limit, what is needed, and the setting.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    needed = _FEWEST_FILES + _FILES_OF_A_FRONT * fronts
    if 0 <= hard < needed:
        raise BootError(
            f"the limit of open files (RLIMIT_NOFILE, ulimit -Hn) is {hard}; at least {needed} are needed, and "
            "one more for each connection"
        )
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    arenas = 2 * fronts
    needed_bytes = arenas * arena_size_mb * MEBIBYTE + _ADDRESSES_BESIDE_ARENAS
    if 0 <= limit < needed_bytes:
        fitting = (limit - _ADDRESSES_BESIDE_ARENAS) // arenas // MEBIBYTE
        remedy = f"--arena_size_mb {fitting} would fit" if fitting > 0 else "no --arena_size_mb would fit"
        raise BootError(
            f"the limit of address space (RLIMIT_AS, ulimit -v) is {limit // MEBIBYTE} MiB; "
            f"{needed_bytes // MEBIBYTE} are needed for {arenas} arenas of --arena_size_mb {arena_size_mb} MiB and "
            f"OpenVINO; {remedy}, or lift the limit: arenas are sparse, so it says little about memory"
        )
