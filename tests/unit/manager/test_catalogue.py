# SPDX-License-Identifier: Apache-2.0
"""The catalogue over real directories, with the test as its workers and its fronts."""

from __future__ import annotations

import logging
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovms_mp.config import LimitsConfig, ModelConfig
from ovms_mp.manager import catalogue as catalogue_module
from ovms_mp.manager.catalogue import Catalogue
from ovms_mp.model.status import State
from ovms_mp.model.versions import All, Latest, VersionPolicy, desired_versions
from ovms_mp.wire.messages import (
    ErrorRecord,
    LoadModel,
    ModelStateChanged,
    TensorSpecRecord,
    UnloadModel,
    VersionRecord,
)

INPUTS = (TensorSpecRecord("x", "FP32", ((1, 1), (10, 10))),)
OUTPUTS = (TensorSpecRecord("y", "FP32", ((1, 1), (10, 10))),)


class Clock:
    """Stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@dataclass
class Workers:
    """The workers' side of the protocol, which holds the manager to its rules.

    Like the real gate it drops what is sent to a device without a worker. A worker that is told to unload
    what it never loaded, or twice to load under one handle, fails the test.
    """

    endpoints: dict[str, str] = field(default_factory=lambda: {"CPU": "ipc://@cpu-1"})
    sent: list[tuple[str, LoadModel | UnloadModel]] = field(default_factory=list)
    handles: set[int] = field(default_factory=set)
    loaded: dict[int, tuple[str, LoadModel]] = field(default_factory=dict)

    def endpoint(self, device: str) -> str:
        return self.endpoints.get(device, "")

    def send(self, device: str, message: LoadModel | UnloadModel) -> None:
        if not self.endpoint(device):
            return
        if isinstance(message, LoadModel):
            assert message.handle not in self.handles, "a handle was used before"
            assert message.handle > 0
            self.handles.add(message.handle)
            self.loaded[message.handle] = (device, message)
        else:
            assert self.loaded[message.handle][0] == device, "unloaded where it is not"
        self.sent.append((device, message))

    def take(self) -> list[LoadModel | UnloadModel]:
        """What was sent since the last call."""
        messages = [message for _, message in self.sent]
        self.sent.clear()
        return messages

    def answer(
        self, handle: int, state: State = State.AVAILABLE, error: ErrorRecord | None = None
    ) -> ModelStateChanged:
        """The answer to a load or an unload."""
        if state is not State.AVAILABLE:
            self.loaded.pop(handle, None)
            return ModelStateChanged(handle, state, error, (), (), 0, "")
        return ModelStateChanged(handle, state, None, INPUTS, OUTPUTS, 2, "nireq=2")

    def lose(self, device: str) -> None:
        """The worker's process has ended."""
        del self.endpoints[device]
        self.loaded = {handle: entry for handle, entry in self.loaded.items() if entry[0] != device}


def put(base: Path, *versions: int) -> None:
    """Complete versions."""
    for version in versions:
        (base / str(version)).mkdir(parents=True)
        (base / str(version) / "model.onnx").write_bytes(b"")


def remove(base: Path, version: int) -> None:
    shutil.rmtree(base / str(version))


class World:
    """A catalogue with its surroundings, and the manager's loop in small."""

    def __init__(self, *models: ModelConfig, workers: Workers | None = None) -> None:
        self.workers = workers or Workers()
        self.catalogue = Catalogue(models, LimitsConfig(max_queue_tasks=7, max_queue_mb=3), self.workers)
        self.epoch = 0

    def turn(self, *, fronts_apply: bool = True) -> float | None:
        """Plan, publish, and let the fronts apply what was published."""
        moment = self.catalogue.rescan(self.epoch)
        if self.catalogue.is_changed:
            self.catalogue.is_changed = False
            self.epoch += 1
        if fronts_apply:
            self.catalogue.fronts_applied(self.epoch)
        return moment

    def load(self) -> LoadModel:
        """The one load that was asked for since the last look."""
        (message,) = self.workers.take()
        assert isinstance(message, LoadModel)
        return message

    def serve(self) -> LoadModel:
        """Plan, and let the one load succeed."""
        self.turn()
        message = self.load()
        self.catalogue.state_changed(self.workers.answer(message.handle))
        return message

    def fail(self, handle: int, text: str = "no such file", name: str = "ModelLoadFailed") -> None:
        self.catalogue.state_changed(self.workers.answer(handle, State.LOADING, ErrorRecord(name, text)))

    def versions(self, name: str = "m") -> dict[int, VersionRecord]:
        (record,) = [record for record in self.catalogue.records() if record.name == name]
        return {version.version: version for version in record.versions}

    def states(self, name: str = "m") -> dict[int, State]:
        return {number: State(version.state) for number, version in self.versions(name).items()}

    def default(self, name: str = "m") -> int:
        (record,) = [record for record in self.catalogue.records() if record.name == name]
        return record.default_version


