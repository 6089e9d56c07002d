# SPDX-License-Identifier: Apache-2.0
"""A child's tie to its parent. Imports no zmq: gunicorn's arbiter, which forks, uses it too."""

from __future__ import annotations

import ctypes
import os
import signal

from ovms_mp.errors import BootError

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent_pid: int) -> None:
    """Ask the kernel to SIGKILL this process when its parent dies.

    That survives no fork, so each process asks for itself.

    SIGKILL, because it also ends a process that is stopped or stuck, and because nothing is left behind by
    it: arenas and sockets have no names.

    Raises:
        BootError: The parent is dead already, or the kernel refuses.

    Source: PR_SET_PDEATHSIG(2const).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise BootError(f"prctl(PR_SET_PDEATHSIG) failed: {os.strerror(ctypes.get_errno())}")
    # The parent may have died before the call; then no signal comes.
    if os.getppid() != parent_pid:
        raise BootError(f"parent process {parent_pid} is gone")
