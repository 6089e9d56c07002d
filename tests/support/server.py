# SPDX-License-Identifier: Apache-2.0
"""The real server as a child process of the tests."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil

from tests.support import rest_client
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

START_WITHIN_S = 180.0
KINDS = {
    "worker": "ovms_mp.worker",
    "grpc": "ovms_mp.front.grpc",
    "fetcher": "ovms_mp.fetcher",
    "arbiter": "ovms_mp.front.rest",
}


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different.

    From below the range that connections get theirs from, and each test process has its own thousand, so that nobody
    takes one before its server does.
    """
    found: list[int] = []
    while len(found) < count:
        with socket.socket() as candidate:
            try:
                candidate.bind(("127.0.0.1", next(_PORTS)))
            except OSError:
                continue
            found.append(int(candidate.getsockname()[1]))
    return found


def _ports() -> Iterator[int]:
    lane = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = 10_000 + 1_000 * lane
    return itertools.chain.from_iterable(
        random.sample(range(first, first + 1_000), 1_000) for _ in itertools.count()
    )


_PORTS = _ports()


@dataclass
class Server:
    """``ovms_mp`` with both protocols on free ports.

    Attributes:
        arguments: Command and flags without ports.
        log_path: Where its stderr goes.
        start_within_s: How long its models may take to be served.
        descriptor_limit: Soft and hard limit of open files; 0 leaves them alone.
        place: Options of :mod:`tests.support.place`, for a place that it is to run in.
        has_rest: Whether it has a REST port.
        is_patient: Whether to wait for all models; the server itself opens its doors when some take long.
    """

    arguments: Sequence[str]
    log_path: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    grpc_workers: int = 1
    rest_workers: int = 1
    port: int = 0
    rest_port: int = 0
    start_within_s: float = START_WITHIN_S
    descriptor_limit: int = 0
    place: Sequence[str] = ()
    has_rest: bool = True
    is_patient: bool = True
    process: subprocess.Popen[bytes] = field(init=False)

    def __enter__(self) -> Self:
        """Start and wait until it says that it answers."""
        self.launch()
        try:
            self.wait_ready()
            if self.is_patient and self.has_rest:
                what = "every version is served or has failed"
                # The status of many models takes a part of the core that their trials need.
                eventually(self._has_loaded, self.start_within_s, what, longest_pace_s=0.3)
        except BaseException:
            self.destroy()
            raise
        return self

    def launch(self) -> None:
        """Start without waiting."""
        if not self.port:
            self.port, self.rest_port = free_ports(2)
            self.rest_port *= self.has_rest
        limit = ["prlimit", f"--nofile={self.descriptor_limit}"] if self.descriptor_limit else []
        command = [
            *limit,
            *((sys.executable, "-m", "tests.support.place", *self.place, "--") if self.place else ()),
            sys.executable,
            "-m",
            "ovms_mp",
            *self.arguments,
            *("--port", str(self.port), "--rest_port", str(self.rest_port)),
            *("--grpc_workers", str(self.grpc_workers), "--rest_workers", str(self.rest_workers)),
        ]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )

    @contextlib.contextmanager
    def launched(self) -> Iterator[Self]:
        """Started without waiting; ended by force if the test has not ended it."""
        self.launch()
        try:
            yield self
        finally:
            self.destroy()

    def wait_ready(self) -> None:
        """Wait for the log line that comes when the doors open, whatever is served."""

        def is_ready() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.log()}")
            text = self.log()
            return "Ready: " in text or "Listening, but serving nothing: " in text

        eventually(is_ready, self.start_within_s, "server ready")

    def _has_loaded(self) -> bool:
        models = rest_client.request(self.rest_port, "GET", "/v1/status").json()["models"].values()
        versions = [version for model in models for version in model["versions"]]
        return not any(
            version["state"] in ("START", "LOADING") and not version["error_message"] for version in versions
        )

    def log(self) -> str:
        """Everything it has logged."""
        return self.log_path.read_text(errors="replace")

    def pids(self, kind: str) -> list[int]:
        """Living processes of a kind: worker, grpc, arbiter or rest."""
        found: list[int] = []
        try:
            descendants = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return found
        for process in descendants:
            try:
                command = process.cmdline()
                parent = process.ppid()
                if process.status() == psutil.STATUS_ZOMBIE or len(command) < 4:
                    continue
            except psutil.NoSuchProcess:
                continue
            module = command[3]
            if kind == "rest":
                if module == KINDS["arbiter"] and parent != self.process.pid:
                    found.append(process.pid)
            elif module == KINDS[kind] and parent == self.process.pid:
                found.append(process.pid)
        return found

    def all_pids(self) -> list[int]:
        """The manager and everything below it."""
        root = psutil.Process(self.process.pid)
        return [root.pid, *(process.pid for process in root.children(recursive=True))]

    def stop(self, within_s: float = 30.0, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to stop; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout=within_s)

    def destroy(self) -> None:
        """End it by force; its children follow."""
        self.process.kill()
        self.process.wait(timeout=10)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop it, unless the test has; a stop that is not clean fails the test."""
        if self.process.poll() is not None:
            return
        started = time.monotonic()
        try:
            code = self.stop()
        except subprocess.TimeoutExpired:
            self.destroy()
            raise AssertionError(
                f"no exit within {time.monotonic() - started:.1f} s:\n{self.log()}"
            ) from error
        if code != 0 and kind is None:
            raise AssertionError(f"exit code {code}:\n{self.log()}")
