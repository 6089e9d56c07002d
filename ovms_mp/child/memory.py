# SPDX-License-Identifier: Apache-2.0
"""Reads how much memory there is, and what a process has of it.

Sources: ``/proc/meminfo``; the kernel's ``cgroup-v2.rst`` (``memory.max``). A limit of any ancestor holds, too, so the
least one counts.
"""

from __future__ import annotations

import re
from pathlib import Path

_UNKNOWN_MEMORY_BYTES = 8 << 30


def read_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that the machine has, or the least that this process's cgroups allow."""
    limits = [_kilobytes(root / "proc/meminfo", "MemTotal"), *(limit for limit, _ in _memory_groups(root))]
    return min((limit for limit in limits if limit is not None), default=_UNKNOWN_MEMORY_BYTES)


def read_available_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that can be had without taking any from others: the machine's, or the least of the cgroups'."""
    found = [_kilobytes(root / "proc/meminfo", "MemAvailable")]
    for limit, place in _memory_groups(root):
        is_unified = (place / "memory.max").exists()
        used = text_of(place / ("memory.current" if is_unified else "memory.usage_in_bytes")).strip()
        # Pages of files that nobody has used lately are given up before anything fails.
        key = "inactive_file" if is_unified else "total_inactive_file"
        spare = re.search(rf"^{key} (\d+)$", text_of(place / "memory.stat"), re.MULTILINE)
        if used.isdecimal():
            found.append(max(0, limit - int(used) + (int(spare[1]) if spare else 0)))
    return min((count for count in found if count is not None), default=_UNKNOWN_MEMORY_BYTES)


def own_memory_bytes(pid: int) -> int:
    """Memory that a process has for itself: resident without what it shares with the fronts; 0 if it is gone.

    Source: proc_pid_status(5), RssAnon and RssFile; RssShmem is the arenas.
    """
    status = Path(f"/proc/{pid}/status")
    return sum(_kilobytes(status, key) or 0 for key in ("RssAnon", "RssFile"))


def _kilobytes(path: Path, key: str) -> int | None:
    """A line ``key: 12 kB`` of a file in ``/proc``, in bytes."""
    found = re.search(rf"^{key}:\s*(\d+) kB", text_of(path), re.MULTILINE)
    return int(found[1]) << 10 if found else None


def _memory_groups(root: Path) -> list[tuple[int, Path]]:
    """(limit in bytes, directory) of each cgroup of this process that limits memory."""
    found: list[tuple[int, Path]] = []
    for line in text_of(root / "proc/self/cgroup").splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy == "0" and not controllers:
            places, name = with_parents(root / "sys/fs/cgroup", path), "memory.max"
        elif "memory" in controllers.split(","):
            places, name = with_parents(root / "sys/fs/cgroup/memory", path), "memory.limit_in_bytes"
        else:
            continue
        limits = [(text_of(place / name).strip(), place) for place in places]
        found += [(int(limit), place) for limit, place in limits if limit.isdecimal()]
    return found


def with_parents(mount: Path, path: str) -> list[Path]:
    """The cgroup's directory and those above; the mount itself too, which a container sees as its own cgroup."""
    place = mount / path.lstrip("/")
    return [place, *(parent for parent in place.parents if parent.is_relative_to(mount))]


def text_of(path: Path) -> str:
    """A file's text; empty where it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""
