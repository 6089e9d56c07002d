# SPDX-License-Identifier: Apache-2.0
"""What could be left behind: processes, socket names, shared memory, descriptors.

Another test session may run on the same machine, so processes are counted by a mark in their environment, which
everything that this session starts inherits, sockets by the processes that have them open, and files by their owner.
"""

from __future__ import annotations

import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

MARK = ("OVMS_MP_TEST_SESSION", secrets.token_hex(8))
"""Variable of the environment; set by ``tests/conftest.py``."""
CLIENTS_MEMORY = "ovms_mp-test-"
"""What regions are called that tests make as clients do. Each test gives its own back; another one, in another process,
must not count them."""
OURS = ("ovms_mp.worker", "ovms_mp.fetcher", "ovms_mp.front.grpc", "ovms_mp.front.rest")


@dataclass(frozen=True)
class Ledger:
    """A count of everything that a test must give back."""

    processes: frozenset[str]
    socket_names: frozenset[str]
    shared_memory: frozenset[str]
    socket_files: frozenset[str]
    descriptors: int

    @classmethod
    def take(cls) -> Ledger:
        """Look now."""
        processes: set[str] = set()
        inodes = _socket_inodes(os.getpid())
        for pid, command in _ours():
            if _is_marked(pid):
                processes.add(f"{pid} {command[3] if len(command) > 3 else command}")
                inodes |= _socket_inodes(pid)
        lines = Path("/proc/net/unix").read_text().splitlines()
        rows = [line.split() for line in lines if " @ovms_mp-" in line]
        names = {row[-1] for row in rows if row[6] in inodes}
        return cls(
            processes=frozenset(processes),
            socket_names=frozenset(names),
            shared_memory=frozenset(_names_of_this_user(Path("/dev/shm"))),  # noqa: S108  # looked at, not used
            socket_files=frozenset(_names_of_this_user(Path("/tmp"), only_sockets=True)),  # noqa: S108  # as above
            descriptors=len(os.listdir("/proc/self/fd")),
        )

    def leaks(self, before: Ledger, *, count_descriptors: bool) -> list[str]:
        """What is here now and was not before."""
        found = [
            *(f"process {entry}" for entry in self.processes - before.processes),
            *(f"socket {entry}" for entry in self.socket_names - before.socket_names),
            *(f"shared memory {entry}" for entry in self.shared_memory - before.shared_memory),
            *(f"socket file {entry}" for entry in self.socket_files - before.socket_files),
        ]
        if count_descriptors and self.descriptors > before.descriptors:
            found.append(f"{self.descriptors - before.descriptors} descriptors of the test process")
        return found


def assert_nothing_left(before: Ledger, within_s: float = 5.0, *, count_descriptors: bool = False) -> None:
    """Wait until everything that came after ``before`` has gone again.

    Args:
        before: Taken earlier.
        within_s: Longest wait.
        count_descriptors: Also those of the test process. Only sound around a single test: fixtures that outlive
            one may have opened some meanwhile.

    Raises:
        AssertionError: Naming what is still there.
    """
    left: list[str] = []

    def is_clean() -> bool:
        left[:] = Ledger.take().leaks(before, count_descriptors=count_descriptors)
        return not left

    try:
        eventually(is_clean, within_s, "nothing left behind")
    except AssertionError:
        raise AssertionError(f"left behind: {left}") from None


def _names_of_this_user(directory: Path, *, only_sockets: bool = False) -> set[str]:
    """Entries, without those of services that use the same directory."""
    found: set[str] = set()
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.startswith(CLIENTS_MEMORY):
                continue
            # Known from the directory itself, where files may be many.
            if only_sockets and (entry.is_symlink() or entry.is_dir() or entry.is_file()):
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if status.st_uid == os.getuid() and (not only_sockets or stat.S_ISSOCK(status.st_mode)):
                found.add(entry.path)
    return found


def _ours() -> Iterator[tuple[int, list[str]]]:
    """Processes of the server with their command lines, this session's and others'.

    Looked for twice in every test, so without a library's objects for each process of the machine.
    """
    for name in os.listdir("/proc"):
        if name.isdigit():
            content = _content(f"/proc/{name}/cmdline")
            if b"ovms_mp." in content:
                command = content.decode(errors="replace").removesuffix("\0").split("\0")
                if any(module in command for module in OURS):
                    yield int(name), command


def _is_marked(pid: int) -> bool:
    return "=".join(MARK).encode() in _content(f"/proc/{pid}/environ").split(b"\0")


def _content(path: str) -> bytes:
    """What a file of the kernel's about a process says; nothing where the process is gone."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.readall()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _socket_inodes(pid: int) -> set[str]:
    """Inodes of the sockets that a process has open; none of one that is gone."""
    found: set[str] = set()
    directory = f"/proc/{pid}/fd/"
    try:
        for number in os.listdir(directory):
            kind, _, rest = os.readlink(directory + number).partition(":[")
            if kind == "socket":
                found.add(rest[:-1])
    except (FileNotFoundError, ProcessLookupError):
        # Its end, or that of the descriptor by which the directory was read.
        return found
    return found
