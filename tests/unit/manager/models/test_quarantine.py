# SPDX-License-Identifier: Apache-2.0
"""What follows from workers' deaths: the real catalogue, provisioner, supervisor and seats, over a played kernel."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from ovms_mp.config.server import EngineConfig, LimitsConfig, ServerConfig
from ovms_mp.errors import Code
from ovms_mp.manager.children.child import ChildState
from ovms_mp.manager.models.catalogue import Catalogue
from ovms_mp.manager.models.counter_pages import CounterPages
from ovms_mp.manager.models.deployment import load_failure
from ovms_mp.manager.models.quarantine import Quarantine
from ovms_mp.manager.models.reconciler import Reconciler
from ovms_mp.manager.models.repository import Repository
from ovms_mp.manager.workers.cpu_plan import Machine
from ovms_mp.manager.workers.workers import Seat
from ovms_mp.model.status import State
from ovms_mp.wire.messages import LoadModel, UnloadModel
from ovms_mp.wire.records import Conviction, RunMark, VersionRecord
from ovms_mp.wire.run_page import NOT_A_TASK, SECOND_FORM, RunPage

from ..fakes import FakeTrials, loaded, unloaded
from ..kernel import Kernel
from ..provisioning import provisioning
from ..world import model, put

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ovms_mp.manager.children.child import Child

MACHINE = Machine((0, 1, 2, 3), ((0, 1, 2, 3),), {core: (core,) for core in range(4)})
SEGV = -signal.SIGSEGV


class Scene:
    """Models ``a`` and ``b``, each with one version; the test also plays the manager's loop and the workers."""

    def __init__(self, kernel: Kernel, root: Path, cpu_workers: int) -> None:
        self.kernel = kernel
        for name in ("a", "b"):
            put(root / name, 1)
        models = tuple(model(root / name, name=name) for name in ("a", "b"))
        config = ServerConfig(models=models, engine=EngineConfig(cpu_workers=cpu_workers))
        made = provisioning(config, MACHINE, kernel)
        self.timers, self.poller, self.router = made.timers, made.poller, made.router
        self.supervisor, self.workers, self.provisioner = made.supervisor, made.workers, made.provisioner
        self.trials = FakeTrials()
        self.catalogue = Catalogue(
            models,
            LimitsConfig(),
            self.workers,
            self.trials,
            kernel,
            CounterPages(lambda _: None),
            on_outdated=lambda: None,
            on_loaded=lambda _version, _detail: None,
        )
        self.books = self.catalogue.deployments
        self.quarantine = Quarantine(self.catalogue, self.provisioner, kernel)
        self.repository = Repository(0.0, kernel, is_watching=False)
        self.reconciler = Reconciler(self.catalogue, self.repository, kernel)
        self.epoch = self.applied = 0
        self.provisioner.start(["CPU"])
        for seat in self.workers:
            self.make_ready(seat)
        self.reconciler.reconcile()
        for _ in range(2):
            self.books.trial_ended(self.trials.waiting.popleft().handle, None, "")
        self.settle()

    def child_exited(self, child: Child, reason: str) -> None:
        self.quarantine.worker_exited(child, self.workers.seat_of(child), reason)

    def take_failures(self) -> None:
        while (failure := self.supervisor.take_failure()) is not None:
            assert not failure.is_vital, failure.reason
            self.role_failed(failure.role)

    def role_failed(self, role: str) -> None:
        tenant = self.provisioner.tenant_of(role)
        assert self.provisioner.role_failed(role) is None
        self.quarantine.release(tenant)

    def settle(self) -> None:
        """Workers that were started are there, do what they are told, and fronts follow."""
        for _ in range(6):
            for seat in self.workers:
                if seat.child is None and self.children(seat):
                    self.make_ready(seat)
            while self.router.sent:
                worker, message = self.router.sent.pop(0)
                if isinstance(message, LoadModel):
                    self.books.state_changed(worker, loaded(message.handle))
                elif isinstance(message, UnloadModel):
                    self.books.state_changed(worker, unloaded(message.handle))
            self.turn()
            self.applied = self.epoch

    def turn(self) -> None:
        """What the manager's loop does when nothing has come."""
        self.timers.run_due()
        self.take_failures()
        if self.catalogue.is_changed or self.provisioner.is_changed:
            self.epoch += 1
            self.catalogue.note_snapshot(self.epoch)
            self.provisioner.note_snapshot(self.epoch)
        self.books.fronts_applied(self.applied)
        self.quarantine.advance()
        self.provisioner.advance(self.books, self.applied)

    def children(self, seat: Seat) -> list[Child]:
        return [child for child in self.supervisor.living() if child.role == seat.name]

    def make_ready(self, seat: Seat) -> None:
        (child,) = self.children(seat)
        child.to(ChildState.BOOTING)
        child.to(ChildState.READY)
        self.supervisor.beat(child, progress=1)
        self.workers.became_ready(child)
        self.books.worker_ready(child.child_id, seat.device, seat.tenant)

    def handle(self, name: str) -> int:
        return self.record(name).handle

    def record(self, name: str) -> VersionRecord:
        (found,) = [entry for entry in self.catalogue.records() if entry.name == name]
        return found.versions[0]

    def seats(self, name: str = "") -> list[Seat]:
        """Those of one model alone, or those that are shared."""
        tenant = self.handle(name) if name else 0
        return [seat for seat in self.workers if seat.tenant == tenant and not seat.is_leaving]

    def crash(self, seat: Seat, *names: str, status: int = SEGV) -> None:
        """The seat's worker ends while it runs a task of each of these models."""
        page = RunPage(seat.page_descriptor)
        for number, name in enumerate(names):
            page.begin((0, 1), number + 1, self.handle(name))
        page.close()
        (child,) = self.children(seat)
        self.kernel.process(child.pid).end(status)
        self.supervisor.collect(self.poller.wait(0.0), self)
        self.take_failures()

    def isolate(self, name: str = "a") -> Seat:
        """Its own worker, ready."""
        for _ in range(3):
            self.crash(self.seats()[0], name)
            self.settle()
        (seat,) = self.seats(name)
        return seat

    def pass_time(self, seconds: float) -> None:
        self.kernel.now += seconds
        self.turn()


