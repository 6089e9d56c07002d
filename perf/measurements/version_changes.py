# SPDX-License-Identifier: Apache-2.0
"""Changes of one of two models, one after the other, and the slow client that compares the answers of both."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from perf.load.asking import Ask, AskFailed, asking
from perf.load.h2load import Protocol
from perf.models.adders import Adder, answering_version
from perf.subjects.server import Entry, RunningServer

PROTOCOLS: tuple[Protocol, ...] = ("grpc", "rest")
_KEPT_VERSIONS = 3
_CHECK_PAUSE_S = 0.05
_POLL_S = 0.01
_WITHIN_S = 60.0


class ChangeFailed(Exception):
    """A change had no effect in time."""


@dataclass(slots=True)
class Failures:
    """Requests that failed; shared by threads."""

    count: int = 0
    notes: list[str] = field(default_factory=list)
    """The first few in words."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, note: str, count: int = 1) -> None:
        """Count some."""
        with self._lock:
            self.count += count
            if len(self.notes) < 10:
                self.notes.append(note)


class Checker:
    """The slow client: a thread for each model and protocol. Version 1 is all that the first model may answer with."""

    def __init__(self, server: RunningServer, adders: Sequence[Adder], failures: Failures) -> None:
        self._server = server
        self._adders = adders
        self._failures = failures
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self.right = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Check for the length of a block."""
        threads = [
            threading.Thread(target=self._check, args=(adder, protocol, range(1, 2) if index == 0 else None))
            for index, adder in enumerate(self._adders)
            for protocol in PROTOCOLS
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            for thread in threads:
                thread.join()

    def _check(self, adder: Adder, protocol: Protocol, allowed: range | None) -> None:
        generator = np.random.default_rng()
        spec = adder.spec
        with asking(self._server.port(protocol), protocol) as ask:
            while not self._stopping.wait(_CHECK_PAUSE_S):
                asked = generator.integers(-1000, 1000, spec.input_shape).astype(np.float32)
                try:
                    answer = ask(spec, asked)
                except AskFailed as error:
                    self._failures.add(f"{spec.name}: {error}")
                    continue
                version = answering_version(asked, answer.output)
                if (
                    not version
                    or answer.version not in (0, version)
                    or (allowed is not None and version not in allowed)
                ):
                    text = f"{spec.name} {protocol}: asked {asked}, got {answer.output}"
                    self._failures.add(f"{text}, says version {answer.version}")
                    continue
                with self._lock:
                    self.right += 1


class Changes:
    """Does one change after the other to ``moving`` and waits for the effect of each.

    Args:
        server: Serves both.
        moving: Version 1 is installed.
        steady: The other model, which stays as it is.
        ask: For gRPC.
        failures: Counts the questions of this class that failed.
    """

    def __init__(
        self, server: RunningServer, moving: Adder, steady: Adder, ask: Ask, failures: Failures
    ) -> None:
        self._server = server
        self._moving = moving
        self._steady = steady
        self._ask = ask
        self._failures = failures
        self._newest = 1
        self._reloads = 0
        self.seconds: dict[str, list[float]] = {"switch": [], "reload": [], "restore": []}
        """Of each change, from its beginning to its effect."""

    def run(self, waiting: deque[str], until_s: float) -> int:
        """Do changes until a moment; how many were done.

        Raises:
            ChangeFailed: See the class.
        """
        kinds = {"switch": self.switch, "reload": self._reload, "restore": self._restore}
        count = 0
        while waiting and time.monotonic() < until_s:
            kind = waiting.popleft()
            self.seconds[kind].append(kinds[kind]())
            count += 1
        return count

    def switch(self) -> float:
        """Add a version; seconds from its rename to its first answer."""
        self._newest += 1
        self._moving.install(self._newest)
        took_s = self._until_answered_by(self._newest)
        if self._newest > _KEPT_VERSIONS:
            self._moving.remove(self._newest - _KEPT_VERSIONS)
        return took_s

    def _reload(self) -> float:
        """Change its settings in the configuration file; seconds until they are in force."""
        self._reloads += 1
        mark = f"event=available model={self._moving.spec.name}"
        before = self._server.count_in_log(mark)
        started_s = time.monotonic()
        self._server.reconfigure(entries(self._steady, self._moving, self._reloads))
        self._until(lambda: self._server.count_in_log(mark) > before, "available again")
        return time.monotonic() - started_s

    def _restore(self) -> float:
        """Take the newest version away, wait for the one before, bring it back; seconds of all."""
        started_s = time.monotonic()
        self._moving.hide(self._newest)
        self._until_answered_by(self._moving.newest())
        self._moving.restore(self._newest)
        self._until_answered_by(self._newest)
        return time.monotonic() - started_s

    def _until_answered_by(self, version: int) -> float:
        asked = np.zeros(self._moving.spec.input_shape, np.float32)

        def is_answering() -> bool:
            try:
                answer = self._ask(self._moving.spec, asked)
            except AskFailed as error:
                self._failures.add(f"{self._moving.spec.name}: {error}")
                return False
            return answering_version(asked, answer.output) == version

        return self._until(is_answering, f"answered by version {version}")

    def _until(self, is_done: Callable[[], bool], what: str) -> float:
        """Wait for something that only asking tells; seconds."""
        started_s = time.monotonic()
        while not is_done():
            if time.monotonic() - started_s > _WITHIN_S:
                raise ChangeFailed(f"{self._moving.spec.name} is not {what} within {_WITHIN_S:g} s")
            time.sleep(_POLL_S)
        return time.monotonic() - started_s


def entries(steady: Adder, moving: Adder, number: int) -> list[Entry]:
    """The configuration after so many reloads: each differs from the one before in three settings of ``moving``."""
    return [
        {"name": steady.spec.name, "base_path": str(steady.base_path)},
        {
            "name": moving.spec.name,
            "base_path": str(moving.base_path),
            "nireq": 1 + number,
            "plugin_config": {"PERFORMANCE_HINT": "THROUGHPUT" if number % 2 else "LATENCY"},
            "model_version_policy": {"latest": {"num_versions": 1 + number % 2}},
        },
    ]