def model(
    base: Path, policy: VersionPolicy | None = None, name: str = "m", device: str = "CPU"
) -> ModelConfig:
    return ModelConfig(
        name=name,
        base_path=base,
        nireq=3,
        target_device=device,
        plugin_config={"A": 1},
        version_policy=policy or Latest(1),
    )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(catalogue_module, "time", made)
    return made


# The first load.


def test_a_version_is_loaded_with_what_its_worker_needs(tmp_path: Path) -> None:
    put(tmp_path, 1, 4)
    world = World(model(tmp_path))
    world.turn()
    message = world.load()

    assert (message.name, message.version) == ("m", 4)
    assert message.model_file == str(tmp_path / "4" / "model.onnx")
    settings = message.settings
    assert (settings.device, settings.nireq, settings.plugin_config) == ("CPU", 3, {"A": 1})
    assert (settings.max_queue_tasks, settings.max_queue_bytes) == (7, 3 << 20)
    assert world.catalogue.is_loading(message.handle)
    assert not world.catalogue.is_settled()
    assert world.states() == {4: State.LOADING}
    assert world.versions()[4].endpoint == ""
    assert world.default() == 4


def test_available_is_published_with_its_route_and_specs(tmp_path: Path) -> None:
    put(tmp_path, 1)
    world = World(model(tmp_path))
    message = world.serve()

    assert world.catalogue.is_changed
    assert world.catalogue.is_settled()
    assert not world.catalogue.is_loading(message.handle)
    assert world.versions()[1] == VersionRecord(
        version=1,
        state=30,
        error_code=0,
        error_message="",
        handle=message.handle,
        endpoint="ipc://@cpu-1",
        nireq=2,
        inputs=INPUTS,
        outputs=OUTPUTS,
    )


def test_nothing_changes_while_nothing_happens(tmp_path: Path) -> None:
    put(tmp_path, 1)
    world = World(model(tmp_path))
    world.serve()
    world.turn()
    for _ in range(3):
        assert world.turn() is None

    assert world.workers.take() == []
    assert world.epoch == 2


def test_without_a_worker_the_load_waits_for_it(tmp_path: Path) -> None:
    put(tmp_path, 1)
    world = World(model(tmp_path), workers=Workers(endpoints={}))
    world.turn()
    assert world.workers.take() == []
    assert world.states() == {1: State.LOADING}
    world.workers.endpoints["CPU"] = "ipc://@late"
    world.catalogue.worker_ready("CPU")

    assert world.load().version == 1


def test_names_are_those_of_the_configuration_in_its_order(tmp_path: Path) -> None:
    catalogue = World(
        model(tmp_path, name="b", device="GPU"),
        model(tmp_path, name="a"),
        model(tmp_path, name="c", device="GPU"),
    ).catalogue

    assert catalogue.names == ["b", "a", "c"]


# Versions come and go.


def test_the_old_version_is_unloaded_only_when_all_fronts_route_to_the_new_one(tmp_path: Path) -> None:
    put(tmp_path, 1)
    world = World(model(tmp_path))
    first = world.serve()
    world.turn()
    put(tmp_path, 2)
    world.turn()
    second = world.load()
    assert second.version == 2
    assert world.states() == {1: State.AVAILABLE, 2: State.LOADING}
    assert world.default() == 1

    world.catalogue.state_changed(world.workers.answer(second.handle))
    assert world.states() == {1: State.AVAILABLE, 2: State.AVAILABLE}
    assert world.default() == 2
    published = world.epoch
    world.turn(fronts_apply=False)
    assert world.states() == {1: State.UNLOADING, 2: State.AVAILABLE}
    assert world.versions()[1].endpoint == ""
    world.catalogue.fronts_applied(published)
    assert world.workers.take() == []
    world.catalogue.fronts_applied(world.epoch)
    world.catalogue.fronts_applied(world.epoch)
    assert world.workers.take() == [UnloadModel(first.handle)]

    world.catalogue.state_changed(world.workers.answer(first.handle, State.END))
    world.turn()
    assert world.states() == {1: State.END, 2: State.AVAILABLE}
    assert world.workers.take() == []


