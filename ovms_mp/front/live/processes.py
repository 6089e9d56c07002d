# SPDX-License-Identifier: Apache-2.0
"""The server's own processes, as ``/proc`` has them: the manager, its children, and the fronts of its REST arbiter.

Sources: proc_pid_task_children(5), proc_pid_cmdline(5).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ovms_mp.child.process_use import use_of

if TYPE_CHECKING:
    from collections.abc import Iterator

_SPEC_ARGUMENT = 4
"""Of ``python -I -m MODULE SPECIFICATION``: where the latter is at the earliest."""
_MOST = 512
"""Processes that are looked at; a server has some dozens."""


class ProcessUse(NamedTuple):
    """What a process takes.

    Attributes:
        kind: ``manager``, ``worker``, ``probe``, ``fetcher``, ``grpc``, ``arbiter`` or ``rest``.
        name: The place that it fills, e.g. ``worker-0``.
        cpu_ms: Of processor time since its start.
        own_bytes: Resident memory that no other process has.
        shared_bytes: Resident memory that others may have, too: arenas, libraries.
    """

    pid: int
    kind: str
    name: str
    cpu_ms: int
    own_bytes: int
    shared_bytes: int
    age_s: float


class _Spec(msgspec.Struct):
    """What is of interest in a child's specification (:mod:`ovms_mp.child.specs`)."""

    child_id: str
    kind: str


class Processes:
    """Looks at them. What a process is said to be is read once."""

    def __init__(self, manager: int, root: Path = Path("/proc")) -> None:
        """Prepare.

        Args:
            manager: Its process id.
            root: Where the kernel tells of processes.
        """
        self._manager = manager
        self._root = root
        self._known: dict[int, _Spec] = {}

    def look(self) -> Iterator[ProcessUse]:
        """All of this moment, one by one. PERF: 0.1 ms for each."""
        known, self._known = self._known, {}
        for pid in (self._manager, *self._children_of(self._manager)):
            spec = known.get(pid) or self._spec_of(pid)
            if spec is None:
                continue
            is_arbiter = spec.kind == "rest"
            kind = "arbiter" if is_arbiter else spec.kind
            yield from self._use(pid, spec, kind, spec.child_id)
            # Others have threads by the dozen, each with a list of its own, and no children.
            for front in self._children_of(pid) if is_arbiter else ():
                spec = known.get(front) or self._spec_of(front)
                if spec is not None:
                    yield from self._use(front, spec, spec.kind, f"{spec.kind}-{front}")

    def _use(self, pid: int, spec: _Spec, kind: str, name: str) -> Iterator[ProcessUse]:
        """What a process takes, if it is still there."""
        use = use_of(pid, self._root)
        if use is None:
            return
        self._known[pid] = spec
        own = max(0, use.resident_bytes - use.shared_bytes)
        yield ProcessUse(pid, kind, name, use.cpu_ms, own, use.shared_bytes, use.age_s)

    def _children_of(self, pid: int) -> list[int]:
        found: list[int] = []
        try:
            for task in sorted((self._root / str(pid) / "task").iterdir()):
                found += map(int, (task / "children").read_text().split())
        except (OSError, ValueError):
            return found  # It has gone, or the kernel was built without CONFIG_PROC_CHILDREN.
        return found[:_MOST]

    def _spec_of(self, pid: int) -> _Spec | None:
        """What a process was told at its start; None for one that is no child of ours."""
        if pid == self._manager:
            return _Spec("manager", "manager")
        try:
            arguments = (self._root / str(pid) / "cmdline").read_bytes().split(b"\0")
        except OSError:
            return None
        for argument in arguments[_SPEC_ARGUMENT - 1 :]:
            if argument.startswith(b"{"):
                try:
                    return msgspec.json.decode(argument, type=_Spec)
                except msgspec.MsgspecError:
                    return None
        return None
