# SPDX-License-Identifier: Apache-2.0
"""``python -m ovms_mp.fleet.launch JSON``: becomes a fleet's server, on sockets that listen already.

The ports are the kernel's choice, made before there is a server: nobody can take them in between. They are handed over
as a service manager does it, which takes a variable with this process's own number. The server ends in order when the
actor that started it dies, and answers what it has: SIGTERM comes by the kernel.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys

import msgspec

from ovms_mp.child.lifetime import die_with_parent

_FIRST = 3
"""The first descriptor that is handed over; sd_listen_fds(3)."""
_OUT_OF_THE_WAY = 64


class Launch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From a server's actor to this process.

    Attributes:
        command: What is to be run.
        sockets: Descriptors of listening sockets.
        cores: Those that the server may use; empty for all of the actor's.
        parent: The actor's process.
    """

    command: tuple[str, ...]
    sockets: tuple[int, ...]
    cores: tuple[int, ...]
    parent: int


def take_usual_priority() -> None:
    """Ray gives its workers a low one (``RAY_worker_niceness``), which is not for what answers requests."""
    # Not everybody may.
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)


def main() -> None:
    """Become the server."""
    launch = msgspec.json.decode(sys.argv[1], type=Launch)
    take_usual_priority()
    die_with_parent(launch.parent, signal.SIGTERM)
    if launch.cores:
        os.sched_setaffinity(0, launch.cores)
    held = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY) for number in launch.sockets]
    for place, number in enumerate(held, _FIRST):
        os.dup2(number, place)
    handed_over = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(held))}
    os.execve(launch.command[0], launch.command, {**os.environ, **handed_over})  # noqa: S606  # it becomes the server


if __name__ == "__main__":
    main()
