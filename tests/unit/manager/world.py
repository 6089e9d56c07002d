# SPDX-License-Identifier: Apache-2.0
"""A catalogue over real directories, with the test as its trials, its workers and its fronts."""

from __future__ import annotations

import shutil
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pytest

from ovms_mp.config.model import ModelConfig
from ovms_mp.config.server import LimitsConfig
from ovms_mp.manager.models.catalogue import Catalogue
from ovms_mp.manager.models.counter_pages import CounterPages
from ovms_mp.manager.models.reconciler import Reconciler
from ovms_mp.manager.models.repository import Repository
from ovms_mp.model.status import State
from ovms_mp.model.versions import Latest, VersionPolicy
from ovms_mp.wire.messages import LoadModel
from ovms_mp.wire.records import ErrorRecord, ModelRecord, VersionRecord

from .fakes import Clock, FakeTrials, FakeWorkers, loaded, unloaded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ovms_mp.manager.models.deployment import Deployment

LIMITS = LimitsConfig(max_queue_tasks=7, max_queue_mb=3)


class SteadyClock(Clock):
    """The wall clock is the real one, so that files that were just made are new."""

    def time(self) -> float:
        return time.time()


def put(base: Path, *versions: int, content: bytes = b"") -> None:
    """Complete versions."""
    for version in versions:
        (base / str(version)).mkdir(parents=True, exist_ok=True)
        (base / str(version) / "model.onnx").write_bytes(content)


def remove(base: Path, *versions: int) -> None:
    for version in versions:
        shutil.rmtree(base / str(version))


class World:
    """A catalogue with its surroundings, and the manager's loop in small."""

    repositories: ClassVar[list[Repository]] = []
    """To be closed when the test is over."""

    def __init__(
        self, clock: Clock, *models: ModelConfig, settle_s: float = 0.0, is_watching: bool = True
    ) -> None:
        self.clock = clock
        self.workers = FakeWorkers()
        self.trials = FakeTrials()
        self.cleared: list[int] = []
        self.catalogue = Catalogue(
            models,
            LIMITS,
            self.workers,  # type: ignore[arg-type]  # a gate
            self.trials,
            clock,
            CounterPages(self.cleared.append),
            on_outdated=self.ask_plan,
            on_loaded=lambda _version, _detail: None,
        )
        self.books = self.catalogue.deployments
        self.look_anew(settle_s, is_watching=is_watching)
        self.is_plan_due = True
        self.epoch = 0
        self.applied = 0

    @classmethod
    def serving(cls, base: Path, clock: Clock) -> World:
        """One model, version 1 of which is served."""
        put(base, 1)
        world = cls(clock, model(base))
        world.serve()
        return world

    def look_anew(self, settle_s: float, *, is_watching: bool = True) -> None:
        """Another repository, which asks files to be left alone for so long."""
        self.repository = Repository(settle_s, self.clock, is_watching=is_watching)
        self.repositories.append(self.repository)
        self.reconciler = Reconciler(self.catalogue, self.repository, self.clock)

    def ask_plan(self) -> None:
        self.is_plan_due = True

    def plan(self, *, is_asked: bool = False) -> float | None:
        """Look at everything and carry out what follows."""
        self.is_plan_due = False
        return self.reconciler.reconcile(is_asked=is_asked)

    def publish(self) -> None:
        """What the manager's loop does at the end of each turn, with fronts that have not answered yet."""
        if self.catalogue.is_changed:
            self.epoch += 1
            self.catalogue.note_snapshot(self.epoch)
        self.catalogue.fronts_applied(self.applied)

    def apply(self) -> None:
        """The fronts have applied what was published last."""
        self.applied = self.epoch
        self.catalogue.fronts_applied(self.applied)

    def turn(self, *, is_asked: bool = False) -> float | None:
        """Plan, publish, and let the fronts apply it; again as often as that makes something new to plan."""
        moment = self.plan(is_asked=is_asked)
        self.publish()
        self.apply()
        for _ in range(20):
            if not (self.is_plan_due or self.catalogue.is_changed):
                return moment
            moment = self.plan()
            self.publish()
            self.apply()
        pytest.fail("it never comes to rest")

    def end_trial(self, reason: str = "", name: str = "") -> Deployment:
        """The trial that waits longest ends."""
        deployment = self.trials.waiting.popleft()
        self.books.trial_ended(deployment.handle, ErrorRecord(name, reason) if reason else None, "")
        return deployment

    def load(self) -> LoadModel:
        """The one trial ends well; the one load that follows."""
        self.end_trial()
        (message,) = self.workers.loads()
        return message

    def serve(self, *, is_asked: bool = False) -> LoadModel:
        """Plan, and let what is begun succeed."""
        self.turn(is_asked=is_asked)
        message = self.load()
        self.answer(message.handle)
        self.turn()
        return message

    def answer(self, handle: int, worker: str = "w0") -> None:
        self.books.state_changed(worker, loaded(handle))

    def fail(self, reason: str = "no such file") -> None:
        """The trial that waits longest ends badly."""
        self.end_trial(reason, "ModelLoadFailed")

    def end_unloads(self) -> list[int]:
        """All unloads that were asked for since the last look end; their handles."""
        sent = self.workers.take()
        assert {what for _, what, _ in sent} <= {"unload"}, sent
        for worker, _, handle in sent:
            self.books.state_changed(worker, unloaded(handle))
        self.turn()
        return sorted(handle for _, _, handle in sent)

    def lose(self, worker: str = "w0", reason: str = "killed by signal 9") -> None:
        self.workers.lose(worker)
        self.books.worker_lost(worker, reason)

    def arrive(self, worker: str, device: str = "CPU") -> None:
        self.workers.devices[worker] = device
        self.books.worker_ready(worker, device)

    def record(self, name: str = "m") -> ModelRecord:
        (record,) = [record for record in self.catalogue.records() if record.name == name]
        return record

    def versions(self, name: str = "m") -> dict[int, VersionRecord]:
        return {version.version: version for version in self.record(name).versions}

    def states(self, name: str = "m") -> dict[int, State]:
        return {number: State(version.state) for number, version in self.versions(name).items()}

    def default(self, name: str = "m") -> int:
        return self.record(name).default_version

    def configure(self, *models: ModelConfig) -> None:
        self.catalogue.reconfigure(models)


def model(
    base: Path, policy: VersionPolicy | None = None, name: str = "m", device: str = "CPU", nireq: int = 3
) -> ModelConfig:
    return ModelConfig(
        name=name,
        base_path=base,
        nireq=nireq,
        target_device=device,
        plugin_config={"A": 1},
        version_policy=policy or Latest(1),
    )


@contextmanager
def steady_clock() -> Iterator[Clock]:
    """A clock for worlds; in the end every world's repository is closed."""
    yield SteadyClock()
    for repository in World.repositories:
        repository.close()
    World.repositories.clear()
