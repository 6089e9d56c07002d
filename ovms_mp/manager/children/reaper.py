# SPDX-License-Identifier: Apache-2.0
"""Collects the exit status of processes that have ended, in a thread.

wait4(2) does not only tell: it has the kernel take the process down, which is that of who calls. Where cores are busy
and the process had many threads and a low priority it takes half a second, with WNOHANG too, although the pidfd had
said that the process has ended. The manager's loop has no such time.
"""

from __future__ import annotations

import threading
from collections import deque
from queue import SimpleQueue
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ovms_mp.defects import contain
from ovms_mp.wire.channels import Wakeup

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from ovms_mp.wire.channels import Poller

_END_S = 10.0
"""For the kernel to take down what the thread is at when the manager ends."""


class Reaped(NamedTuple):
    """A process that is no more; its number may be another one's from now on.

    Attributes:
        pid: Its number.
        status: Exit code, or minus the signal; None if unknown.
    """

    pid: int
    status: int | None


class Reaper(Protocol):
    """Collects processes that have ended."""

    def begin(self, pid: int, reap: Callable[[], int | None]) -> None:
        """Have a process collected that has ended, by a function that returns its status."""

    def take(self, readable: Container[int]) -> list[Reaped]:
        """Those that have been collected meanwhile; told which descriptors are readable."""


class ReapingThread:
    """The one of the manager; a thread that starts when it is needed first."""

    def __init__(self, poller: Poller) -> None:
        """Register with the poller, which learns of each process that has been collected."""
        self._poller = poller
        self._wakeup = Wakeup()
        self._work: SimpleQueue[tuple[int, Callable[[], int | None]] | None] = SimpleQueue()
        self._done: deque[Reaped] = deque()
        self._thread: threading.Thread | None = None
        poller.register(self._wakeup.fileno())

    def begin(self, pid: int, reap: Callable[[], int | None]) -> None:
        """Have a process collected that has ended."""
        self._work.put((pid, reap))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="reaper", daemon=True)
            self._thread.start()

    def take(self, readable: Container[int]) -> list[Reaped]:
        """Those that have been collected meanwhile; told which descriptors are readable."""
        if self._wakeup.fileno() not in readable:
            return []
        # Before they are taken, so that what comes meanwhile wakes the loop again.
        self._wakeup.clear()
        return [self._done.popleft() for _ in range(len(self._done))]

    def close(self) -> None:
        """End the thread and give the descriptor back."""
        if self._thread is not None:
            self._work.put(None)
            self._thread.join(_END_S)
            if self._thread.is_alive():
                return  # It would write to a descriptor that is somebody else's by then.
        self._poller.unregister(self._wakeup.fileno())
        self._wakeup.close()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            contain("manager.reap", str(work[0]), self._collect, *work)

    def _collect(self, pid: int, reap: Callable[[], int | None]) -> None:
        status = None
        try:
            status = reap()
        finally:
            self._done.append(Reaped(pid, status))
            self._wakeup.set()
