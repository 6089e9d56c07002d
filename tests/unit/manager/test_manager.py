# SPDX-License-Identifier: Apache-2.0
"""The manager's loop as a whole, in one process: the test plays the kernel, the control channel and all children.

Each ``yield`` of a story lets the loop turn once.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import tempfile
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

from ovms_mp.child.specs import ProbeSpec, spec_from_argument
from ovms_mp.codes import ExitCode
from ovms_mp.config.file import parse_config_file
from ovms_mp.config.server import LimitsConfig, RepositoryConfig, ServerConfig
from ovms_mp.config.transports import GrpcConfig, RestConfig
from ovms_mp.manager import assembly
from ovms_mp.manager.assembly import opened_manager
from ovms_mp.manager.service.service_manager import ServiceManager
from ovms_mp.manager.workers.cpu_plan import Machine
from ovms_mp.model.status import State
from ovms_mp.storage.watch import RepositoryWatch
from ovms_mp.wire.changes import LoadNamed, RegionRecord, RegisterRegion, ReloadConfig, UnloadNamed
from ovms_mp.wire.codec import decode_to_child, encode
from ovms_mp.wire.messages import (
    ChangeState,
    Drain,
    Hello,
    LoadModel,
    ProbeDone,
    Ready,
    RoutingSnapshot,
    SnapshotApplied,
    StateChanged,
    ToManager,
    UnloadModel,
)
from ovms_mp.wire.records import ErrorRecord

from .fakes import load_failed, loaded, unloaded
from .kernel import InlineReaper, Kernel, Process

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from ovms_mp.wire.changes import AnyChange

MessageT = TypeVar("MessageT")
MACHINE = Machine((0, 1), ((0, 1),), {0: (0,), 1: (1,)})


class StoryOver(Exception):
    """Leads out of the manager's loop."""


class ObedientKernel(Kernel):
    """Nobody survives SIGKILL."""

    def send(self, pidfd: int, number: int) -> None:
        super().send(pidfd, number)
        if number == signal.SIGKILL:
            (process,) = [
                process for process in self.processes if process.read_end == pidfd and process.status is None
            ]
            process.end(-9)


class Turns:
    """In place of the poller: a story goes on where the loop would wait."""

    def __init__(self) -> None:
        self.descriptors: set[int] = set()
        self.story: Iterator[None] = iter(())

    def register(self, source: object) -> None:
        if isinstance(source, int):
            self.descriptors.add(source)

    def unregister(self, descriptor: int) -> None:
        self.descriptors.remove(descriptor)

    def wait(self, timeout_s: float | None) -> set[int]:
        assert timeout_s is None or timeout_s >= 0
        try:
            next(self.story)
        except StopIteration:
            raise StoryOver from None
        return set(select.select(list(self.descriptors), [], [], 0)[0])

    def close(self) -> None:
        self.descriptors.clear()


