# SPDX-License-Identifier: Apache-2.0
"""Reads what this process may use of the machine: affinity (with cpusets), NUMA nodes, physical cores, quotas.

Sources: sched_getaffinity(2), which cpusets already narrow; ``/sys/devices/system``; the kernel's
``cgroup-v2.rst`` (``cpu.max``) and ``sched-bwc.rst`` (v1's ``cpu.cfs_quota_us``). A limit of any ancestor holds, too,
so the least one counts. Memory: :mod:`ovms_mp.child.memory`.
"""

from __future__ import annotations

from pathlib import Path

from ovms_mp.child.memory import text_of, with_parents
from ovms_mp.manager.workers.cpu_plan import Machine
from ovms_mp.model.core_lists import parse_core_list
from ovms_mp.places import usable_cores


def read_machine(root: Path = Path("/")) -> Machine:
    """Look once; whatever cannot be read is taken for absent."""
    cores = tuple(sorted(usable_cores()))
    system = root / "sys/devices/system"
    usable = set(cores)
    nodes = [
        tuple(sorted(usable & parse_core_list(text_of(path / "cpulist"))))
        for path in sorted((system / "node").glob("node[0-9]*"))
    ]
    siblings: dict[int, tuple[int, ...]] = {}
    for core in cores:
        listed = parse_core_list(text_of(system / f"cpu/cpu{core}/topology/thread_siblings_list"))
        siblings[core] = tuple(sorted(listed & usable)) or (core,)
    return Machine(cores, tuple(node for node in nodes if node) or (cores,), siblings, read_quota(root))


def read_quota(root: Path = Path("/")) -> float | None:
    """Cores' worth of CPU time that this process's cgroups allow; None without a limit."""
    limits: list[float] = []
    for line in text_of(root / "proc/self/cgroup").splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy == "0" and not controllers:
            limits += [_unified_limit(place) for place in with_parents(root / "sys/fs/cgroup", path)]
        elif "cpu" in controllers.split(","):
            limits += [_legacy_limit(place) for place in with_parents(root / "sys/fs/cgroup/cpu", path)]
    least = min(limits, default=float("inf"))
    return None if least == float("inf") else least


def _unified_limit(place: Path) -> float:
    quota, _, period = text_of(place / "cpu.max").strip().partition(" ")
    return _ratio(quota, period)


def _legacy_limit(place: Path) -> float:
    return _ratio(text_of(place / "cpu.cfs_quota_us").strip(), text_of(place / "cpu.cfs_period_us").strip())


def _ratio(quota: str, period: str) -> float:
    if not quota.isdecimal() or not period.isdecimal() or int(period) == 0:
        return float("inf")  # "max", "-1", or no such file.
    return int(quota) / int(period)
