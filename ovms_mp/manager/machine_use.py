# SPDX-License-Identifier: Apache-2.0
"""Reads how the cgroup's CPU quota has held the server up.

Sources: the kernel's ``cgroup-v2.rst`` (``cpu.stat``) and ``sched-bwc.rst``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple


class Throttling(NamedTuple):
    """Since the cgroup was made."""

    periods: int
    throttled_periods: int
    throttled_us: int


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