class Channel:
    """In place of the control socket."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.inbox: deque[tuple[bytes, bytes]] = deque()
        self.sent: list[tuple[str, object]] = []

    def receive(self) -> tuple[bytes, bytes] | None:
        return self.inbox.popleft() if self.inbox else None

    def send(self, identity: bytes, payload: bytes) -> None:
        self.sent.append((identity.decode(), decode_to_child(payload)))

    def close(self) -> None:
        pass


class Scene:
    """A manager, and everybody whom it talks to."""

    def __init__(self, root: Path, kernel: ObedientKernel, patch: pytest.MonkeyPatch) -> None:
        self.root, self.kernel, self.patch = root, kernel, patch
        self.turns = Turns()
        self.config_path = root / "config.json"
        self.wakeup_fd = -1
        self.handle = 0
        patch.setattr(assembly, "Poller", lambda: self.turns)
        patch.setattr(assembly, "ReapingThread", lambda _: InlineReaper())
        patch.setattr(assembly, "Router", self.open_channel)
        patch.setattr(assembly, "read_machine", lambda: MACHINE)
        patch.setattr(assembly, "ctypes", self)
        patch.setattr(signal, "signal", lambda *_: None)
        patch.setattr(signal, "set_wakeup_fd", self.set_wakeup_fd)
        patch.setattr(os, "waitpid", self.waitpid)
        patch.setattr(tempfile, "tempdir", str(root))

    def CDLL(self, _name: None) -> Scene:
        """This process must not become a subreaper."""
        return self

    def prctl(self, *_: int) -> int:
        return 0

    def open_channel(self, endpoint: str) -> Channel:
        self.channel = Channel(endpoint)
        return self.channel

    def set_wakeup_fd(self, descriptor: int, **_: bool) -> None:
        self.wakeup_fd = descriptor

    def waitpid(self, _pid: int, _options: int) -> tuple[int, int]:
        raise ChildProcessError

    # What the test does.

    def configure(self, **models: dict[str, object]) -> None:
        """Write the configuration file: settings by model name."""
        entries = [
            {"config": {"name": name, "base_path": str(self.root / name), **settings}}
            for name, settings in models.items()
        ]
        self.config_path.write_text(json.dumps({"model_config_list": entries}))

    def put(self, *versions: int, name: str = "m") -> None:
        for version in versions:
            directory = self.root / name / str(version)
            directory.mkdir(parents=True)
            (directory / "model.onnx").write_bytes(b"")

    def run(self, story: Callable[[Scene], Iterator[None]], *, poll_wait_s: float = 1.0) -> int | None:
        """Tell a story; the manager's exit code, None when it goes on after the story."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
        models, _ = parse_config_file(self.config_path, is_strict=False)
        config = ServerConfig(
            models=models,
            config_path=self.config_path,
            grpc=GrpcConfig(port=port, bind_address="127.0.0.1"),
            rest=RestConfig(port=0),
            limits=LimitsConfig(arena_size_mb=1),
            repository=RepositoryConfig(poll_wait_s=poll_wait_s, settle_s=0.0),
        )
        self.turns.story = story(self)
        with opened_manager(config, "run", self.kernel, ServiceManager(""), ()) as manager:
            try:
                return manager.run()
            except StoryOver:
                return None

    def pass_time(self, seconds: float) -> None:
        self.kernel.now += seconds

    def say(self, child_id: str, *messages: ToManager) -> None:
        for message in messages:
            self.channel.inbox.append((child_id.encode(), encode(message)))

    def signal(self, number: int) -> None:
        os.write(self.wakeup_fd, bytes([number]))

    def living(self, module: str = "") -> list[Process]:
        return [
            process
            for process in self.kernel.processes
            if process.status is None and (not module or process.command[3] == module)
        ]

    def id_of(self, process: Process) -> str:
        return str(json.loads(process.command[-1])["child_id"])

    def probes(self) -> list[tuple[str, ProbeSpec]]:
        return [
            (self.id_of(process), spec_from_argument(process.command[-1], ProbeSpec))
            for process in self.living("ovms_mp.worker.probe")
        ]

    def take(self, kind: type[MessageT]) -> list[tuple[str, MessageT]]:
        """Messages of a kind that were sent since the last time; all others are left."""
        taken = [(child_id, message) for child_id, message in self.channel.sent if isinstance(message, kind)]
        self.channel.sent = [entry for entry in self.channel.sent if not isinstance(entry[1], kind)]
        return taken

    def arrive(self, kind: str, module: str) -> Generator[None, None, list[str]]:
        """Children of a module that have not said hello do so, and are ready."""
        ids = [self.id_of(process) for process in self.living(module)]
        for child_id in ids:
            self.say(child_id, Hello(child_id, kind, 1), Ready())
        yield
        return ids

    def end_probe(self, error: ErrorRecord | None = None) -> Generator[None, None, ProbeSpec]:
        """The one probe says its word and ends."""
        ((child_id, spec),) = self.probes()
        self.say(child_id, Hello(child_id, "probe", 1), ProbeDone(spec.handle, error, "compiled"))
        yield
        for process in self.living("ovms_mp.worker.probe"):
            if self.id_of(process) == child_id:
                process.end(0)
        yield
        return spec

    def load(self) -> Generator[None, None, LoadModel]:
        """The one load that was asked for goes well."""
        ((worker, message),) = self.take(LoadModel)
        self.say(worker, loaded(message.handle))
        yield
        return message

    def ask(self, request_id: int, change: AnyChange | None = None, within_s: float = 100.0) -> None:
        """A client of the front wants something changed."""
        deadline_ns = self.kernel.monotonic_ns() + int(within_s * 1e9)
        self.say("grpc-0.1", ChangeState(request_id, deadline_ns, change or ReloadConfig()))

    def apply(self) -> Generator[None, None, RoutingSnapshot]:
        """The front applies the last snapshot."""
        child_id, snapshot = self.take(RoutingSnapshot)[-1]
        self.say(child_id, SnapshotApplied(snapshot.epoch))
        yield
        return snapshot

    def catch_up(self) -> Generator[None, None, None]:
        """The front applies whatever it has been sent, until nothing new comes."""
        while snapshots := self.take(RoutingSnapshot):
            self.say(snapshots[-1][0], SnapshotApplied(snapshots[-1][1].epoch))
            yield

    def boot(self) -> Generator[None, None, int]:
        """One model with one version is served by one front; the deployment's handle."""
        yield
        yield from self.arrive("worker", "ovms_mp.worker")
        message = yield from self.load()
        yield from self.arrive("grpc", "ovms_mp.front.grpc")
        yield from self.apply()
        yield from self.catch_up()
        return message.handle


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    # The first of them in a process starts one to find the C library.
    RepositoryWatch().close()
    kernel = ObedientKernel()
    kernel.install(monkeypatch)
    made = Scene(tmp_path, kernel, monkeypatch)
    made.put(1)
    made.configure(m={})
    yield made
    kernel.close()


