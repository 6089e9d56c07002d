# SPDX-License-Identifier: Apache-2.0
"""How the machine's cores are divided among the inference workers. Pure; :mod:`.machine` reads the machine.

Every OpenVINO process ties its threads to cores from the lowest one up, unaware of all others, and sees no CPU quota;
two workers on the same cores then run many times slower than one. So the workers of the device ``CPU`` get
disjoint cores, and where a share overlaps with another or a quota cuts it, OpenVINO is told not to pin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.child.specs import CpuShare
from ovms_mp.model.core_lists import core_text
from ovms_mp.model.devices import may_use_cpu

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Machine:
    """What this process may use.

    Attributes:
        cores: Logical cores, ascending, after affinity and cpuset.
        nodes: The same cores by NUMA node.
        siblings: For each core the cores of its physical core, itself among them.
        quota_cores: CPU time a second that the cgroup's quota allows, in cores; None without a quota.
    """

    cores: tuple[int, ...]
    nodes: tuple[tuple[int, ...], ...]
    siblings: Mapping[int, tuple[int, ...]]
    quota_cores: float | None = None


@dataclass(frozen=True, slots=True)
class CpuPlan:
    """One share for each worker of each device, and why, line by line, for people."""

    shares: Mapping[str, tuple[CpuShare, ...]]
    lines: tuple[str, ...]

    def summary(self) -> str:
        """The plan on one line: ``2 cores: CPU on 0-1`` or ``4 cores: CPU on 0-1 and 2-3, GPU``."""
        devices: list[str] = []
        for device, shares in self.shares.items():
            cores = " and ".join(core_text(share.cores) for share in shares if share.cores)
            devices.append(f"{device} on {cores}" if cores else device)
        return f"{self.lines[0].removeprefix('machine: ')}: {', '.join(devices)}"


def make_plan(machine: Machine, devices: Sequence[str], cpu_workers: int) -> CpuPlan:
    """Divide the machine.

    Args:
        machine: What there is.
        devices: Device strings with a worker each; ``CPU`` has ``cpu_workers`` of them.
        cpu_workers: Wanted workers for ``CPU``, lowered to the number of cores.
    """
    on_cpu = [device for device in devices if may_use_cpu(device)]
    is_shared = len(on_cpu) > 1
    is_cut = _is_cut(machine)
    shares: dict[str, tuple[CpuShare, ...]] = {}
    for device in devices:
        if device not in on_cpu:
            shares[device] = (CpuShare((), 0, is_pinning_safe=False),)
            continue
        count = min(cpu_workers, len(machine.cores)) if device == "CPU" else 1
        threads = 0
        if is_cut and machine.quota_cores is not None:
            threads = max(1, math.floor(machine.quota_cores / count))
        parts = divide_cores(machine, count)
        shares[device] = tuple(
            CpuShare(part, min(threads, len(part)), is_pinning_safe=not is_shared and not is_cut)
            for part in parts
        )
    return CpuPlan(shares, plan_lines(machine, shares))


def plan_lines(machine: Machine, shares: Mapping[str, Sequence[CpuShare]]) -> tuple[str, ...]:
    """How the machine is divided, line by line, for people.

    Args:
        machine: What there is.
        shares: Of each device's workers.
    """
    lines = [_machine_line(machine)]
    is_shared = sum(any(share.cores for share in its) for its in shares.values()) > 1
    for device, its in shares.items():
        if any(share.cores for share in its):
            lines += _device_lines(device, its, is_shared=is_shared, is_cut=_is_cut(machine))
        else:
            lines.append(f"{device}: 1 worker, not tied to cores, as inference runs on another device")
    return tuple(lines)


def _is_cut(machine: Machine) -> bool:
    return machine.quota_cores is not None and machine.quota_cores < len(machine.cores)


def divide_cores(machine: Machine, count: int) -> list[tuple[int, ...]]:
    """Disjoint sets of cores, as equal as possible; a NUMA node or a physical core is split only where it must be."""
    node_of = {core: index for index, node in enumerate(machine.nodes) for core in node}
    # Neighbours in this order share most: physical core, then node.
    ordered = sorted(
        machine.cores,
        key=lambda core: (node_of.get(core, 0), min(machine.siblings.get(core, (core,))), core),
    )
    parts: list[tuple[int, ...]] = []
    start = 0
    for index in range(count):
        end = (index + 1) * len(ordered) // count
        parts.append(tuple(sorted(ordered[start:end])))
        start = end
    return parts


def _machine_line(machine: Machine) -> str:
    text = f"machine: {len(machine.cores)} cores ({core_text(machine.cores)}), {len(machine.nodes)} NUMA node"
    if len(machine.nodes) != 1:
        text += "s"
    if machine.quota_cores is None:
        return text + ", no CPU quota"
    return text + f", CPU quota of {machine.quota_cores:g} cores"


def _device_lines(device: str, shares: Sequence[CpuShare], *, is_shared: bool, is_cut: bool) -> list[str]:
    if is_cut:
        why = "OpenVINO's pinning is off, as the quota and not the cores is the limit"
    elif is_shared:
        why = "OpenVINO's pinning is off, as workers of other devices use these cores, too"
    elif not all(share.is_pinning_safe for share in shares):
        why = "OpenVINO's pinning is off, as workers of other devices used these cores when it was started"
    else:
        why = "OpenVINO may pin its threads, as nobody else uses these cores"
    lines = [f"{device}: {len(shares)} worker{'s' if len(shares) > 1 else ''}; {why}"]
    for index, share in enumerate(shares):
        threads = (
            f"at most {share.threads} threads" if share.threads else f"{len(share.cores)} threads at most"
        )
        lines.append(f"{device} worker {index}: cores {core_text(share.cores)}, {threads}")
    return lines
