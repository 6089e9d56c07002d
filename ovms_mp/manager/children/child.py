# SPDX-License-Identifier: Apache-2.0
"""One child process of the server: its life cycle, its sign of life, and the ways to end it.

::

    SPAWNED --Hello--> BOOTING --Ready--> READY --Drain--> DRAINING
       |                  |                 |                 |
       +------------------+-----------------+-----------------+--> EXITED (its pidfd says so)
"""

from __future__ import annotations

import enum
import os
import signal
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ovms_mp.codes import ExitCode
from ovms_mp.manager.children.kinds import Kind
from ovms_mp.manager.children.processes import send_signal

if TYPE_CHECKING:
    from ovms_mp.manager.clock import Clock


class ChildState(enum.Enum):
    """Where in its life a child is."""

    SPAWNED = enum.auto()
    BOOTING = enum.auto()
    READY = enum.auto()
    DRAINING = enum.auto()
    EXITED = enum.auto()


_NEXT = {
    ChildState.SPAWNED: {ChildState.BOOTING, ChildState.DRAINING, ChildState.EXITED},
    ChildState.BOOTING: {ChildState.READY, ChildState.DRAINING, ChildState.EXITED},
    ChildState.READY: {ChildState.DRAINING, ChildState.EXITED},
    ChildState.DRAINING: {ChildState.DRAINING, ChildState.EXITED},
    ChildState.EXITED: set[ChildState](),
}


_CRASH_SIGNALS = frozenset(
    {
        signal.SIGSEGV,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGABRT,
        signal.SIGTRAP,
        signal.SIGSYS,
    }
)


@dataclass(slots=True)
class Child:
    """A running process.

    REST fronts are the arbiter's children: the manager watches them and leaves reaping to it.

    Attributes:
        role: Name of the role that it fills, e.g. ``grpc-0``; a successor has the same.
        child_id: Unique for this process.
        process: A process that the manager started itself; None for a REST front.
        clock: The manager's.
        pidfd: Descriptor that becomes readable when the process has ended; also the race-free way to signal
            it, where the kernel gives one (:mod:`ovms_mp.manager.children.processes`).
        status: Once it has ended, its exit code, or minus the signal; None if unknown.
        killed_for: Why the server ended it; empty where it did not.
        is_dismissed: The server ended it because it is not needed any more, not because of what it did.
        was_drained: The server asked it to end.
        has_ended: Its process has, and is being collected: signals and reasons come too late.
    """

    role: str
    child_id: str
    kind: Kind
    pid: int
    pidfd: int
    process: subprocess.Popen[bytes] | None
    clock: Clock
    spawned_at: float = field(init=False)
    beat_at: float = field(init=False)
    state: ChildState = ChildState.SPAWNED
    progress: int = 0
    progress_at: float = 0.0
    in_flight: int = 0
    oldest_run_s: float = 0.0
    applied_epoch: int = 0
    is_waiting: bool = False
    ready_at: float = 0.0
    status: int | None = None
    killed_for: str = ""
    is_dismissed: bool = False
    was_drained: bool = False
    has_ended: bool = False

    def __post_init__(self) -> None:
        """It begins now."""
        self.spawned_at = self.beat_at = self.clock.monotonic()

    @property
    def was_ready(self) -> bool:
        """Whether it ever took work."""
        return self.ready_at > 0.0

    @property
    def has_crashed(self) -> bool:
        """Whether it was ended by a signal that a process brings on itself, unlike SIGKILL and SIGTERM."""
        return self.status is not None and -self.status in _CRASH_SIGNALS

    def to(self, state: ChildState) -> None:
        """Step to a state.

        Raises:
            ValueError: The life cycle has no such step; a defect.
        """
        if state not in _NEXT[self.state]:
            raise ValueError(f"{self.child_id}: {self.state.name} -> {state.name}")
        self.state = state
        self.was_drained |= state is ChildState.DRAINING
        if state is ChildState.READY:
            self.ready_at = self.clock.monotonic()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens when the process has ended."""
        if self.has_ended or self.state is ChildState.EXITED:
            return
        try:
            send_signal(self.pidfd, self.pid, number)
        except ProcessLookupError:
            return

    def end(self, reason: str, *, is_dismissed: bool = False) -> None:
        """SIGKILL it. The log and whoever is told of its exit then have the reason instead of a guess.

        Args:
            reason: Why, for people; the first one counts.
            is_dismissed: It has done nothing wrong: its exit is no error.
        """
        if not self.killed_for and not self.has_ended:
            self.killed_for, self.is_dismissed = reason, is_dismissed
        self.signal(signal.SIGKILL)

    def reap(self) -> int | None:
        """Collect the exit status of a process whose pidfd is readable: code, or minus the signal; None if unknown.

        It may take long (:mod:`.reaper`). Callable from any thread.
        """
        if self.process is not None:
            return self.process.wait()
        try:
            # The arbiter's child, unless the arbiter died: then it is ours, as this process is a subreaper.
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            return None
        return os.waitstatus_to_exitcode(status) if pid else None

    def close(self) -> None:
        """Give the pidfd back."""
        os.close(self.pidfd)


def exit_text(status: int | None) -> str:
    """How a process ended, for people."""
    if status is None:
        return "exited"
    if status >= 0:
        name = next((code.name for code in ExitCode if code == status), "unknown")
        return f"exit code {status} ({name})"
    names = {number.value: f" ({number.name})" for number in signal.Signals}
    text = f"killed by signal {-status}{names.get(-status, '')}"
    if -status == signal.SIGKILL:
        text += "; if nobody sent it, the machine may be out of memory"
    return text
