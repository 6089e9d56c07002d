# SPDX-License-Identifier: Apache-2.0
"""Reads what this process may use of the machine: affinity (with cpusets), NUMA nodes, physical cores, memory, quotas.

Sources: sched_getaffinity(2), which cpusets already narrow; ``/sys/devices/system``; the kernel's
``cgroup-v2.rst`` (``cpu.max``, ``memory.max``) and ``sched-bwc.rst`` (v1's
``cpu.cfs_quota_us``). A limit of any ancestor holds, too, so the least one counts.
"""

from __future__ import annotations

import re
from pathlib import Path

from ovms_mp.manager.cpu_plan import Machine
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


def parse_core_list(text: str) -> set[int]:
    """The cores of a kernel list such as ``0-3,8``; empty for anything else."""
    cores: set[int] = set()
    try:
        for part in filter(None, text.strip().split(",")):
            low, _, high = part.partition("-")
            cores.update(range(int(low), int(high or low) + 1))
    except ValueError:
        return set()
    return cores


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
    found = re.search(r"MemTotal:\s*(\d+) kB", _text(root / "proc/meminfo"))
    limits = [int(found[1]) << 10] if found else []
    for line in _text(root / "proc/self/cgroup").splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy == "0" and not controllers:
            places = _with_parents(root / "sys/fs/cgroup", path)
            texts = [_text(place / "memory.max") for place in places]
        elif "memory" in controllers.split(","):
            places = _with_parents(root / "sys/fs/cgroup/memory", path)
            texts = [_text(place / "memory.limit_in_bytes") for place in places]
        else:
            continue
        limits += [int(text) for text in map(str.strip, texts) if text.isdecimal()]
    return min(limits, default=_UNKNOWN_MEMORY_BYTES)


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