def versions(snapshot: RoutingSnapshot, name: str = "m") -> dict[int, tuple[int, int]]:
    """State and handle of each version."""
    return {
        version.version: (version.state, version.handle)
        for model in snapshot.models
        if model.name == name
        for version in model.versions
    }


# The start and the stop.


def test_it_starts_workers_then_loads_then_starts_fronts(scene: Scene) -> None:
    def story(scene: Scene) -> Iterator[None]:
        yield
        assert [scene.id_of(process) for process in scene.living("ovms_mp.worker")] == ["worker-0.1"]
        yield from scene.arrive("worker", "ovms_mp.worker")
        # Its only version is tried by the worker itself, which serves nothing that it could harm.
        assert scene.probes() == []
        assert scene.living("ovms_mp.front.grpc") == []
        message = yield from scene.load()
        yield from scene.arrive("grpc", "ovms_mp.front.grpc")
        ((front, snapshot), *_) = scene.take(RoutingSnapshot)
        assert front == "grpc-0.1"
        assert versions(snapshot) == {1: (State.AVAILABLE, message.handle)}
        assert [worker.name for worker in snapshot.workers] == ["worker-0"]
        assert snapshot.plan[0].startswith("machine: 2 cores")

    assert scene.run(story) is None
    assert scene.living() == []


def test_of_several_versions_each_is_tried_before_it_is_loaded(scene: Scene) -> None:
    scene.put(1, name="n")
    scene.configure(m={}, n={})

    def story(scene: Scene) -> Iterator[None]:
        yield
        assert len(scene.probes()) == 1
        yield from scene.arrive("worker", "ovms_mp.worker")
        for _ in range(2):
            assert scene.take(LoadModel) == []
            assert scene.living("ovms_mp.front.grpc") == []
            yield from scene.end_probe()
            yield from scene.load()
        assert scene.living("ovms_mp.worker.probe") == []
        assert len(scene.living("ovms_mp.front.grpc")) == 1

    assert scene.run(story) is None
    assert scene.living() == []


def test_a_model_that_does_not_load_does_not_keep_the_fronts(scene: Scene) -> None:
    def story(scene: Scene) -> Iterator[None]:
        yield
        yield from scene.arrive("worker", "ovms_mp.worker")
        ((worker, message),) = scene.take(LoadModel)
        scene.say(worker, load_failed(message.handle))
        yield
        assert len(scene.living("ovms_mp.front.grpc")) == 1

    assert scene.run(story) is None


