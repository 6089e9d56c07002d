# SPDX-License-Identifier: Apache-2.0
"""Reads what this process may use of the machine: affinity (with cpusets), NUMA nodes, physical cores, memory, quotas.

Sources: sched_getaffinity(2), which cpusets already narrow; ``/sys/devices/system``; the kernel's
``cgroup-v2.rst`` (``cpu.max``, ``memory.max``) and ``sched-bwc.rst`` (v1's
``cpu.cfs_quota_us``). A limit of any ancestor holds, too, so the least one counts.
"""

from __future__ import annotations

import re
from pathlib import Path

from ovms_mp.manager.workers.cpu_plan import Machine
from ovms_mp.model.core_lists import parse_core_list
from ovms_mp.places import usable_cores

_UNKNOWN_MEMORY_BYTES = 8 << 30


def read_machine(root: Path = Path("/")) -> Machine:
    """Look once; whatever cannot be read is taken for absent."""
    cores = tuple(sorted(usable_cores()))
    system = root / "sys/devices/system"
    usable = set(cores)
    nodes = [
        tuple(sorted(usable & parse_core_list(_text(path / "cpulist"))))
        for path in sorted((system / "node").glob("node[0-9]*"))
    ]
    siblings: dict[int, tuple[int, ...]] = {}
    for core in cores:
        listed = parse_core_list(_text(system / f"cpu/cpu{core}/topology/thread_siblings_list"))
        siblings[core] = tuple(sorted(listed & usable)) or (core,)
    return Machine(cores, tuple(node for node in nodes if node) or (cores,), siblings, read_quota(root))


def read_quota(root: Path = Path("/")) -> float | None:
    """Cores' worth of CPU time that this process's cgroups allow; None without a limit."""
    limits: list[float] = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy == "0" and not controllers:
            limits += [_unified_limit(place) for place in _with_parents(root / "sys/fs/cgroup", path)]
        elif "cpu" in controllers.split(","):
            limits += [_legacy_limit(place) for place in _with_parents(root / "sys/fs/cgroup/cpu", path)]
    least = min(limits, default=float("inf"))
    return None if least == float("inf") else least


def read_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that the machine has, or the least that this process's cgroups allow."""
    limits = [_kilobytes(root / "proc/meminfo", "MemTotal"), *(limit for limit, _ in _memory_groups(root))]
    return min((limit for limit in limits if limit is not None), default=_UNKNOWN_MEMORY_BYTES)


def read_available_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that can be had without taking any from others: the machine's, or the least of the cgroups'."""
    found = [_kilobytes(root / "proc/meminfo", "MemAvailable")]
    for limit, place in _memory_groups(root):
        is_unified = (place / "memory.max").exists()
        used = _text(place / ("memory.current" if is_unified else "memory.usage_in_bytes")).strip()
        # Pages of files that nobody has used lately are given up before anything fails.
        key = "inactive_file" if is_unified else "total_inactive_file"
        spare = re.search(rf"^{key} (\d+)$", _text(place / "memory.stat"), re.MULTILINE)
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
    found = re.search(rf"^{key}:\s*(\d+) kB", _text(path), re.MULTILINE)
    return int(found[1]) << 10 if found else None


def _memory_groups(root: Path) -> list[tuple[int, Path]]:
    """(limit in bytes, directory) of each cgroup of this process that limits memory."""
    found: list[tuple[int, Path]] = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy == "0" and not controllers:
            places, name = _with_parents(root / "sys/fs/cgroup", path), "memory.max"
        elif "memory" in controllers.split(","):
            places, name = _with_parents(root / "sys/fs/cgroup/memory", path), "memory.limit_in_bytes"
        else:
            continue
        limits = [(_text(place / name).strip(), place) for place in places]
        found += [(int(limit), place) for limit, place in limits if limit.isdecimal()]
    return found


def _with_parents(mount: Path, path: str) -> list[Path]:
    """The cgroup's directory and those above; the mount itself too, which a container sees as its own cgroup."""
    place = mount / path.lstrip("/")
    return [place, *(parent for parent in place.parents if parent.is_relative_to(mount))]


def _unified_limit(place: Path) -> float:
    quota, _, period = _text(place / "cpu.max").strip().partition(" ")
    return _ratio(quota, period)


def _legacy_limit(place: Path) -> float:
    return _ratio(_text(place / "cpu.cfs_quota_us").strip(), _text(place / "cpu.cfs_period_us").strip())


def _ratio(quota: str, period: str) -> float:
    if not quota.isdecimal() or not period.isdecimal() or int(period) == 0:
        return float("inf")  # "max", "-1", or no such file.
    return int(quota) / int(period)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
