# SPDX-License-Identifier: Apache-2.0
"""Machines of a network: a namespace of the kernel for each, with addresses and ports, and links that can be cut.

For root only. Processes, files and cores are this machine's. Everything is gone with the processes that hold the
namespaces; network_namespaces(7).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

_NETWORK = "10.77.0"
_SWITCH_HOST = 254
_TOOLS = ("ip", "unshare", "nsenter")


def missing() -> str:
    """Why there can be no machines here; empty if there can."""
    if os.geteuid():
        return "network namespaces need root"
    absent = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if absent:
        return f"not here: {', '.join(absent)}"
    tried = subprocess.run(
        ["unshare", "-n", "ip", "link", "add", "name", "try", "type", "bridge"],  # noqa: S607  # found above
        capture_output=True,
        text=True,
        check=False,
    )
    return tried.stderr.strip()


@dataclass(frozen=True)
class Machine:
    """One of them, or the switch between them."""

    number: int
    holder: subprocess.Popen[bytes]

    @property
    def address(self) -> str:
        """Its address."""
        return f"{_NETWORK}.{self.number}"

    def inside(self, command: Sequence[str]) -> list[str]:
        """A command line that runs another one there."""
        return ["nsenter", "-t", str(self.holder.pid), "-n", "--", *command]

    def do(self, *command: str) -> None:
        """Run a short command there, which must succeed."""
        subprocess.run(self.inside(command), check=True)


class Machines:
    """Some machines on one switch, which has an address, too: clients are there."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack as stack:
            self.switch = self._held(stack, _SWITCH_HOST)
            self.switch.do("ip", "link", "set", "lo", "up")
            self.switch.do("ip", "link", "add", "name", "hub", "type", "bridge")
            self.switch.do("ip", "address", "add", f"{self.switch.address}/24", "dev", "hub")
            self.switch.do("ip", "link", "set", "hub", "up")
            self.all = [self._held(stack, number) for number in range(1, self._count + 1)]
            for machine in self.all:
                port = _port(machine)
                peer = ("type", "veth", "peer", "name", "eth0", "netns", str(machine.holder.pid))
                self.switch.do("ip", "link", "add", "name", port, *peer)
                self.switch.do("ip", "link", "set", port, "master", "hub", "up")
                machine.do("ip", "link", "set", "lo", "up")
                machine.do("ip", "address", "add", f"{machine.address}/24", "dev", "eth0")
                machine.do("ip", "link", "set", "eth0", "up")
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def cut(self, machine: Machine) -> None:
        """Cut its link: nothing comes or goes, and nobody is told."""
        self.switch.do("ip", "link", "set", _port(machine), "down")

    def mend(self, machine: Machine) -> None:
        """Put its link together again."""
        self.switch.do("ip", "link", "set", _port(machine), "up")

    def _held(self, stack: ExitStack, number: int) -> Machine:
        holder = subprocess.Popen(["unshare", "-n", "sleep", "infinity"])  # noqa: S607  # looked for by missing()
        stack.callback(holder.wait)
        stack.callback(holder.kill)
        ours = os.readlink("/proc/self/ns/net")
        eventually(lambda: os.readlink(f"/proc/{holder.pid}/ns/net") != ours, 5, "a namespace of its own")
        return Machine(number, holder)


def _port(machine: Machine) -> str:
    """The switch's end of its link."""
    return f"port{machine.number}"
