# SPDX-License-Identifier: Apache-2.0
"""Watching and signalling processes: by pidfds, and without them where the kernel has or gives none.

pidfd_open(2) is new in Linux 5.3, and sandboxes refuse what they do not know. Then a thread waits for the process and
an eventfd says so; signals go by number, which is safe for a child of ours, as its number is not given away before we
reap it. For a REST front, which the arbiter reaps, the moment between its end and our notice remains.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
import signal
import threading
from pathlib import Path

_NOT_FOR_US = frozenset({errno.ENOSYS, errno.EPERM, errno.EACCES})
_LOOK_S = 0.1
"""How often a process that is not our child is looked at."""


def watch_process(pid: int) -> int:
    """A descriptor that becomes readable when the process has ended; the caller owns it.

    Raises:
        ProcessLookupError: It has ended and been reaped.
    """
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno not in _NOT_FOR_US:
            raise
    os.kill(pid, 0)
    descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    # The thread's own, so that it never writes to what the caller has closed.
    other = os.dup(descriptor)
    threading.Thread(target=_tell, args=(pid, other), name=f"watch-{pid}", daemon=True).start()
    return descriptor


def wait_readable(descriptor: int, timeout_s: float) -> bool:
    """Wait until a descriptor is readable, or its other end is gone; False after the timeout.

    By poll(2), as select(2) fails with descriptors from 1024.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(math.ceil(timeout_s * 1000)))


def send_signal(descriptor: int, pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that :func:`watch_process` watches, which nobody has reaped.

    Raises:
        ProcessLookupError: It has ended.
    """
    try:
        signal.pidfd_send_signal(descriptor, number)
    except OSError as error:
        if error.errno not in (*_NOT_FOR_US, errno.EBADF):
            raise
        os.kill(pid, number)


def ended_child() -> int | None:
    """A child of this process that has ended and that nobody has collected; None if there is none.

    It is told of until it is collected, and others only after it.
    """
    try:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None  # It has no children at all.
    return None if ended is None else ended.si_pid


def collect_stranger(pid: int) -> None:
    """Collect an ended child whose status tells us nothing.

    As a subreaper, and in a container as process 1, this process gets children that it did not start: REST fronts that
    outlived their arbiter, and whatever was left behind by a command that somebody ran in the container.
    """
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _tell(pid: int, descriptor: int) -> None:
    """Runs in a thread of its own until the process has ended."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    except ChildProcessError:
        _wait_for_other(pid)
    os.eventfd_write(descriptor, 1)
    os.close(descriptor)


def _wait_for_other(pid: int) -> None:
    """Wait for the end of a process that is not our child, or becomes one."""
    pause = threading.Event()
    started = _started(pid)
    while started and _started(pid) == started:
        pause.wait(_LOOK_S)


def _started(pid: int) -> str:
    """When a process started, in the kernel's ticks; empty when it has ended; see proc_pid_stat(5)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]