def test_it_stops_fronts_then_workers_then_itself(scene: Scene) -> None:
    def story(scene: Scene) -> Iterator[None]:
        yield from scene.boot()
        scene.signal(signal.SIGTERM)
        yield
        ((child_id, snapshot),) = scene.take(RoutingSnapshot)[-1:]
        assert (child_id, snapshot.is_draining) == ("grpc-0.1", True)
        assert scene.take(Drain) == []
        scene.pass_time(0.3)
        yield
        assert [child_id for child_id, _ in scene.take(Drain)] == ["grpc-0.1"]
        yield
        scene.living("ovms_mp.front.grpc")[0].end(0)
        yield
        assert [child_id for child_id, _ in scene.take(Drain)] == ["worker-0.1"]
        scene.living("ovms_mp.worker")[0].end(0)
        yield
        pytest.fail("it is still there")

    assert scene.run(story) == ExitCode.CLEAN


def test_a_stop_begins_no_further_trials(scene: Scene) -> None:
    # With two cores one trial runs at a time; the others wait for it.
    scene.put(1, name="b")
    scene.put(1, name="c")
    scene.configure(m={}, b={}, c={})

    def story(scene: Scene) -> Iterator[None]:
        yield
        yield from scene.arrive("worker", "ovms_mp.worker")
        assert len(scene.probes()) == 1
        scene.signal(signal.SIGTERM)
        for _ in range(4):
            yield
        assert scene.probes() == []
        for process in scene.living("ovms_mp.worker"):
            process.end(0)
        yield
        yield
        pytest.fail("it is still there")

    assert scene.run(story) == ExitCode.CLEAN
    assert len([process for process in scene.kernel.processes if "probe" in process.command[3]]) == 1


# Versions.


def test_a_switch_unloads_the_old_version_after_the_front_routes_to_the_new_one(scene: Scene) -> None:
    def story(scene: Scene) -> Iterator[None]:
        first = yield from scene.boot()
        scene.put(2)
        scene.pass_time(1.1)
        yield
        yield from scene.end_probe()
        yield from scene.load()
        yield
        _, snapshot = scene.take(RoutingSnapshot)[-1]
        states = {number: state for number, (state, _) in versions(snapshot).items()}
        assert states == {1: State.UNLOADING, 2: State.AVAILABLE}
        assert scene.take(UnloadModel) == []
        scene.say("grpc-0.1", SnapshotApplied(snapshot.epoch))
        yield
        assert scene.take(UnloadModel) == [("worker-0.1", UnloadModel(first))]
        scene.say("worker-0.1", unloaded(first))
        yield
        _, snapshot = scene.take(RoutingSnapshot)[-1]
        assert versions(snapshot)[1][0] == State.END

    scene.run(story)


def test_a_replaced_deployment_is_unloaded_after_the_front_routes_to_the_new_one(scene: Scene) -> None:
    def story(scene: Scene) -> Iterator[None]:
        first = yield from scene.boot()
        scene.configure(m={"nireq": 5})
        scene.pass_time(1.1)
        yield
        yield from scene.end_probe()
        # The front has applied everything that was published so far.
        yield from scene.apply()
        ((_, message),) = scene.take(LoadModel)
        scene.say("worker-0.1", loaded(message.handle))
        yield
        yield
        _, snapshot = scene.take(RoutingSnapshot)[-1]
        assert versions(snapshot) == {1: (State.AVAILABLE, message.handle)}
        assert scene.take(UnloadModel) == [], "the front still routes to it"
        scene.say("grpc-0.1", SnapshotApplied(snapshot.epoch))
        yield
        assert scene.take(UnloadModel) == [("worker-0.1", UnloadModel(first))]

    scene.run(story)


# Reloads.


def answers(scene: Scene) -> list[StateChanged]:
    return [message for _, message in scene.take(StateChanged)]