@pytest.fixture(params=[1], ids=["one worker"])
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Scene]:
    kernel = Kernel()
    kernel.install(monkeypatch)
    made = Scene(kernel, tmp_path, request.param)
    yield made
    kernel.close()
    made.poller.close()
    made.repository.close()
    made.workers.close()


two_workers = pytest.mark.parametrize("scene", [2], indirect=True, ids=["two workers"])


def test_fronts_are_told_how_a_worker_ended_and_what_it_ran(scene: Scene) -> None:
    (seat,) = scene.seats()
    endpoint = seat.endpoint
    scene.crash(seat, "a", "b")
    (death,) = scene.quarantine.deaths()
    assert (death.endpoint, death.has_crashed) == (endpoint, True)
    assert death.reason == "killed by signal 11 (SIGSEGV)"
    assert set(death.running) == {RunMark(0, 1, 1, scene.handle("a")), RunMark(0, 1, 2, scene.handle("b"))}
    scene.settle()
    scene.crash(seat, status=-signal.SIGKILL)
    assert scene.quarantine.deaths()[1].running == (), "what the first one ran is not the second one's"
    assert not scene.quarantine.deaths()[1].has_crashed


@pytest.mark.parametrize(
    "number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGBUS, signal.SIGILL]
)
def test_three_crashes_isolate(scene: Scene, number: int) -> None:
    (shared,) = scene.seats()
    for count in range(3):
        assert scene.seats("a") == []
        assert scene.record("a").error_message == "", count
        scene.crash(shared, "a", status=-number)
        scene.settle()
    (own,) = scene.seats("a")
    assert own.child is not None
    assert scene.record("a").endpoints == (own.endpoint,)
    assert scene.record("b").endpoints == (shared.endpoint,)
    assert State(scene.record("a").state) is State.AVAILABLE
    assert f"crashed the inference worker 3 times (the last one: killed by signal {number:d}" in (
        scene.record("a").error_message
    )
    assert scene.record("b").error_message == ""
    assert own.share.cores == shared.share.cores
    assert not own.share.is_pinning_safe