def test_a_version_that_has_gone_from_disk_is_unloaded_and_stays_listed(tmp_path: Path) -> None:
    put(tmp_path, 1, 2)
    world = World(model(tmp_path, All()))
    world.turn()
    loads = world.workers.take()
    assert [message.version for message in loads if isinstance(message, LoadModel)] == [1, 2]
    for message in loads:
        world.catalogue.state_changed(world.workers.answer(message.handle))
    assert world.default() == 2
    remove(tmp_path, 2)
    world.turn()
    assert world.default() == 1
    assert world.workers.take() == [UnloadModel(loads[1].handle)]
    world.catalogue.state_changed(world.workers.answer(loads[1].handle, State.END))

    assert world.states() == {1: State.AVAILABLE, 2: State.END}
    assert world.versions()[2].endpoint == ""


def test_a_directory_that_comes_back_is_loaded_again(tmp_path: Path) -> None:
    put(tmp_path, 1)
    world = World(model(tmp_path))
    first = world.serve()
    remove(tmp_path, 1)
    world.turn()
    world.catalogue.state_changed(world.workers.answer(first.handle, State.END))
    assert world.default() == 0
    assert world.workers.take() == [UnloadModel(first.handle)]
    put(tmp_path, 1)
    again = world.serve()

    assert again.handle != first.handle
    assert world.states() == {1: State.AVAILABLE}


def test_a_base_path_that_appears_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = tmp_path / "later"
    world = World(model(base))
    with caplog.at_level(logging.WARNING):
        world.turn()
        world.turn()
    assert [record.message for record in caplog.records] == [
        f"event=repository model=m base_path={base} does not exist; waiting for it"
    ]
    assert world.catalogue.is_settled()
    assert world.versions() == {}
    assert world.default() == 0
    put(base, 1)

    assert world.serve().version == 1


def test_an_oddity_is_told_once_until_it_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "01").mkdir()
    world = World(model(tmp_path))
    with caplog.at_level(logging.WARNING):
        world.turn()
        world.turn()
        assert len(caplog.records) == 2
        assert "01 is no version" in caplog.text
        assert "holds no version to serve" in caplog.text
        (tmp_path / "01").rmdir()
        world.turn()
        (tmp_path / "01").mkdir()
        world.turn()

    assert [("01" in record.message) for record in caplog.records].count(True) == 2


def test_a_version_removed_while_it_loads_is_unloaded_once_loaded(tmp_path: Path) -> None:
    put(tmp_path, 1)
    world = World(model(tmp_path))
    world.turn()
    message = world.load()
    remove(tmp_path, 1)
    world.turn()
    assert world.states() == {1: State.LOADING}
    world.catalogue.state_changed(world.workers.answer(message.handle))
    world.turn()

    assert world.states() == {1: State.UNLOADING}
    assert world.workers.take() == [UnloadModel(message.handle)]


# Loads that fail.


def test_a_failed_load_says_why_and_is_tried_again_with_growing_patience(
    tmp_path: Path, clock: Clock
) -> None:
    put(tmp_path, 1)
    world = World(model(tmp_path))
    delays = []
    for _ in range(9):
        world.turn()
        message = world.load()
        assert world.versions()[1].error_message == ""
        world.fail(message.handle, "it is no model")
        record = world.versions()[1]
        assert (record.state, record.error_code, record.error_message) == (20, 2, "it is no model")
        assert world.catalogue.is_settled()
        moment = world.turn()
        assert world.workers.take() == []
        assert moment is not None
        delays.append(moment - clock.now)
        clock.now = moment - 0.01
        world.turn()
        assert world.workers.take() == []
        clock.now = moment

    assert delays == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_success_forgets_the_failures(tmp_path: Path, clock: Clock) -> None:
    put(tmp_path, 1)
    world = World(model(tmp_path))
    world.turn()
    world.fail(world.load().handle)
    clock.now += 1
    message = world.serve()
    assert world.versions()[1].error_message == ""
    remove(tmp_path, 1)
    world.turn()
    world.catalogue.state_changed(world.workers.answer(message.handle, State.END))
    world.workers.take()
    put(tmp_path, 1)
    world.turn()
    world.fail(world.load().handle)

    assert world.turn() == clock.now + 1


