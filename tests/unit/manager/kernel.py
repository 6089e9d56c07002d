# SPDX-License-Identifier: Apache-2.0
"""The kernel's part in supervision (start, pidfd, signal, wait, time), played by pipes.

A "process" is the read end of a pipe in place of its pidfd: it becomes readable when the test ends the process. What
the supervisor does with real ones is tested in ``tests/integration`` and ``tests/fault``.
"""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ovms_mp.manager.children.reaper import Reaped

from .fakes import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    import pytest

FIRST_PID = 2**22 + 1
"""Beyond what Linux gives out, so nothing real can be meant."""


@dataclass
class Process:
    """What the kernel would know of a process."""

    pid: int
    read_end: int
    write_end: int
    command: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    descriptors: tuple[int, ...] = ()
    status: int | None = None
    signals: list[int] = field(default_factory=list)

    def end(self, status: int) -> None:
        self.status = status
        os.close(self.write_end)

    def wait(self, timeout: float | None = None) -> int:
        """As :class:`subprocess.Popen` has it."""
        assert self.status is not None, "waited for a process that lives"
        return self.status


class InlineReaper:
    """Collects at once; see :class:`~ovms_mp.manager.children.reaper.Reaper`."""

    def __init__(self) -> None:
        self._done: list[Reaped] = []

    def begin(self, pid: int, reap: Callable[[], int | None]) -> None:
        self._done.append(Reaped(pid, reap()))

    def take(self, readable: Container[int]) -> list[Reaped]:
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        assert not self._done, "everything is taken in the turn in which it was collected"


class Kernel(Clock):
    """Plays the kernel, and is a clock."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[Process] = []
        self.refusals = 0
        """So many of the next starts are refused."""
        self.zombies: list[int] = []
        """Ended children that nobody has collected, in the order in which they are told of."""

    def start(self, command: list[str] | None = None, **settings: Any) -> Process:
        """As :class:`subprocess.Popen` is called."""
        if command and self.refusals:
            self.refusals -= 1
            raise BlockingIOError(11, "Resource temporarily unavailable")
        read_end, write_end = os.pipe()
        process = Process(FIRST_PID + len(self.processes), read_end, write_end, command or [])
        if command:
            assert settings["stdin"] == subprocess.DEVNULL
            process.environment, process.descriptors = settings["env"], settings["pass_fds"]
        self.processes.append(process)
        return process

    def pidfd_open(self, pid: int) -> int:
        for process in self.processes:
            if process.pid == pid and process.status is None:
                return process.read_end
        raise ProcessLookupError

    def send(self, pidfd: int, number: int) -> None:
        # The number of a descriptor that was closed may be a later one's.
        (process,) = [
            process for process in self.processes if process.read_end == pidfd and process.status is None
        ]
        process.signals.append(number)

    def waitid(self, *_: int) -> SimpleNamespace | None:
        """As it is called to look without collecting."""
        return SimpleNamespace(si_pid=self.zombies[0]) if self.zombies else None

    def waitpid(self, pid: int, _options: int) -> tuple[int, int]:
        if pid not in self.zombies:
            raise ChildProcessError
        self.zombies.remove(pid)
        return pid, 0

    def close(self) -> None:
        for process in self.processes:
            if process.status is None:
                process.end(0)
                os.close(process.read_end)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Take the kernel's place."""
        patch.setattr(subprocess, "Popen", self.start)
        patch.setattr(os, "pidfd_open", self.pidfd_open)
        patch.setattr(os, "waitid", self.waitid)
        patch.setattr(os, "waitpid", self.waitpid)
        patch.setattr(signal, "pidfd_send_signal", self.send)

    def process(self, pid: int) -> Process:
        """The process with this number."""
        (process,) = [process for process in self.processes if process.pid == pid]
        return process