def test_a_reload_that_finds_nothing_is_answered_at_once(scene: Scene) -> None:
    def story(scene: Scene) -> Iterator[None]:
        yield from scene.boot()
        scene.ask(7)
        yield
        assert scene.take(StateChanged) == [("grpc-0.1", StateChanged(7, is_changed=False, error=None))]

    scene.run(story)


@pytest.mark.parametrize("poll_wait_s", [1.0, 0.0])
def test_a_reload_is_answered_when_what_it_began_has_ended(scene: Scene, poll_wait_s: float) -> None:
    def story(scene: Scene) -> Iterator[None]:
        first = yield from scene.boot()
        scene.put(2)
        scene.ask(7)
        yield
        yield from scene.end_probe()
        message = yield from scene.load()
        yield
        yield from scene.apply()
        assert answers(scene) == []
        scene.say("worker-0.1", unloaded(first))
        yield
        _, snapshot = scene.take(RoutingSnapshot)[-1]
        assert versions(snapshot)[2] == (State.AVAILABLE, message.handle)
        assert answers(scene) == [], "the front does not know it yet"
        scene.say("grpc-0.1", SnapshotApplied(snapshot.epoch))
        yield
        assert answers(scene) == [StateChanged(7, is_changed=True, error=None)]

    scene.run(story, poll_wait_s=poll_wait_s)


def test_a_reload_does_not_wait_for_what_begins_after_its_look(scene: Scene) -> None:
    """Else clients that load and unload other models all the time would hold it up for good."""
    scene.put(1, name="n")
    scene.configure(m={}, n={})

    def story(scene: Scene) -> Iterator[None]:
        yield
        yield from scene.arrive("worker", "ovms_mp.worker")
        handles = {}
        for _ in range(2):
            spec = yield from scene.end_probe()
            message = yield from scene.load()
            handles[spec.name] = message.handle
        yield from scene.arrive("grpc", "ovms_mp.front.grpc")
        yield from scene.catch_up()
        scene.put(2)
        scene.ask(7)
        yield
        scene.ask(8, UnloadNamed("n"))
        yield
        yield from scene.end_probe()
        yield from scene.load()
        yield from scene.catch_up()
        orders = [order for _, order in scene.take(UnloadModel)]
        assert {order.handle for order in orders} == set(handles.values())
        scene.say("worker-0.1", unloaded(handles["m"]))
        yield
        yield from scene.catch_up()
        assert answers(scene) == [StateChanged(7, is_changed=True, error=None)]

    scene.run(story)


def test_a_reload_whose_version_does_not_load_says_why(scene: Scene) -> None:
    def story(scene: Scene) -> Iterator[None]:
        yield from scene.boot()
        scene.put(2)
        scene.ask(7)
        yield
        yield from scene.end_probe(ErrorRecord("ModelLoadFailed", "no model"))
        yield from scene.catch_up()
        (answer,) = answers(scene)
        assert answer.error == ErrorRecord("ModelLoadFailed", "model=m version=2: no model")
        scene.ask(8)
        yield
        # It is tried again at once, as a client asks.
        yield from scene.end_probe()
        assert answers(scene) == []

    scene.run(story)


def test_a_reload_of_a_bad_file_says_what_is_wrong_and_changes_nothing(scene: Scene) -> None:
    def story(scene: Scene) -> Iterator[None]:
        yield from scene.boot()
        scene.config_path.write_text("{")
        scene.ask(7)
        yield
        assert answers(scene) == []
        for _ in range(5):
            scene.pass_time(0.11)
            yield
        yield from scene.catch_up()
        (answer,) = answers(scene)
        assert answer.error is not None
        assert "JSON" in answer.error.message
        assert not answer.is_changed
        assert scene.probes() == []

    scene.run(story, poll_wait_s=0.0)


def test_hangup_is_a_reload(scene: Scene) -> None:
    def story(scene: Scene) -> Iterator[None]:
        yield from scene.boot()
        scene.put(2)
        scene.pass_time(5)
        yield
        assert scene.probes() == [], "nobody asked, and nobody watches"
        scene.signal(signal.SIGHUP)
        yield
        assert [spec.version for _, spec in scene.probes()] == [2]

    scene.run(story, poll_wait_s=0.0)


