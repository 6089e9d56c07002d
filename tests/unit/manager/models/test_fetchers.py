# SPDX-License-Identifier: Apache-2.0
"""The one process that downloads: started when it is needed, and again when it has ended. Processes are the test's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ovms_mp.config.server import ServerConfig, SupervisionConfig
from ovms_mp.log_levels import LogLevels
from ovms_mp.manager.children.child import Child, ChildState
from ovms_mp.manager.children.control import ControlChannel
from ovms_mp.manager.children.kinds import Kind, environment_of
from ovms_mp.manager.children.spec_maker import SpecMaker
from ovms_mp.manager.children.supervisor import Supervisor
from ovms_mp.manager.models.fetchers import FetcherProcess
from ovms_mp.manager.timers import Timers
from ovms_mp.model.store_url import parse_store_url
from ovms_mp.wire.channels import Poller
from ovms_mp.wire.messages import Drain, Fetch

from ..fakes import Router
from ..kernel import InlineReaper, Kernel

if TYPE_CHECKING:
    from collections.abc import Iterator

FETCH = Fetch(1, "m", parse_store_url("s3://b/m"), {"all": {}}, (), (), "/store", "mirror", (), 0)


class Scene:
    """A supervisor with nothing but the fetcher."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.timers, self.poller, self.router = Timers(kernel), Poller(), Router()
        self.supervisor = Supervisor(SupervisionConfig(), self.timers, self.poller, InlineReaper(), kernel)
        control = ControlChannel(self.router)  # type: ignore[arg-type]  # only sends
        specs = SpecMaker(ServerConfig(models=()), "run", "ipc://@control", (), 8 << 30, LogLevels)
        self.fetcher = FetcherProcess(self.supervisor, specs, control)
        self.ended: list[bool] = []

    def child_exited(self, child: Child, _reason: str) -> None:
        self.ended.append(self.fetcher.exited(child))

    def child(self) -> Child:
        (child,) = self.supervisor.living()
        assert child.kind is Kind.FETCHER
        return child

    def ready(self) -> Child:
        child = self.child()
        child.to(ChildState.BOOTING)
        child.to(ChildState.READY)
        self.fetcher.ready(child)
        return child

    def end(self, child: Child, status: int = 0) -> None:
        self.kernel.process(child.pid).end(status)
        self.supervisor.collect(self.poller.wait(0.0), self)


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    kernel = Kernel()
    kernel.install(monkeypatch)
    made = Scene(kernel)
    yield made
    kernel.close()
    made.poller.close()


def test_what_is_sent_before_it_is_ready_waits(scene: Scene) -> None:
    assert scene.fetcher.send(FETCH)
    assert scene.router.take() == []
    child = scene.ready()
    assert scene.router.take() == [(child.child_id, FETCH)]
    assert scene.fetcher.send(FETCH)

    assert scene.router.take() == [(child.child_id, FETCH)]


def test_one_that_died_has_a_successor_for_the_next_fetch(scene: Scene) -> None:
    scene.fetcher.send(FETCH)
    first = scene.ready()
    scene.router.take()
    scene.end(first, -9)
    assert scene.ended == [True]
    scene.fetcher.send(FETCH)
    second = scene.ready()

    assert second.child_id != first.child_id
    assert scene.router.take() == [(second.child_id, FETCH)]


def test_one_that_is_not_needed_any_more_ends(scene: Scene) -> None:
    scene.fetcher.dismiss()
    scene.fetcher.send(FETCH)
    child = scene.ready()
    scene.router.take()
    scene.fetcher.dismiss()
    assert scene.router.take() == [(child.child_id, Drain(0))]
    scene.fetcher.send(FETCH)
    assert len(list(scene.supervisor.living())) == 2
    scene.end(child)

    assert scene.ended == [False], "what the successor does goes on"


def test_credentials_are_for_the_fetcher_only(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("AWS_SECRET_ACCESS_KEY", "AZURE_STORAGE_CONNECTION_STRING", "GOOGLE_APPLICATION_CREDENTIALS")
    for name in names:
        monkeypatch.setenv(name, "secret")
    for kind in (Kind.WORKER, Kind.PROBE, Kind.GRPC, Kind.ARBITER):
        assert "secret" not in environment_of(kind).values()

    assert all(environment_of(Kind.FETCHER)[name] == "secret" for name in names)
