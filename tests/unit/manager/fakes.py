# SPDX-License-Identifier: Apache-2.0
"""What the manager's parts are given in place of processes: workers, trials and a clock that the tests move."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ovms_mp.model.status import State
from ovms_mp.storage.local import VersionFiles
from ovms_mp.wire.codec import decode_to_child
from ovms_mp.wire.messages import LoadModel, ModelStateChanged, UnloadModel
from ovms_mp.wire.records import ErrorRecord, TensorSpecRecord

if TYPE_CHECKING:
    from ovms_mp.manager.models.deployment import Deployment
    from ovms_mp.manager.models.interfaces import TrialReport
    from ovms_mp.manager.workers.workers import LoadWatch
    from ovms_mp.wire.messages import ToChild

INPUTS = (TensorSpecRecord("x", "FP32", ((1, 1), (10, 10))),)
OUTPUTS = (TensorSpecRecord("y", "FP32", ((1, 1), (10, 10))),)


class Router:
    """The manager's end of the control socket; remembers what was sent to whom."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, ToChild]] = []

    def send(self, identity: bytes, payload: bytes) -> None:
        self.sent.append((identity.decode(), decode_to_child(payload)))

    def take(self) -> list[tuple[str, ToChild]]:
        """What was sent since the last call."""
        sent, self.sent = self.sent, []
        return sent


class FakeRows:
    """Of counters that nobody reads."""

    def __init__(self) -> None:
        self.given: list[int] = []
        self.closed: list[int] = []
        self.taken = 0

    def take_row(self) -> int:
        self.taken += 1
        return self.taken

    def close_row(self, row: int) -> None:
        self.closed.append(row)

    def give_row_back(self, row: int) -> None:
        self.given.append(row)


class Clock:
    """Stands still until it is told otherwise."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self.wall = 1_700_000_000.0

    def monotonic(self) -> float:
        return self.now

    def monotonic_ns(self) -> int:
        return int(self.now * 1e9)

    def time(self) -> float:
        return self.wall + self.now

    def pass_time(self, seconds: float) -> None:
        self.now += seconds


def files(name: str = "1/model.xml", stamp: int = 0) -> VersionFiles:
    """Files of a version; another ``stamp`` means other content."""
    return VersionFiles(Path("/models") / name, ((name, 10, stamp, 7),), 0.0)


@dataclass
class FakeWorkers:
    """The workers' side of the control protocol, which holds the manager to its rules.

    A worker that is told to load one handle twice, or to unload what it was never told to load, fails the test. What
    is sent to a worker that is gone is lost, as it is with the real gate. Answers come when the test says so, in any
    order, or never.
    """

    devices: dict[str, str] = field(default_factory=lambda: {"w0": "CPU"})
    sent: list[tuple[str, LoadModel | UnloadModel]] = field(default_factory=list)
    held: dict[str, set[int]] = field(default_factory=dict)
    tenants: dict[str, int] = field(default_factory=dict)
    ever: set[tuple[str, int]] = field(default_factory=set)

    def ready(self, device: str, tenant: int = 0) -> tuple[str, ...]:
        return tuple(
            worker
            for worker, its in self.devices.items()
            if its == device and self.tenants.get(worker, 0) == tenant
        )

    def routes(self, device: str) -> list[tuple[str, str]]:
        return [(worker, f"ipc://@{worker}") for worker, its in self.devices.items() if its == device]

    def load(self, worker: str, message: LoadModel, watch: LoadWatch) -> None:
        if worker not in self.devices:
            return
        assert (worker, message.handle) not in self.ever, "one handle, loaded twice"
        assert message.settings.device == self.devices[worker], "loaded at another device's worker"
        assert watch.is_pending(message.handle, worker)
        self.ever.add((worker, message.handle))
        self.held.setdefault(worker, set()).add(message.handle)
        self.sent.append((worker, message))

    def unload(self, worker: str, handle: int) -> None:
        if worker not in self.devices:
            return
        assert handle in self.held.get(worker, set()), "unloaded where it is not"
        self.held[worker].discard(handle)
        self.sent.append((worker, UnloadModel(handle)))

    def take(self) -> list[tuple[str, str, int]]:
        """(worker, "load" or "unload", handle) since the last call."""
        sent = [
            (worker, "load" if isinstance(message, LoadModel) else "unload", message.handle)
            for worker, message in self.sent
        ]
        self.sent.clear()
        return sent

    def loads(self) -> list[LoadModel]:
        """Loads since the last call, which must all be loads."""
        messages = [message for _, message in self.sent]
        self.sent.clear()
        assert all(isinstance(message, LoadModel) for message in messages), messages
        return [message for message in messages if isinstance(message, LoadModel)]

    def lose(self, worker: str) -> None:
        """Its process has ended."""
        del self.devices[worker]
        self.held.pop(worker, None)


def loaded(handle: int) -> ModelStateChanged:
    """A worker's good answer to a load."""
    return ModelStateChanged(handle, State.AVAILABLE, None, INPUTS, OUTPUTS, 2, "nireq=2")


def unloaded(handle: int) -> ModelStateChanged:
    """A worker's answer to an unload."""
    return ModelStateChanged(handle, State.END, None, (), (), 0, "")


def load_failed(handle: int, text: str = "no such file", name: str = "ModelLoadFailed") -> ModelStateChanged:
    """A worker's bad answer to a load."""
    return ModelStateChanged(handle, State.LOADING, ErrorRecord(name, text), (), (), 0, "")


@dataclass
class FakeTrials:
    """Trials that end when the test says so; never from within the submission."""

    waiting: deque[Deployment] = field(default_factory=deque)
    skipped: list[int] = field(default_factory=list)
    withdrawn: list[int] = field(default_factory=list)
    forgotten: list[int] = field(default_factory=list)

    def submit(self, deployment: Deployment, report: TrialReport) -> None:
        deployment.cache_directory = f"/cache/{deployment.handle}"
        self.waiting.append(deployment)

    def skip(self, deployment: Deployment) -> None:
        self.skipped.append(deployment.handle)

    def withdraw(self, deployment: Deployment) -> None:
        self.withdrawn.append(deployment.handle)
        if deployment in self.waiting:
            self.waiting.remove(deployment)

    def forget_cache(self, deployment: Deployment) -> None:
        self.forgotten.append(deployment.handle)

    def one(self) -> Deployment:
        """The one that waits."""
        (deployment,) = self.waiting
        return deployment


@dataclass
class Told:
    """What a deployment's listener was told, in order."""

    events: list[tuple[str, int]] = field(default_factory=list)
    reasons: list[tuple[str, str]] = field(default_factory=list)

    def now_serving(self, deployment: Deployment) -> None:
        self.events.append(("serving", deployment.handle))

    def has_failed(self, deployment: Deployment, error: ErrorRecord) -> None:
        self.events.append(("failed", deployment.handle))
        self.reasons.append((error.name, error.message))

    def has_gone(self, deployment: Deployment) -> None:
        self.events.append(("gone", deployment.handle))

    def workers_changed(self, deployment: Deployment) -> None:
        self.events.append(("workers", deployment.handle))

    def take(self) -> list[tuple[str, int]]:
        events, self.events = self.events, []
        return events
