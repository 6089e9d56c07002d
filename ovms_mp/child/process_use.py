# SPDX-License-Identifier: Apache-2.0
"""Reads what a process takes of the machine.

Sources: proc_pid_stat(5), proc_pid_statm(5).
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_AFTER_NAME = 2
"""Number, from 0, of the first field of ``stat`` behind the name, which may have blanks and parentheses."""
_USER_TIME, _SYSTEM_TIME, _START_TIME = 13, 14, 21


class Use(NamedTuple):
    """Of one process."""

    cpu_ms: int
    resident_bytes: int
    descriptors: int
    age_s: float
    shared_bytes: int = 0
    """Of the resident ones; other processes may have the same: arenas, libraries."""


def use_of(pid: int, root: Path = Path("/proc")) -> Use | None:
    """What a process takes at this moment; None if it has gone."""
    place = root / str(pid)
    try:
        fields = (place / "stat").read_text().rpartition(")")[2].split()
        resident_pages, shared_pages = map(int, (place / "statm").read_text().split()[1:3])
        descriptors = len(os.listdir(place / "fd"))
    except (OSError, IndexError, ValueError):
        return None
    ticks = int(fields[_USER_TIME - _AFTER_NAME]) + int(fields[_SYSTEM_TIME - _AFTER_NAME])
    started_s = int(fields[_START_TIME - _AFTER_NAME]) / _TICKS_PER_S
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - started_s
    return Use(
        ticks * 1000 // _TICKS_PER_S,
        resident_pages * _PAGE_BYTES,
        descriptors,
        age_s,
        shared_pages * _PAGE_BYTES,
    )
