# SPDX-License-Identifier: Apache-2.0
"""``python -m ovms_mp.fleet.keeper JSON``: the parent of a program that an actor wants to run, a server or HAProxy.

When its actor dies, a server is asked once to stop, so that it answers what it has. The kernel alone (PR_SET_PDEATHSIG)
would ask as often as the actor has threads, and a second time means at once. HAProxy goes on without its actor, and is
started again where it dies; it ends with the process of Ray that runs the machine's actors, as nobody would tell it of
servers any more.

A server's ports are the kernel's choice, made before there is a server: nobody can take them in between. The listening
sockets are handed over as a service manager does it, which takes a variable with the server's own number.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, NoReturn

import msgspec

from ovms_mp.child.lifetime import die_with_parent
from ovms_mp.places import module_command, module_environment

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

KEEPER = "ovms_mp.fleet.keeper"
_FIRST = 3
"""The first descriptor that is handed over; sd_listen_fds(3)."""
_OUT_OF_THE_WAY = 64
_SIGNAL_BASE = 128
_SHORTEST_LIFE_S = 1.0
"""What ends earlier is started again after a pause."""


class Charge(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From an actor to its keeper.

    Attributes:
        command: What is to be run.
        lives_with: The process with which it ends.
        is_restarted: Whether it is started again when it ends by itself.
        sockets: Descriptors of listening sockets.
        leases: Descriptors that it has for as long as it lives.
        cores: Those that it may use; empty for all of the actor's.
    """

    command: tuple[str, ...]
    lives_with: int
    is_restarted: bool = False
    sockets: tuple[int, ...] = ()
    leases: tuple[int, ...] = ()
    cores: tuple[int, ...] = ()

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All that are the program's alone: where it is gone, connections are refused."""
        return (*self.sockets, *self.leases)


def keep(charge: Charge, log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a keeper, the leader of a process group of its own, with a program whose output goes to a file."""
    with open(log, "ab") as out:
        return subprocess.Popen(
            module_command(KEEPER, msgspec.json.encode(charge).decode()),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd="/",
            env=module_environment(environment),
            pass_fds=charge.descriptors,
            start_new_session=True,
        )


class _Keeper:
    """Passes signals on that ask it to stop."""

    def __init__(self, charge: Charge) -> None:
        self._charge = charge
        self._owner_fd = os.pidfd_open(charge.lives_with)
        self._child = 0
        self._is_stopping = False

    def run(self) -> int:
        """Run the program, again and again if that is wanted; its last exit code."""
        while True:
            started_s = time.monotonic()
            code = self._run_once()
            pause_s = max(0.0, started_s + _SHORTEST_LIFE_S - time.monotonic())
            if self._is_stopping or not self._charge.is_restarted or self._ready(pause_s):
                return code if code >= 0 else _SIGNAL_BASE - code

    def stop(self, number: int, _frame: object = None) -> None:
        """Ask the program."""
        self._is_stopping = True
        # It may have ended just now.
        with contextlib.suppress(ProcessLookupError):
            if self._child:
                os.kill(self._child, number)

    def _run_once(self) -> int:
        us = os.getpid()
        # Nothing that has threads has been imported.
        child = os.fork()
        if child == 0:
            die_with_parent(us, signal.SIGTERM)
            _become(self._charge)
        self._child, child_fd = child, os.pidfd_open(child)
        if self._is_stopping:
            self.stop(signal.SIGTERM)
        for held in self._charge.descriptors:
            os.close(held)
        if child_fd not in self._ready(None, child_fd):
            self.stop(signal.SIGTERM)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        self._child = 0
        os.close(child_fd)
        return code

    def _ready(self, within_s: float | None, *descriptors: int) -> set[int]:
        """Which have ended in time: the process that the program lives with, and others."""
        watch = select.poll()
        for descriptor in (self._owner_fd, *descriptors):
            watch.register(descriptor, select.POLLIN)
        return {descriptor for descriptor, _ in watch.poll(None if within_s is None else within_s * 1e3)}


def _become(charge: Charge) -> NoReturn:
    if charge.cores:
        os.sched_setaffinity(0, charge.cores)
    # Ray gives its workers a low one (``RAY_worker_niceness``), which is not for what answers requests. Not all may.
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    held = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY) for number in charge.sockets]
    for place, number in enumerate(held, _FIRST):
        os.dup2(number, place)
    handed_over = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(held))} if held else {}
    os.execve(charge.command[0], charge.command, {**os.environ, **handed_over})  # noqa: S606  # it becomes the program


def main() -> int:
    """Keep what the first argument says; the exit code."""
    keeper = _Keeper(msgspec.json.decode(sys.argv[1], type=Charge))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, keeper.stop)
    return keeper.run()


if __name__ == "__main__":
    sys.exit(main())