def test_a_failed_newest_leaves_the_old_one_serving(tmp_path: Path, clock: Clock) -> None:
    put(tmp_path, 1)
    world = World(model(tmp_path))
    world.serve()
    put(tmp_path, 2)
    world.turn()
    world.fail(world.load().handle)
    assert world.turn() == clock.now + 1
    assert world.states() == {1: State.AVAILABLE, 2: State.LOADING}
    assert world.default() == 1
    assert world.workers.take() == []
    clock.now += 1
    world.serve()
    world.turn()

    assert world.states() == {1: State.UNLOADING, 2: State.AVAILABLE}
    assert world.default() == 2


def test_a_failed_newest_falls_back_to_the_one_below(tmp_path: Path, clock: Clock) -> None:
    put(tmp_path, 1, 2)
    world = World(model(tmp_path))
    world.turn()
    world.fail(world.load().handle)
    fallback = world.serve()

    assert fallback.version == 1
    assert world.default() == 1
    assert world.turn() == clock.now + 1


def test_a_failed_version_that_leaves_the_disk_ends_without_its_worker(tmp_path: Path) -> None:
    put(tmp_path, 1)
    world = World(model(tmp_path))
    world.turn()
    world.fail(world.load().handle)
    assert world.default() == 1
    remove(tmp_path, 1)
    assert world.turn() is None

    assert world.states() == {1: State.END}
    assert world.versions()[1].error_message == ""
    assert world.workers.take() == []
    assert world.default() == 0


def test_a_device_that_does_not_exist_is_remembered(tmp_path: Path) -> None:
    put(tmp_path, 1)
    world = World(model(tmp_path))
    world.turn()
    assert world.catalogue.fatal_error is None
    world.fail(world.load().handle, "no device NPU; here are CPU", "DeviceUnavailable")

    assert world.catalogue.fatal_error == ErrorRecord("DeviceUnavailable", "no device NPU; here are CPU")


def test_other_failures_are_not_fatal(tmp_path: Path) -> None:
    put(tmp_path, 1)
    world = World(model(tmp_path))
    world.turn()
    world.fail(world.load().handle)

    assert world.catalogue.fatal_error is None


# Workers come and go.


def test_a_lost_worker_takes_its_versions_back_to_loading_and_a_new_one_gets_them(tmp_path: Path) -> None:
    put(tmp_path, 1)
    world = World(model(tmp_path))
    old = world.serve()
    world.turn()
    world.workers.lose("CPU")
    world.catalogue.worker_lost("CPU", "killed by signal 9")
    assert world.catalogue.is_changed
    record = world.versions()[1]
    assert (record.state, record.endpoint, record.handle, record.error_message) == (20, "", 0, "")
    # Clients may still ask for its metadata, and wait for it.
    assert record.inputs == INPUTS
    assert world.default() == 1
    world.turn()
    assert world.workers.take() == []

    world.workers.endpoints["CPU"] = "ipc://@cpu-2"
    world.catalogue.worker_ready("CPU")
    new = world.load()
    assert new.handle != old.handle
    world.catalogue.state_changed(world.workers.answer(new.handle))
    assert world.versions()[1].endpoint == "ipc://@cpu-2"


def test_an_answer_under_a_forgotten_handle_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, 1)
    world = World(model(tmp_path))
    old = world.serve()
    world.workers.lose("CPU")
    world.catalogue.worker_lost("CPU", "gone")
    world.turn()
    before = world.catalogue.records()
    world.catalogue.state_changed(ModelStateChanged(old.handle, State.END, None, (), (), 0, ""))

    assert world.catalogue.records() == before
    assert not world.catalogue.is_changed
    assert f"event=unknown_handle handle={old.handle}" in caplog.text


