# SPDX-License-Identifier: Apache-2.0
"""``python -m ovms_mp.fleet.launch JSON``: a fleet's server on sockets that listen already, and who watches its actor.

The ports are the kernel's choice, made before there is a server: nobody can take them in between. They are handed over
as a service manager does it, which takes a variable with the server's own number.

This process stays as the server's parent, and asks it once to stop when the actor is gone, so that it answers what it
has. The kernel alone (PR_SET_PDEATHSIG) would ask as often as the actor has threads, and a second time means at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import sys
from typing import NoReturn

import msgspec

from ovms_mp.child.lifetime import die_with_parent

_FIRST = 3
"""The first descriptor that is handed over; sd_listen_fds(3)."""
_OUT_OF_THE_WAY = 64
_SIGNAL_BASE = 128


class Launch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From a server's actor to this process.

    Attributes:
        command: What is to be run.
        sockets: Descriptors of listening sockets.
        leases: Descriptors that the server has for as long as it lives.
        cores: Those that the server may use; empty for all of the actor's.
        parent: The actor's process.
    """

    command: tuple[str, ...]
    sockets: tuple[int, ...]
    leases: tuple[int, ...]
    cores: tuple[int, ...]
    parent: int

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All that are for the server."""
        return (*self.sockets, *self.leases)


def take_usual_priority() -> None:
    """Ray gives its workers a low one (``RAY_worker_niceness``), which is not for what answers requests."""
    # Not everybody may.
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)


def main() -> int:
    """Run the server; its exit code."""
    launch = msgspec.json.decode(sys.argv[1], type=Launch)
    take_usual_priority()
    us, actor_fd = os.getpid(), os.pidfd_open(launch.parent)
    # Nothing that has threads has been imported.
    server = os.fork()
    if server == 0:
        die_with_parent(us, signal.SIGTERM)
        _become(launch)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda which, _frame: _ask(server, which))
    # The server's alone: where it is gone, connections are refused.
    for held in launch.descriptors:
        os.close(held)
    watch = select.poll()
    for descriptor in (actor_fd, server_fd := os.pidfd_open(server)):
        watch.register(descriptor, select.POLLIN)
    ready = {descriptor for descriptor, _ in watch.poll()}
    if server_fd not in ready:
        _ask(server, signal.SIGTERM)
    code = os.waitstatus_to_exitcode(os.waitpid(server, 0)[1])
    return code if code >= 0 else _SIGNAL_BASE - code


def _ask(server: int, number: int) -> None:
    # It may have ended just now.
    with contextlib.suppress(ProcessLookupError):
        os.kill(server, number)


def _become(launch: Launch) -> NoReturn:
    if launch.cores:
        os.sched_setaffinity(0, launch.cores)
    held = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY) for number in launch.sockets]
    for place, number in enumerate(held, _FIRST):
        os.dup2(number, place)
    handed_over = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(held))}
    os.execve(launch.command[0], launch.command, {**os.environ, **handed_over})  # noqa: S606  # it becomes the server


if __name__ == "__main__":
    sys.exit(main())
