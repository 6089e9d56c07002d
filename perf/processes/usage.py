# SPDX-License-Identifier: Apache-2.0
"""Processor time and memory of a process and all its descendants, summed by process kind, from /proc.

/proc and not psutil: psutil ships no types, and these are four small files. Times are the kernel's ticks (10
ms), which a load of some seconds makes small; a process that ends between two readings takes its time with
it.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_KIND_IN_SPEC = re.compile(r'"kind":\s*"(\w+)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStat:
    """One process as /proc/PID/stat has it; ``cpu_s`` is user and system, without children."""

    pid: int
    parent_pid: int
    cpu_s: float
    command_line: str


KindOf = Callable[[ProcessStat, "str | None"], str]
"""Names a process's kind from itself and its parent's kind (None for the root)."""


def server_kind(stat: ProcessStat, parent_kind: str | None) -> str:
    """Kind of one of the server's processes: manager, worker, grpc, arbiter, rest.

    Children carry their kind in the JSON specification on their command line; what the arbiter forks has its
    command line.
    """
    if parent_kind is None:
        return "manager"
    if parent_kind == "arbiter":
        return "rest"
    found = _KIND_IN_SPEC.search(stat.command_line)
    if found:
        return found[1]
    for kind, mark in (("arbiter", "rest"), ("arbiter", "gunicorn"), ("grpc", "grpc"), ("worker", "worker")):
        if mark in stat.command_line:
            return kind
    return "other"


def floor_kind(stat: ProcessStat, parent_kind: str | None) -> str:
    """All of a floor's processes count as one kind."""
    del stat, parent_kind
    return "floor"


def process_kinds(root_pid: int, kind_of: KindOf) -> dict[int, tuple[str, ProcessStat]]:
    """The processes below and including ``root_pid`` that exist now, with their kinds."""
    children: dict[int, list[ProcessStat]] = defaultdict(list)
    root: ProcessStat | None = None
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (stat := _read_stat(int(entry))) is not None:
            children[stat.parent_pid].append(stat)
            if stat.pid == root_pid:
                root = stat
    found: dict[int, tuple[str, ProcessStat]] = {}
    waiting: list[tuple[ProcessStat, str | None]] = [(root, None)] if root else []
    while waiting:
        stat, parent_kind = waiting.pop()
        kind = kind_of(stat, parent_kind)
        found[stat.pid] = (kind, stat)
        waiting.extend((child, kind) for child in children[stat.pid])
    return found


def cpu_seconds(root_pid: int, kind_of: KindOf) -> dict[str, float]:
    """Processor seconds so far by kind."""
    total: dict[str, float] = defaultdict(float)
    for kind, stat in process_kinds(root_pid, kind_of).values():
        total[kind] += stat.cpu_s
    return dict(total)


def memory_bytes(root_pid: int, kind_of: KindOf) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """Process counts, RSS and PSS by kind."""
    counts: dict[str, int] = defaultdict(int)
    rss: dict[str, int] = defaultdict(int)
    pss: dict[str, int] = defaultdict(int)
    for pid, (kind, _) in process_kinds(root_pid, kind_of).items():
        rollup = _read_text(Path(f"/proc/{pid}/smaps_rollup"))
        counts[kind] += 1
        rss[kind] += _field_bytes(rollup, "Rss")
        pss[kind] += _field_bytes(rollup, "Pss")
    return dict(counts), dict(rss), dict(pss)


def own_memory_bytes(pid: int) -> int:
    """A process's resident memory without the shared one: the arenas are the fronts', whoever maps them.

    RssAnon and RssFile of /proc/PID/status (proc_pid_status(5)); 0 when the process is gone.
    """
    status = _read_text(Path(f"/proc/{pid}/status"))
    return sum(_field_bytes(status, key) for key in ("RssAnon", "RssFile"))


def allowed_cores(pid: int) -> dict[str, int]:
    """How many of a process's threads may run on which cores, as the kernel writes sets of cores."""
    threads: dict[str, int] = defaultdict(int)
    for path in Path(f"/proc/{pid}/task").glob("*/status"):
        found = re.search(r"^Cpus_allowed_list:\s+(\S+)", _read_text(path), re.MULTILINE)
        if found:
            threads[found[1]] += 1
    return dict(threads)


def core_numbers(cores: str) -> frozenset[int]:
    """The cores of a set as the kernel writes it: ``0-2,5``."""
    numbers: set[int] = set()
    for part in cores.split(","):
        first, _, last = part.partition("-")
        numbers |= set(range(int(first), int(last or first) + 1))
    return frozenset(numbers)


def _read_text(path: Path) -> str:
    """A /proc file's text, or "" when its process is gone."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _field_bytes(text: str, key: str) -> int:
    found = re.search(rf"^{key}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _read_stat(pid: int) -> ProcessStat | None:
    text = _read_text(Path(f"/proc/{pid}/stat"))
    if not text:
        return None
    # The name in parentheses may itself hold spaces and parentheses: fields count from the last one
    # (proc_pid_stat(5)).
    fields = text[text.rindex(")") + 2 :].split()
    return ProcessStat(
        pid=pid,
        parent_pid=int(fields[1]),
        cpu_s=(int(fields[11]) + int(fields[12])) / _TICKS_PER_S,
        command_line=_read_text(Path(f"/proc/{pid}/cmdline")).replace("\0", " "),
    )