def outcomes(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log said since the last call of what came of SIGHUP."""
    found = [text for text in caplog.messages if text.startswith("event=reloaded reason=SIGHUP ")]
    caplog.clear()
    return found


def test_hangup_tells_its_outcome(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")

    def story(scene: Scene) -> Iterator[None]:
        yield from scene.boot()
        scene.signal(signal.SIGHUP)
        yield
        assert outcomes(caplog) == ["event=reloaded reason=SIGHUP nothing changed"]
        scene.put(2)
        scene.pass_time(5)
        scene.signal(signal.SIGHUP)
        yield
        assert outcomes(caplog) == [], "not before it is settled"
        yield from scene.end_probe()
        yield from scene.load()
        scene.say("grpc-0.1", SnapshotApplied(99))
        yield
        handles = [message.handle for _, message in scene.take(UnloadModel)]
        for handle in handles:
            scene.say("worker-0.1", unloaded(handle))
        yield
        yield from scene.catch_up()
        assert outcomes(caplog) == ["event=reloaded reason=SIGHUP something changed"]
        scene.config_path.write_text("{")
        scene.signal(signal.SIGHUP)
        yield
        for _ in range(5):
            scene.pass_time(0.11)
            yield
        yield from scene.catch_up()
        (text,) = outcomes(caplog)
        assert text.startswith("event=reloaded reason=SIGHUP nothing changed; ")
        assert "JSON" in text

    scene.run(story, poll_wait_s=0.0)


def boot_without_npu(scene: Scene) -> Iterator[None]:
    """A reload brings a model for a device whose worker cannot be started."""
    yield from scene.boot()
    scene.put(1, name="b")
    scene.configure(m={}, b={"target_device": "NPU"})
    scene.ask(7)
    yield
    (process,) = [entry for entry in scene.living("ovms_mp.worker") if scene.id_of(entry) == "worker-1.1"]
    process.end(3)
    yield
    yield


def test_a_reload_that_brings_a_device_without_worker_fails_that_model_alone(scene: Scene) -> None:
    def story(scene: Scene) -> Iterator[None]:
        yield from boot_without_npu(scene)
        _, snapshot = scene.take(RoutingSnapshot)[-1]
        assert versions(snapshot)[1][0] == State.AVAILABLE
        scene.say("grpc-0.1", SnapshotApplied(snapshot.epoch))
        yield
        (answer,) = answers(scene)
        assert answer.error is not None
        assert answer.error.name == "DeviceUnavailable"

    assert scene.run(story) is None


@pytest.mark.parametrize("poll_wait_s", [1.0, 0.0])
def test_a_device_that_has_come_to_life_serves_after_the_back_off(scene: Scene, poll_wait_s: float) -> None:
    def story(scene: Scene) -> Iterator[None]:
        yield from boot_without_npu(scene)
        scene.take(StateChanged)
        for _ in range(5):
            scene.pass_time(15)
            yield
        # A worker for it is under way again, which is all that it needs to serve.
        assert scene.probes() == []
        for _ in range(3):
            scene.pass_time(1.1)
            yield
        ids = [scene.id_of(entry) for entry in scene.living("ovms_mp.worker")]
        assert len(ids) == 2
        scene.say(ids[-1], Hello(ids[-1], "worker", 1), Ready())
        yield
        assert [worker for worker, _ in scene.take(LoadModel)] == [ids[-1]]

    assert scene.run(story, poll_wait_s=poll_wait_s) is None


# Workers.


def test_a_dead_worker_is_missing_from_the_next_snapshot_and_its_successor_loads(scene: Scene) -> None:
    def story(scene: Scene) -> Iterator[None]:
        handle = yield from scene.boot()
        scene.take(RoutingSnapshot)
        scene.pass_time(2)
        scene.living("ovms_mp.worker")[0].end(-11)
        yield
        _, snapshot = scene.take(RoutingSnapshot)[-1]
        assert snapshot.workers == ()
        assert versions(snapshot)[1][0] == State.LOADING
        scene.say("worker-0.2", Hello("worker-0.2", "worker", 1), Ready())
        yield
        message = yield from scene.load()
        assert message.handle == handle
        _, snapshot = scene.take(RoutingSnapshot)[-1]
        assert versions(snapshot)[1] == (State.AVAILABLE, handle)

    assert scene.run(story) is None


def test_messages_that_are_none_and_those_of_strangers_are_passed_over(scene: Scene) -> None:
    def story(scene: Scene) -> Iterator[None]:
        yield from scene.boot()
        scene.channel.inbox.append((b"grpc-0.1", b"\xc1"))
        scene.channel.inbox.append((b"\xff\xfe", encode(Ready())))
        scene.say("nobody", SnapshotApplied(1), ProbeDone(1, None, ""), ChangeState(1, 1, ReloadConfig()))
        scene.say("grpc-0.1", ProbeDone(1, None, ""), Ready())
        yield
        assert answers(scene) == []
        assert len(scene.living()) == 2

    assert scene.run(story) is None


# Loads and unloads by clients.


def unload(scene: Scene, handle: int, request_id: int = 5) -> Generator[None, None, None]:
    """A client has the model unloaded, and everybody does what that takes."""
    scene.ask(request_id, UnloadNamed("m"))
    yield
    yield from scene.catch_up()
    assert answers(scene) == [], "the worker still has it"
    assert scene.take(UnloadModel) == [("worker-0.1", UnloadModel(handle))]
    scene.say("worker-0.1", unloaded(handle))
    yield
    assert answers(scene) == [], "the front has not heard of its end"
    yield from scene.catch_up()
    assert answers(scene) == [StateChanged(request_id, is_changed=True, error=None)]


def test_an_unloaded_model_stays_so_until_it_is_loaded(scene: Scene) -> None:
    def story(scene: Scene) -> Iterator[None]:
        handle = yield from scene.boot()
        yield from unload(scene, handle)
        scene.put(2)
        scene.configure(m={"nireq": 3})
        for _ in range(3):
            scene.pass_time(1.1)
            yield
        scene.ask(6)
        yield
        yield from scene.catch_up()
        ((_, answer),) = scene.take(StateChanged)
        assert answer.error is None
        assert scene.probes() == [], "neither new files, nor its entry, nor a reload brings it back"
        scene.ask(7, UnloadNamed("m"))
        yield
        yield from scene.catch_up()
        ((_, answer),) = scene.take(StateChanged)
        assert (answer.request_id, answer.error) == (7, None)
        scene.ask(8, LoadNamed("m"))
        yield
        yield from scene.end_probe()
        ((_, message),) = scene.take(LoadModel)
        assert (message.version, message.settings.nireq) == (2, 3)
        assert answers(scene) == []
        scene.say("worker-0.1", loaded(message.handle))
        yield
        _, snapshot = scene.take(RoutingSnapshot)[-1]
        assert versions(snapshot)[2] == (State.AVAILABLE, message.handle)
        assert answers(scene) == []
        scene.say("grpc-0.1", SnapshotApplied(snapshot.epoch))
        yield
        assert answers(scene) == [StateChanged(8, is_changed=True, error=None)]

    scene.run(story)


def test_snapshots_say_what_was_unloaded_by_a_client(scene: Scene) -> None:
    def story(scene: Scene) -> Iterator[None]:
        yield from scene.boot()
        scene.ask(5, UnloadNamed("m"))
        yield
        _, snapshot = scene.take(RoutingSnapshot)[-1]
        assert [(model.name, model.is_unloaded) for model in snapshot.models] == [("m", True)]
        assert versions(snapshot)[1][0] == State.UNLOADING

    scene.run(story)


def test_a_model_that_left_the_configuration_and_comes_back_is_served(scene: Scene) -> None:
    def story(scene: Scene) -> Iterator[None]:
        handle = yield from scene.boot()
        yield from unload(scene, handle)
        scene.configure(other={})
        scene.pass_time(1.1)
        yield
        scene.configure(m={}, other={})
        scene.pass_time(1.1)
        yield
        assert [spec.version for _, spec in scene.probes()] == [1]

    scene.run(story)


@pytest.mark.parametrize("poll_wait_s", [1.0, 0.0])
def test_a_load_looks_at_that_model_alone(scene: Scene, poll_wait_s: float) -> None:
    scene.put(1, name="n")
    scene.configure(m={}, n={})

    def story(scene: Scene) -> Iterator[None]:
        yield
        yield from scene.arrive("worker", "ovms_mp.worker")
        for _ in range(2):
            yield from scene.end_probe()
            yield from scene.load()
        yield from scene.arrive("grpc", "ovms_mp.front.grpc")
        yield from scene.catch_up()
        (scene.root / "m/1/model.onnx").write_bytes(b"changed in place")
        (scene.root / "n/1/model.onnx").write_bytes(b"changed in place")
        scene.ask(7, LoadNamed("n"))
        yield
        assert [spec.name for _, spec in scene.probes()] == ["n"]
        yield from scene.end_probe()
        _, message = scene.take(LoadModel)[-1]
        scene.say("worker-0.1", loaded(message.handle))
        yield
        yield from scene.catch_up()
        for _, order in scene.take(UnloadModel):
            scene.say("worker-0.1", unloaded(order.handle))
        yield
        yield from scene.catch_up()
        assert answers(scene) == [StateChanged(7, is_changed=True, error=None)]

    scene.run(story, poll_wait_s=poll_wait_s)


def test_a_load_that_fails_says_why_and_what_serves(scene: Scene) -> None:
    def story(scene: Scene) -> Iterator[None]:
        yield from scene.boot()
        scene.put(2)
        scene.ask(7, LoadNamed("m"))
        yield
        yield from scene.end_probe(ErrorRecord("ModelLoadFailed", "no model"))
        yield from scene.catch_up()
        (answer,) = answers(scene)
        assert answer.error == ErrorRecord(
            "ModelLoadFailed", "failed to load 'm', version 2: no model; versions that are served: 1"
        )

    scene.run(story)


def test_a_model_without_versions_is_not_loaded(scene: Scene) -> None:
    scene.configure(m={}, empty={})

    def story(scene: Scene) -> Iterator[None]:
        yield from scene.boot()
        scene.ask(7, LoadNamed("empty"))
        yield
        yield from scene.catch_up()
        (answer,) = answers(scene)
        assert answer.error is not None
        assert answer.error.message.startswith("failed to load 'empty', no version is available")

    scene.run(story)


@pytest.mark.parametrize(
    ("change", "verb"), [(LoadNamed("nobody"), "load"), (UnloadNamed("nobody"), "unload")]
)
def test_a_model_that_is_not_configured(scene: Scene, change: AnyChange, verb: str) -> None:
    def story(scene: Scene) -> Iterator[None]:
        yield from scene.boot()
        scene.ask(7, change)
        yield
        error = ErrorRecord("ModelNotFound", f"failed to {verb} 'nobody', model is not configured")
        assert answers(scene) == [StateChanged(7, is_changed=False, error=error)]

    scene.run(story)


def test_a_front_that_dies_does_not_hold_up_the_answer(scene: Scene) -> None:
    """It is told to a front that lives; here the one that asked comes as a successor, and hears nothing."""

    def story(scene: Scene) -> Iterator[None]:
        yield from scene.boot()
        scene.ask(7, RegisterRegion(RegionRecord("r", "/k", 0, 64, 1, 2)))
        yield
        assert answers(scene) == []
        _, snapshot = scene.take(RoutingSnapshot)[-1]
        assert [region.name for region in snapshot.regions] == ["r"]
        scene.living("ovms_mp.front.grpc")[0].end(-9)
        yield
        yield
        assert answers(scene) == []
        # The successor has the state with its first snapshot.
        scene.pass_time(5)
        yield
        yield from scene.arrive("grpc", "ovms_mp.front.grpc")
        _, snapshot = scene.take(RoutingSnapshot)[0]
        assert [region.name for region in snapshot.regions] == ["r"]

    scene.run(story)