def test_what_was_being_served_is_reloaded_first(tmp_path: Path) -> None:
    put(tmp_path / "a", 1)
    put(tmp_path / "b", 1)
    world = World(model(tmp_path / "a", name="a"), model(tmp_path / "b", name="b"))
    world.turn()
    first, second = world.workers.take()
    world.catalogue.state_changed(world.workers.answer(second.handle))
    assert isinstance(first, LoadModel)
    assert first.name == "a"
    world.workers.lose("CPU")
    world.catalogue.worker_lost("CPU", "gone")
    world.workers.endpoints["CPU"] = "ipc://@cpu-2"
    world.catalogue.worker_ready("CPU")

    assert [message.name for message in world.workers.take() if isinstance(message, LoadModel)] == ["b", "a"]


def test_only_the_lost_workers_device_is_affected(tmp_path: Path) -> None:
    put(tmp_path / "a", 1)
    put(tmp_path / "b", 1)
    world = World(
        model(tmp_path / "a", name="a"),
        model(tmp_path / "b", name="b", device="GPU"),
        workers=Workers(endpoints={"CPU": "ipc://@cpu", "GPU": "ipc://@gpu"}),
    )
    world.turn()
    for message in world.workers.take():
        world.catalogue.state_changed(world.workers.answer(message.handle))
    world.workers.lose("GPU")
    world.catalogue.worker_lost("GPU", "gone")

    assert world.states("a") == {1: State.AVAILABLE}
    assert world.versions("a")[1].endpoint == "ipc://@cpu"
    assert world.states("b") == {1: State.LOADING}


def test_what_a_lost_worker_was_unloading_is_gone(tmp_path: Path) -> None:
    put(tmp_path, 1)
    world = World(model(tmp_path))
    world.serve()
    remove(tmp_path, 1)
    world.turn(fronts_apply=False)
    assert world.states() == {1: State.UNLOADING}
    world.workers.lose("CPU")
    world.catalogue.worker_lost("CPU", "gone")
    assert world.states() == {1: State.END}
    world.workers.endpoints["CPU"] = "ipc://@cpu-2"
    world.catalogue.worker_ready("CPU")
    world.turn()

    assert world.workers.take() == []


def test_a_version_that_kills_two_workers_in_its_first_load_has_failed(tmp_path: Path, clock: Clock) -> None:
    put(tmp_path, 1)
    world = World(model(tmp_path))
    world.turn()
    for number in (1, 2):
        assert world.load().version == 1
        assert world.versions()[1].error_message == ""
        world.workers.lose("CPU")
        world.catalogue.worker_lost("CPU", "killed by signal 11 (SIGSEGV)")
        world.workers.endpoints["CPU"] = f"ipc://@again-{number}"
        world.catalogue.worker_ready("CPU")
    record = world.versions()[1]
    assert (record.state, record.error_code) == (20, 2)
    assert record.error_message == (
        "the inference worker died while loading it: killed by signal 11 (SIGSEGV)"
    )
    assert world.workers.take() == []
    assert world.catalogue.is_settled()

    assert world.turn() == clock.now + 1
    clock.now += 1
    world.turn()
    assert world.load().version == 1


def test_a_version_that_was_served_is_not_blamed_for_deaths_while_it_is_reloaded(tmp_path: Path) -> None:
    put(tmp_path, 1)
    world = World(model(tmp_path))
    world.serve()
    for number in range(4):
        world.workers.lose("CPU")
        world.catalogue.worker_lost("CPU", "gone")
        world.workers.endpoints["CPU"] = f"ipc://@{number}"
        world.catalogue.worker_ready("CPU")
        assert world.load().version == 1

    assert world.versions()[1].error_message == ""


# The default version.


def test_the_default_is_the_highest_available_then_the_highest_coming_back(tmp_path: Path) -> None:
    put(tmp_path, 1, 2, 3)
    world = World(model(tmp_path, All()))
    assert world.default() == 0
    world.turn()
    one, two, three = world.workers.take()
    assert world.default() == 3
    world.catalogue.state_changed(world.workers.answer(one.handle))
    assert world.default() == 1
    world.fail(three.handle)
    world.catalogue.state_changed(world.workers.answer(two.handle))
    assert world.default() == 2
    world.workers.lose("CPU")
    world.catalogue.worker_lost("CPU", "gone")

    # Not 3, which has failed, but 2, which was served a moment ago.
    assert world.default() == 2