@pytest.mark.parametrize("status", [-signal.SIGKILL, -signal.SIGTERM, 70, 0])
def test_what_others_end_isolates_nothing(scene: Scene, status: int) -> None:
    for _ in range(6):
        scene.crash(scene.seats()[0], "a", status=status)
        scene.settle()
    assert scene.seats("a") == []


def test_crashes_of_nobody_and_of_several_isolate_nothing(scene: Scene) -> None:
    for _ in range(6):
        scene.crash(scene.seats()[0])
        scene.settle()
        scene.crash(scene.seats()[0], "a", "b")
        scene.settle()
    assert scene.seats("a") == scene.seats("b") == []


def test_a_crash_while_loading_is_not_a_requests(scene: Scene) -> None:
    for _ in range(3):
        page = RunPage(scene.seats()[0].page_descriptor)
        page.begin((0, 0), NOT_A_TASK, scene.handle("a"))
        page.close()
        scene.crash(scene.seats()[0])
        scene.settle()
    assert scene.seats("a") == []


def test_a_second_form_that_kills_its_worker_is_not_compiled_again_and_no_request_is_blamed(
    scene: Scene,
) -> None:
    for _ in range(6):
        page = RunPage(scene.seats()[0].page_descriptor)
        page.begin((0, 0), SECOND_FORM, scene.handle("a"))
        page.begin((0, 1), 1, scene.handle("a"))
        page.close()
        scene.crash(scene.seats()[0])
        scene.settle()

    assert scene.seats("a") == []
    deployments = {entry.model_name: entry for entry in scene.books}
    assert not deployments["a"].load_message().may_adapt
    assert deployments["b"].load_message().may_adapt


@pytest.mark.parametrize("has_outgrown", [False, True])
def test_a_worker_that_is_asked_to_go_while_it_compiles_a_form_says_nothing_about_the_form(
    scene: Scene, has_outgrown: bool
) -> None:
    """Unless that was for the memory that it took."""
    seat = scene.seats()[0]
    seat.has_outgrown = has_outgrown
    page = RunPage(seat.page_descriptor)
    page.begin((0, 0), SECOND_FORM, scene.handle("a"))
    page.close()
    assert seat.child is not None
    seat.child.was_drained = True
    scene.crash(seat)
    scene.settle()

    deployments = {entry.model_name: entry for entry in scene.books}
    assert deployments["a"].load_message().may_adapt is not has_outgrown


def test_crashes_long_apart_isolate_nothing(scene: Scene) -> None:
    for _ in range(6):
        scene.crash(scene.seats()[0], "a")
        scene.settle()
        scene.pass_time(151.0)
    assert scene.seats("a") == []


def test_pauses_grow_and_the_status_says_so(scene: Scene) -> None:
    own = scene.isolate()
    (shared,) = scene.seats()
    served_by = shared.child
    for pause_s in (1, 2, 4, 8, 16, 32, 60, 60):
        scene.crash(own, "a")
        scene.turn()
        record = scene.record("a")
        assert (record.state, record.error_code) == (State.LOADING, Code.UNAVAILABLE.number)
        assert f"is started again {pause_s} s after its last crash" in record.error_message
        assert record.retry_at_ns == pytest.approx(1e9 * (scene.kernel.now + pause_s))
        scene.pass_time(pause_s - 0.01)
        assert scene.children(own) == []
        scene.pass_time(0.02)
        assert len(scene.children(own)) == 1
        assert scene.record("a").error_code == 0, "it is worth waiting for"
        scene.settle()
        assert State(scene.record("a").state) is State.AVAILABLE
        assert "is started again" not in scene.record("a").error_message
    assert shared.child is served_by


