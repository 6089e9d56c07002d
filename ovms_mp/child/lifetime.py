# SPDX-License-Identifier: Apache-2.0
"""Ends a child when its parent dies, and handles the signals that must not end it.

Imports no zmq: gunicorn's arbiter, which forks, uses it too.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from typing import TYPE_CHECKING

from ovms_mp.errors import BootError
from ovms_mp.log import reopen_logs

if TYPE_CHECKING:
    from collections.abc import Iterator

LOG_SIGNALS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""What log rotation and people send to all processes of a name; by default each of them ends a process."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
"""What gunicorn ends its workers by."""
_PR_SET_PDEATHSIG = 1


@contextlib.contextmanager
def holding_log_signals() -> Iterator[None]:
    """Block these signals. Processes started meanwhile inherit the mask, and unblock them once they can handle them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, LOG_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def take_log_signals() -> None:
    """Reopen this process's log files on each of them from now on."""
    for number in LOG_SIGNALS:
        signal.signal(number, lambda *_: reopen_logs())
        # System calls of the engine's and gRPC's own threads go on as if nothing had come.
        signal.siginterrupt(number, False)
    release_log_signals()


def release_log_signals() -> None:
    """Unblock them; pending ones are delivered."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, LOG_SIGNALS)


def die_with_parent(parent_pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Ask the kernel to send this process a signal when its parent dies.

    That survives an exec but no fork, so each process asks for itself.

    SIGKILL, because it also ends a process that is stopped or stuck, and because nothing is left behind by
    it: arenas and sockets have no names.

    Raises:
        BootError: The parent is dead already, or the kernel refuses.

    Source: PR_SET_PDEATHSIG(2const).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0):
        raise BootError(f"prctl(PR_SET_PDEATHSIG) failed: {os.strerror(ctypes.get_errno())}")
    # The parent may have died before the call; then no signal comes.
    if os.getppid() != parent_pid:
        raise BootError(f"parent process {parent_pid} is gone")
