# SPDX-License-Identifier: Apache-2.0
"""The order in which children are asked to finish. The processes are the test's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ovms_mp.child.specs import ChildSpec
from ovms_mp.config.server import ServerConfig, SupervisionConfig
from ovms_mp.log_levels import LogLevels
from ovms_mp.manager.children.child import Child, ChildState
from ovms_mp.manager.children.control import ControlChannel
from ovms_mp.manager.children.kinds import Kind
from ovms_mp.manager.children.spec_maker import SpecMaker
from ovms_mp.manager.children.supervisor import Supervisor
from ovms_mp.manager.shutdown import Shutdown
from ovms_mp.manager.timers import Timers
from ovms_mp.wire.channels import Poller
from ovms_mp.wire.messages import Drain

from .fakes import Router
from .kernel import InlineReaper, Kernel

if TYPE_CHECKING:
    from collections.abc import Iterator

GRACE_S = 10.0
NOTICE_S = 0.3


class Scene:
    """A worker, a gRPC front, and a shutdown; the test is the REST fronts, the trials and the downloads."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.timers, self.poller, self.router = Timers(kernel), Poller(), Router()
        self.supervisor = Supervisor(SupervisionConfig(), self.timers, self.poller, InlineReaper(), kernel)
        control = ControlChannel(self.router)  # type: ignore[arg-type]  # only sends
        self.specs = SpecMaker(ServerConfig(models=()), "run", "ipc://@control", (), 8 << 30, LogLevels)
        self.stopped: list[str] = []
        self.shutdown = Shutdown(
            GRACE_S,
            NOTICE_S,
            self.supervisor,
            self,  # type: ignore[arg-type]  # the fronts
            self,  # type: ignore[arg-type]  # the trials
            self,  # type: ignore[arg-type]  # the downloads
            control,
            self.timers,
            kernel,
        )
        self.worker, self.front = self.fill("worker-0", Kind.WORKER), self.fill("grpc-0", Kind.GRPC)
        self.router.take()

    def stop(self) -> None:
        self.stopped.append("a download or trial")

    def stop_rest(self, _deadline_ns: int) -> None:
        self.stopped.append("REST")

    def child_exited(self, child: Child, reason: str) -> None:
        self.stopped.append(child.role)

    def fill(self, role: str, kind: Kind) -> Child:
        def make_spec(child_id: str) -> ChildSpec:
            return self.specs.grpc_front(child_id)

        self.supervisor.fill(role, kind, make_spec, ())
        child = self.supervisor.find(f"{role}.1")
        assert child is not None
        child.to(ChildState.BOOTING)
        child.to(ChildState.READY)
        return child

    def end(self, child: Child) -> None:
        self.kernel.process(child.pid).end(0)
        self.supervisor.collect(self.poller.wait(0.0), self)

    def pass_time(self, seconds: float) -> None:
        self.kernel.pass_time(seconds)
        self.timers.run_due()

    def drained(self) -> list[str]:
        """Who has been asked to finish since the last look."""
        return [child_id for child_id, message in self.router.take() if isinstance(message, Drain)]


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    kernel = Kernel()
    kernel.install(monkeypatch)
    made = Scene(kernel)
    yield made
    kernel.close()
    made.poller.close()


def test_fronts_first_then_workers(scene: Scene) -> None:
    scene.shutdown.begin("SIGTERM")
    assert scene.stopped == ["a download or trial"] * 2
    assert scene.drained() == [], "fronts tell first that they are not ready"
    assert not scene.shutdown.advance()
    scene.pass_time(NOTICE_S)
    assert scene.stopped[2:] == ["REST"]
    assert scene.drained() == ["grpc-0.1"]
    assert not scene.shutdown.advance()
    assert scene.drained() == [], "a front is left"
    scene.end(scene.front)
    assert not scene.shutdown.advance()
    assert scene.drained() == ["worker-0.1"]
    assert not scene.shutdown.advance()
    scene.end(scene.worker)

    assert scene.shutdown.advance()
    assert scene.supervisor.take_failure() is None, "nobody is replaced"


def test_when_the_grace_is_over_nobody_is_waited_for(scene: Scene) -> None:
    scene.shutdown.begin("SIGTERM")
    scene.pass_time(GRACE_S - 0.1)
    assert not scene.shutdown.advance()
    scene.pass_time(0.1)

    assert scene.shutdown.advance()
    assert scene.worker.state is ChildState.READY


def test_one_that_has_not_begun_is_ended_with_the_notice(scene: Scene) -> None:
    scene.supervisor.fill("grpc-1", Kind.GRPC, scene.specs.grpc_front, ())
    scene.shutdown.begin("SIGTERM")
    scene.pass_time(NOTICE_S)
    late = scene.supervisor.find("grpc-1.1")

    assert late is not None
    assert late.killed_for == "the server stops"
    assert scene.drained() == ["grpc-0.1"]