# Whatever happens.


EVENTS = st.one_of(
    st.tuples(st.sampled_from(["put", "remove"]), st.integers(1, 3)),
    st.tuples(st.sampled_from(["answer", "fail"]), st.integers(0, 3)),
    st.tuples(st.sampled_from(["turn", "turn without fronts", "lose", "ready", "wait"]), st.just(0)),
)


class Story(World):
    """A world to which anything may happen, in any order."""

    def __init__(self, base: Path, policy: VersionPolicy, clock: Clock) -> None:
        super().__init__(model(base, policy))
        self.base, self.policy, self.clock = base, policy, clock
        self.unanswered: list[LoadModel | UnloadModel] = []
        self.routed: set[int] = set()
        """Handles that fronts may still use, by the snapshot that they applied."""

    def happen(self, event: str, number: int) -> None:
        path = self.base / str(number)
        match event:
            case "put" if not path.exists():
                put(self.base, number)
            case "remove" if path.exists():
                remove(self.base, number)
            case "answer" | "fail" if self.unanswered:
                self.answer_one(number % len(self.unanswered), is_good=event == "answer")
            case "turn" | "turn without fronts":
                self.turn(fronts_apply=event == "turn")
            case "lose" if self.workers.endpoints:
                self.workers.lose("CPU")
                self.catalogue.worker_lost("CPU", "gone")
                self.unanswered.clear()
                self.routed.clear()
            case "ready" if not self.workers.endpoints:
                self.workers.endpoints["CPU"] = f"ipc://@{len(self.workers.handles)}"
                self.catalogue.worker_ready("CPU")
            case "wait":
                self.clock.now += 10
        self.look()

    def turn(self, *, fronts_apply: bool = True) -> float | None:
        moment = super().turn(fronts_apply=False)
        if fronts_apply:
            self.routed = {record.handle for record in self.versions().values() if record.endpoint}
            self.catalogue.fronts_applied(self.epoch)
        return moment

    def answer_one(self, index: int, *, is_good: bool) -> None:
        message = self.unanswered.pop(index)
        if isinstance(message, UnloadModel):
            self.catalogue.state_changed(self.workers.answer(message.handle, State.END))
        elif is_good:
            self.catalogue.state_changed(self.workers.answer(message.handle))
        else:
            self.fail(message.handle)

    def look(self) -> None:
        """What must hold at every moment."""
        sent = self.workers.take()
        for message in sent:
            if isinstance(message, UnloadModel):
                assert message.handle not in self.routed, "unloaded while fronts route to it"
        self.unanswered += sent
        for record in self.versions().values():
            is_available = record.state == State.AVAILABLE
            assert bool(record.endpoint) == is_available
            assert not is_available or record.handle in self.workers.loaded
            assert bool(record.error_code) == bool(record.error_message)


@settings(max_examples=40, deadline=None)
@given(
    events=st.lists(EVENTS, max_size=30),
    policy=st.sampled_from([Latest(1), Latest(2), All()]),
)
def test_it_comes_to_serve_what_is_there_when_all_is_well_again(
    events: list[tuple[str, int]], policy: VersionPolicy
) -> None:
    clock = Clock()
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue_module, "time", clock)
        story = Story(Path(directory), policy, clock)
        for event, number in events:
            story.happen(event, number)
        story.happen("ready", 0)
        for _ in range(12):
            clock.now += 100
            story.happen("turn", 0)
            while story.unanswered:
                story.happen("answer", 0)
        on_disk = [int(path.name) for path in Path(directory).iterdir()]
        served = [number for number, state in story.states().items() if state is State.AVAILABLE]

        assert served == list(desired_versions(on_disk, policy))
        assert story.default() == max(served, default=0)
        assert {entry[1].version for entry in story.workers.loaded.values()} == set(served)
        assert all(state in (State.AVAILABLE, State.END) for state in story.states().values())