def test_after_a_quiet_while_it_is_served_with_others_without_a_gap(scene: Scene) -> None:
    own = scene.isolate()
    scene.pass_time(599.0)
    assert scene.seats("a") == [own]
    scene.pass_time(1.1)
    assert scene.record("a").endpoints == (own.endpoint,), "its own worker serves until the shared one can"
    scene.settle()
    (shared,) = scene.seats()
    assert scene.record("a").endpoints == (shared.endpoint,)
    assert scene.record("a").error_message == ""
    assert scene.seats("a") == []
    # The next crash isolates at once.
    scene.crash(shared, "a")
    scene.settle()
    assert len(scene.seats("a")) == 1


@two_workers
def test_other_shared_workers_unload_it_once_fronts_route_past_them(scene: Scene) -> None:
    first, second = scene.seats()
    for _ in range(2):
        scene.crash(first, "a")
        scene.settle()
    scene.crash(first, "a")
    assert scene.record("a").endpoints == ()
    scene.router.sent.clear()
    scene.turn()
    assert scene.router.sent == [], "a front may still send it something"
    scene.applied = scene.epoch
    scene.turn()
    assert second.child is not None
    assert (second.child.child_id, UnloadModel(scene.handle("a"))) in scene.router.sent
    scene.settle()
    assert scene.record("a").endpoints == (scene.seats("a")[0].endpoint,)
    assert len(scene.record("b").endpoints) == 2


def test_a_version_that_goes_takes_its_worker_along(scene: Scene) -> None:
    own = scene.isolate()
    scene.catalogue.reconfigure([config for config in scene.catalogue.configs if config.name == "b"])
    scene.reconciler.reconcile()
    scene.settle()
    assert own.is_leaving
    assert [seat.tenant for seat in scene.workers if not seat.is_leaving] == [0]


def test_a_version_whose_own_worker_cannot_be_started_is_served_with_others(scene: Scene) -> None:
    own = scene.isolate()
    scene.role_failed(own.name)
    scene.settle()
    assert scene.record("a").endpoints == (scene.seats()[0].endpoint,)


def conviction(handle: int, number: int, until_s: float = 1e6) -> Conviction:
    return Conviction(handle, b"s", b"%d" % number, number, int(until_s * 1e9), "killed")


def test_convictions_go_to_all_fronts_once_and_while_they_last(scene: Scene) -> None:
    handle = scene.handle("a")
    scene.catalogue.note_snapshot(scene.epoch)
    scene.quarantine.convicted(conviction(handle, 1))
    assert scene.catalogue.is_changed, "a snapshot is due"
    scene.quarantine.convicted(conviction(handle, 1))
    scene.quarantine.convicted(conviction(handle, 2, scene.kernel.now + 5))
    assert scene.quarantine.convictions() == (
        conviction(handle, 1),
        conviction(handle, 2, scene.kernel.now + 5),
    )
    scene.kernel.now += 6
    assert scene.quarantine.convictions() == (conviction(handle, 1),)


def test_convictions_are_bounded_and_end_with_their_version(scene: Scene) -> None:
    handle = scene.handle("a")
    for number in range(100):
        scene.quarantine.convicted(conviction(handle, number))
    scene.quarantine.convicted(conviction(4711, 1))
    scene.quarantine.convicted(Conviction(handle, b"s", bytes(1000), 1, 10**18, "killed"))
    assert scene.quarantine.convictions() == tuple(conviction(handle, number) for number in range(36, 100))
    deployment = scene.books.find(handle)
    assert deployment is not None
    scene.books.give_up(deployment, load_failure("gone"))
    assert scene.quarantine.convictions() == ()
