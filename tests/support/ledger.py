# SPDX-License-Identifier: Apache-2.0
"""What could be left behind: processes, socket names, shared memory, descriptors."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import psutil

OURS = ("ovms_mp.worker", "ovms_mp.front.grpc", "ovms_mp.front.rest")


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
        for process in psutil.process_iter(["pid", "cmdline"]):
            command = process.info["cmdline"] or []
            if any(module in command for module in OURS):
                processes.add(f"{process.info['pid']} {command[3] if len(command) > 3 else command}")
        names = {
            line.split()[-1]
            for line in Path("/proc/net/unix").read_text().splitlines()
            if "@ovms_mp-" in line
        }
        temporary = {str(path) for path in Path("/tmp").glob("*") if path.is_socket()}  # noqa: S108  # looked at, not used
        return cls(
            processes=frozenset(processes),
            socket_names=frozenset(names),
            shared_memory=frozenset(os.listdir("/dev/shm")),  # noqa: S108  # as above
            socket_files=frozenset(temporary),
            descriptors=len(os.listdir("/proc/self/fd")),
        )

    def leaks(self, before: Ledger) -> list[str]:
        """What is here now and was not before."""
        found = [
            *(f"process {entry}" for entry in self.processes - before.processes),
            *(f"socket {entry}" for entry in self.socket_names - before.socket_names),
            *(f"/dev/shm/{entry}" for entry in self.shared_memory - before.shared_memory),
            *(f"socket file {entry}" for entry in self.socket_files - before.socket_files),
        ]
        if self.descriptors > before.descriptors:
            found.append(f"{self.descriptors - before.descriptors} descriptors of the test process")
        return found
