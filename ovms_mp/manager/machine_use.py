# SPDX-License-Identifier: Apache-2.0
"""Reads what a process takes of the machine, and how the cgroup's CPU quota has held the server up.

Sources: proc_pid_stat(5), proc_pid_statm(5); the kernel's ``cgroup-v2.rst`` (``cpu.stat``) and ``sched-bwc.rst``.
"""

from __future__ import annotations

import os
import re
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


class Throttling(NamedTuple):
    """Since the cgroup was made."""

    periods: int
    throttled_periods: int
    throttled_us: int


def use_of(pid: int, root: Path = Path("/proc")) -> Use | None:
    """What a process takes at this moment; None if it has gone."""
    place = root / str(pid)
    try:
        fields = (place / "stat").read_text().rpartition(")")[2].split()
        resident_pages = int((place / "statm").read_text().split()[1])
        descriptors = len(os.listdir(place / "fd"))
    except (OSError, IndexError, ValueError):
        return None
    ticks = int(fields[_USER_TIME - _AFTER_NAME]) + int(fields[_SYSTEM_TIME - _AFTER_NAME])
    started_s = int(fields[_START_TIME - _AFTER_NAME]) / _TICKS_PER_S
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - started_s
    return Use(ticks * 1000 // _TICKS_PER_S, resident_pages * _PAGE_BYTES, descriptors, age_s)


def read_throttling(root: Path = Path("/")) -> Throttling | None:
    """Of this process's cgroup; None where there is no quota, or nothing can be read."""
    try:
        groups = (root / "proc/self/cgroup").read_text()
    except OSError:
        return None
    for line in groups.splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy == "0" and not controllers:
            mount = root / "sys/fs/cgroup"
        elif "cpu" in controllers.split(","):
            mount = root / "sys/fs/cgroup/cpu"
        else:
            continue
        # In a container the mount itself is what the path names outside.
        for place in (mount / path.lstrip("/"), mount):
            if (found := _throttling_of(place)) is not None:
                return found
    return None


def _throttling_of(place: Path) -> Throttling | None:
    try:
        text = (place / "cpu.stat").read_text()
    except OSError:
        return None
    values = {name: int(value) for name, value in re.findall(r"^(\w+) (\d+)$", text, re.MULTILINE)}
    if "nr_periods" not in values:
        return None
    # Nanoseconds in version 1 of cgroups.
    throttled_us = values.get("throttled_usec", values.get("throttled_time", 0) // 1000)
    return Throttling(values["nr_periods"], values.get("nr_throttled", 0), throttled_us)
