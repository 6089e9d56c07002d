# SPDX-License-Identifier: Apache-2.0
"""A deployment's way from its trial to its end, with the test as workers, trials and listener."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovms_mp.config.model import ModelConfig
from ovms_mp.config.server import LimitsConfig
from ovms_mp.manager.models.deployment import (
    Deployment,
    DeploymentState,
    endpoints_of,
    load_failure,
    settings_of,
)
from ovms_mp.manager.models.deployments import Deployments
from ovms_mp.model.input_settings import BatchSize, InputSettings
from ovms_mp.model.status import State
from ovms_mp.wire.messages import LoadModel, ModelStateChanged
from ovms_mp.wire.records import ErrorRecord

from ..fakes import INPUTS, OUTPUTS, FakeTrials, FakeWorkers, Told, files, load_failed, loaded, unloaded

SETTINGS = settings_of(ModelConfig(name="m", base_path=Path("/models")), LimitsConfig())
ON_GPU = settings_of(ModelConfig(name="m", base_path=Path("/models"), target_device="GPU"), LimitsConfig())
DIED = "killed by signal 11 (SIGSEGV)"


class Scene:
    """The books, and everybody around them."""

    def __init__(self, *workers: str) -> None:
        self.workers = FakeWorkers(dict.fromkeys(workers or ("w0",), "CPU"))
        self.trials = FakeTrials()
        self.told = Told()
        self.books = Deployments(self.workers, self.trials, self.told)

    def begin(self, version: int = 1) -> Deployment:
        return self.books.begin("m", version, SETTINGS, files(f"{version}/model.xml"))

    def tried(self, version: int = 1) -> Deployment:
        deployment = self.begin(version)
        self.books.trial_ended(deployment.handle, None, "")
        return deployment

    def served(self, version: int = 1) -> Deployment:
        deployment = self.tried(version)
        for worker in sorted(deployment.pending):
            self.books.state_changed(worker, loaded(deployment.handle))
        assert deployment.state is DeploymentState.SERVING
        self.workers.take()
        self.told.take()
        return deployment

    def lose(self, worker: str, reason: str = DIED) -> None:
        self.workers.lose(worker)
        self.books.worker_lost(worker, reason)

    def arrive(self, worker: str, device: str = "CPU") -> None:
        self.workers.devices[worker] = device
        self.books.worker_ready(worker, device)


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def two() -> Scene:
    return Scene("w0", "w1")


# The trial.


def test_it_is_tried_before_any_worker_hears_of_it(scene: Scene) -> None:
    deployment = scene.begin()

    assert scene.trials.one() is deployment
    assert deployment.state is DeploymentState.TRYING
    assert scene.workers.take() == []
    assert scene.books.find(deployment.handle) is deployment
    assert list(scene.books) == [deployment]


def test_handles_are_never_used_twice(scene: Scene) -> None:
    first = scene.begin()
    scene.books.give_up(first, load_failure("no"))
    second = scene.begin()

    assert first.handle > 0
    assert second.handle > first.handle


def test_a_trial_that_fails_is_the_end_and_no_worker_hears_of_it(scene: Scene) -> None:
    deployment = scene.begin()
    scene.books.trial_ended(deployment.handle, ErrorRecord("DeviceUnavailable", "no NPU here"), "")

    assert scene.told.take() == [("failed", deployment.handle)]
    assert scene.told.reasons == [("DeviceUnavailable", "no NPU here")]
    assert scene.workers.take() == []
    assert list(scene.books) == []
    assert deployment.handle in scene.trials.forgotten


def test_an_error_without_a_text_is_a_failure_too(scene: Scene) -> None:
    deployment = scene.begin()
    scene.books.trial_ended(deployment.handle, load_failure(""), "")

    assert scene.told.reasons == [("ModelLoadFailed", "")]


def test_a_good_trial_leads_to_loads_at_all_ready_workers_of_the_device(two: Scene) -> None:
    two.workers.devices["gpu"] = "GPU"
    deployment = two.begin()
    two.books.trial_ended(deployment.handle, None, "compiled")
    load = two.workers.sent[0][1]

    assert isinstance(load, LoadModel)
    assert (load.handle, load.name, load.version) == (deployment.handle, "m", 1)
    assert (load.model_file, load.cache_directory) == ("/models/1/model.xml", f"/cache/{deployment.handle}")
    assert load.settings == SETTINGS
    assert two.workers.take() == [("w0", "load", 1), ("w1", "load", 1)]
    assert deployment.state is DeploymentState.LOADING
    assert two.books.is_pending(1, "w0")
    assert not two.books.is_pending(1, "gpu")
    assert not two.books.is_pending(2, "w0")


def test_the_outcome_of_a_trial_counts_once(scene: Scene) -> None:
    deployment = scene.tried()
    scene.workers.take()
    scene.books.trial_ended(deployment.handle, None, "")
    scene.books.trial_ended(deployment.handle, load_failure("it died in the end"), "")

    assert scene.workers.take() == []
    assert scene.told.take() == []
    assert deployment.state is DeploymentState.LOADING


def test_the_outcome_of_a_trial_that_nobody_knows_is_nothing(scene: Scene) -> None:
    scene.books.trial_ended(77, None, "")

    assert scene.workers.take() == []
    assert scene.told.take() == []


def test_without_a_worker_the_load_waits_for_one(scene: Scene) -> None:
    scene.workers.devices.clear()
    deployment = scene.tried()
    assert scene.workers.take() == []
    scene.arrive("w5")

    assert scene.workers.take() == [("w5", "load", deployment.handle)]


# The first load.


def test_it_serves_when_all_workers_have_it(two: Scene) -> None:
    deployment = two.tried()
    two.books.state_changed("w1", loaded(deployment.handle))
    assert two.told.take() == []
    two.books.state_changed("w0", loaded(deployment.handle))

    assert two.told.take() == [("serving", deployment.handle)]
    assert deployment.state is DeploymentState.SERVING
    assert deployment.loaded == {"w0", "w1"}
    assert (deployment.inputs, deployment.outputs, deployment.nireq) == (INPUTS, OUTPUTS, 2)
    assert two.trials.forgotten == [deployment.handle]
    # A worker that loads it later must not look for what has been removed.
    assert deployment.load_message().cache_directory == ""


def test_the_users_cache_is_for_all_loads(scene: Scene) -> None:
    deployment = scene.tried()
    deployment.is_cache_kept = True
    scene.books.state_changed("w0", loaded(deployment.handle))

    assert deployment.state is DeploymentState.SERVING
    assert deployment.load_message().cache_directory == f"/cache/{deployment.handle}"
    assert deployment.load_message().is_cache_kept


def test_one_worker_that_cannot_load_it_is_enough_to_fail(two: Scene) -> None:
    deployment = two.tried()
    two.books.state_changed("w0", loaded(deployment.handle))
    two.workers.take()
    two.books.state_changed("w1", load_failed(deployment.handle, "out of memory"))

    assert two.told.take() == [("failed", deployment.handle)]
    assert two.told.reasons == [("ModelLoadFailed", "out of memory")]
    assert two.workers.take() == [("w0", "unload", deployment.handle)]
    assert list(two.books) == []
    assert two.trials.forgotten == [deployment.handle]


def test_a_worker_that_was_still_loading_what_failed_elsewhere_drops_it(two: Scene) -> None:
    deployment = two.tried()
    two.books.state_changed("w1", load_failed(deployment.handle))
    two.workers.take()
    two.books.state_changed("w0", loaded(deployment.handle))
    assert two.workers.take() == [("w0", "unload", deployment.handle)]
    two.books.state_changed("w0", unloaded(deployment.handle))

    assert two.workers.take() == []
    assert two.told.take() == [("failed", deployment.handle)]


def test_both_fail_and_it_failed_once(two: Scene) -> None:
    deployment = two.tried()
    two.books.state_changed("w1", load_failed(deployment.handle))
    two.books.state_changed("w0", load_failed(deployment.handle))

    assert two.told.take() == [("failed", deployment.handle)]


def test_a_failure_without_a_reason_has_one_all_the_same(scene: Scene) -> None:
    deployment = scene.tried()
    scene.books.state_changed("w0", ModelStateChanged(deployment.handle, State.LOADING, None, (), (), 0, ""))

    assert scene.told.reasons == [("ModelLoadFailed", "no reason given")]


def test_a_worker_that_dies_in_the_load_leaves_it_to_the_others(two: Scene) -> None:
    deployment = two.tried()
    two.books.state_changed("w0", loaded(deployment.handle))
    two.lose("w1")

    assert two.told.take() == [("serving", deployment.handle)]
    assert deployment.loaded == {"w0"}
    two.workers.take()
    two.arrive("w2")
    assert two.workers.take() == [("w2", "load", deployment.handle)]
    two.books.state_changed("w2", loaded(deployment.handle))
    assert two.told.take() == [("workers", deployment.handle)]


def test_the_first_death_in_the_load_is_forgiven_the_second_is_not(scene: Scene) -> None:
    deployment = scene.tried()
    scene.lose("w0")
    assert scene.told.take() == []
    assert deployment.state is DeploymentState.LOADING
    scene.arrive("w1")
    scene.lose("w1")

    assert scene.told.take() == [("failed", deployment.handle)]
    assert scene.told.reasons == [("WorkerLost", f"the inference worker died while loading it: {DIED}")]
    assert list(scene.books) == []


def test_deaths_are_counted_in_a_row(scene: Scene) -> None:
    # Loaded in between, and then its worker died of something else.
    two = Scene("w0", "w1")
    deployment = two.tried()
    two.lose("w0")
    two.books.state_changed("w1", loaded(deployment.handle))
    two.told.take()
    two.arrive("w2")
    two.lose("w2")

    assert two.told.take() == []


def test_only_what_was_being_loaded_is_suspected(scene: Scene) -> None:
    first, second = scene.tried(1), scene.tried(2)
    for worker in ("w1", "w2"):
        scene.lose(next(iter(scene.workers.devices)))
        scene.arrive(worker)

    assert scene.told.take() == [("failed", first.handle)]
    assert second.state is DeploymentState.LOADING
    assert set(second.pending) == {"w2"}


def test_after_a_worker_starts_anew_what_it_loads_first_is_suspected(scene: Scene) -> None:
    # The lower handle has not served yet, so a new worker gets the higher one first, and dies of that.
    innocent = scene.begin(1)
    guilty = scene.served(2)
    scene.lose("w0")
    scene.books.trial_ended(innocent.handle, None, "")
    for worker in ("w1", "w2"):
        scene.arrive(worker)
        assert [handle for _, _, handle in scene.workers.take()] == [guilty.handle, innocent.handle]
        scene.lose(worker)

    assert scene.told.reasons == []
    assert innocent.state is DeploymentState.LOADING


def test_a_worker_that_had_it_dies_before_the_others_have_it(two: Scene) -> None:
    deployment = two.tried()
    two.books.state_changed("w0", loaded(deployment.handle))
    two.lose("w0")
    assert two.told.take() == []
    two.books.state_changed("w1", loaded(deployment.handle))

    assert two.told.take() == [("serving", deployment.handle)]
    assert deployment.loaded == {"w1"}


def test_an_innocent_death_before_it_was_loaded_anywhere_makes_it_wait(two: Scene) -> None:
    deployment = two.tried()
    two.books.state_changed("w0", loaded(deployment.handle))
    two.lose("w0")
    two.lose("w1")
    assert deployment.state is DeploymentState.LOADING
    two.workers.take()
    two.arrive("w2")
    two.books.state_changed("w2", loaded(deployment.handle))

    assert two.told.take() == [("serving", deployment.handle)]


# Serving.


def test_a_new_worker_gets_what_serves_before_what_is_coming(scene: Scene) -> None:
    coming = scene.tried(1)
    serving = scene.tried(2)
    scene.books.state_changed("w0", loaded(serving.handle))
    trying = scene.begin(3)
    going = scene.tried(4)
    scene.books.retire(going, 9)
    other = scene.books.begin("m", 5, ON_GPU, files())
    scene.books.trial_ended(other.handle, None, "")
    scene.workers.take()
    scene.arrive("w1")

    assert scene.workers.take() == [("w1", "load", serving.handle), ("w1", "load", coming.handle)]
    assert trying.state is DeploymentState.TRYING


def test_losing_one_of_two_workers_is_told_and_made_up_for(two: Scene) -> None:
    deployment = two.served()
    two.lose("w0")
    assert two.told.take() == [("workers", deployment.handle)]
    assert deployment.loaded == {"w1"}
    assert deployment.state is DeploymentState.SERVING
    two.arrive("w2")
    assert two.workers.take() == [("w2", "load", deployment.handle)]
    assert two.told.take() == []
    two.books.state_changed("w2", loaded(deployment.handle))

    assert two.told.take() == [("workers", deployment.handle)]
    assert deployment.loaded == {"w1", "w2"}


def test_the_only_worker_dies_and_its_successor_loads_it(scene: Scene) -> None:
    deployment = scene.served()
    scene.lose("w0")
    assert deployment.loaded == set()
    assert deployment.state is DeploymentState.SERVING
    scene.arrive("w1")
    scene.books.state_changed("w1", loaded(deployment.handle))

    assert scene.told.take() == [("workers", deployment.handle)] * 2
    assert deployment.loaded == {"w1"}


def test_what_has_served_is_given_more_lives(scene: Scene) -> None:
    deployment = scene.served()
    scene.lose("w0")
    for number in range(1, 5):
        scene.arrive(f"w{number}")
        scene.lose(f"w{number}")
    assert deployment.state is DeploymentState.SERVING
    scene.told.take()
    scene.arrive("w5")
    scene.lose("w5")

    assert scene.told.take() == [("failed", deployment.handle)]
    assert list(scene.books) == []


def test_deaths_at_one_worker_do_not_end_what_another_serves(two: Scene) -> None:
    deployment = two.served()
    two.lose("w0")
    for number in range(2, 9):
        two.arrive(f"w{number}")
        two.lose(f"w{number}")
    events = two.told.take()

    assert ("failed", deployment.handle) not in events
    assert deployment.state is DeploymentState.SERVING
    assert deployment.loaded == {"w1"}
    assert "unload" not in {what for _, what, _ in two.workers.take()}


def test_a_worker_that_cannot_load_it_again_leaves_it_to_the_others(two: Scene) -> None:
    deployment = two.served()
    two.lose("w0")
    two.arrive("w2")
    two.told.take()
    two.books.state_changed("w2", load_failed(deployment.handle))

    assert two.told.take() == []
    assert deployment.state is DeploymentState.SERVING
    assert not two.books.is_pending(deployment.handle, "w2")


def test_when_no_worker_can_load_it_again_it_has_failed(scene: Scene) -> None:
    deployment = scene.served()
    scene.lose("w0")
    scene.arrive("w1")
    scene.told.take()
    scene.books.state_changed("w1", load_failed(deployment.handle, "the file is gone"))

    assert scene.told.take() == [("failed", deployment.handle)]
    assert scene.told.reasons == [("ModelLoadFailed", "the file is gone")]


def test_completeness_is_about_what_serves_on_that_device(two: Scene) -> None:
    deployment = two.served()
    two.tried(2)
    other = two.books.begin("m", 3, ON_GPU, files())
    two.books.trial_ended(other.handle, None, "")
    assert two.books.is_complete_on("w0", "CPU")
    assert not two.books.is_complete_on("w9", "CPU")
    assert two.books.is_complete_on("w9", "GPU")
    two.arrive("w9")
    two.books.state_changed("w9", loaded(deployment.handle))

    assert two.books.is_complete_on("w9", "CPU")


# Retiring.


def test_it_is_unloaded_only_after_all_fronts_route_elsewhere(two: Scene) -> None:
    deployment = two.served()
    two.books.retire(deployment, 8)
    two.books.fronts_applied(7)
    assert two.workers.take() == []
    two.books.fronts_applied(8)
    assert sorted(two.workers.take()) == [("w0", "unload", 1), ("w1", "unload", 1)]
    two.books.fronts_applied(9)
    assert two.workers.take() == []
    two.books.state_changed("w0", unloaded(1))
    assert two.told.take() == []
    two.books.state_changed("w1", unloaded(1))

    assert two.told.take() == [("gone", 1)]
    assert list(two.books) == []
    assert 1 in two.trials.forgotten


def test_a_trial_that_nobody_wants_is_withdrawn_and_gone_with_the_fronts_word(scene: Scene) -> None:
    deployment = scene.begin()
    scene.books.retire(deployment, 3)
    assert scene.trials.withdrawn == [deployment.handle]
    scene.books.trial_ended(deployment.handle, load_failure("killed"), "")
    assert scene.told.take() == []
    scene.books.fronts_applied(3)

    assert scene.told.take() == [("gone", deployment.handle)]
    assert deployment.handle in scene.trials.forgotten
    assert scene.workers.take() == []


def test_a_load_that_ends_after_it_was_dropped_is_unloaded(scene: Scene) -> None:
    deployment = scene.tried()
    scene.workers.take()
    scene.books.retire(deployment, 3)
    scene.books.fronts_applied(3)
    assert scene.told.take() == []
    scene.books.state_changed("w0", loaded(deployment.handle))
    assert scene.workers.take() == [("w0", "unload", deployment.handle)]
    scene.books.state_changed("w0", unloaded(deployment.handle))

    assert scene.told.take() == [("gone", deployment.handle)]


def test_a_load_that_ends_before_the_fronts_word_is_unloaded_once(scene: Scene) -> None:
    deployment = scene.tried()
    scene.workers.take()
    scene.books.retire(deployment, 3)
    scene.books.state_changed("w0", loaded(deployment.handle))
    assert scene.workers.take() == []
    scene.books.fronts_applied(3)

    assert scene.workers.take() == [("w0", "unload", deployment.handle)]


def test_a_load_that_fails_after_it_was_dropped_is_no_failure(scene: Scene) -> None:
    deployment = scene.tried()
    scene.books.retire(deployment, 3)
    scene.books.fronts_applied(3)
    scene.books.state_changed("w0", load_failed(deployment.handle))

    assert scene.told.take() == [("gone", deployment.handle)]
    assert scene.told.reasons == []


def test_a_worker_that_dies_has_unloaded_everything(two: Scene) -> None:
    deployment = two.served()
    two.books.retire(deployment, 3)
    two.lose("w0")
    assert two.told.take() == []
    two.books.fronts_applied(3)
    assert two.workers.take() == [("w1", "unload", deployment.handle)]
    two.lose("w1")

    assert two.told.take() == [("gone", deployment.handle)]


def test_a_worker_that_dies_in_a_dropped_load_is_nobodys_fault(scene: Scene) -> None:
    deployment = scene.tried()
    scene.books.retire(deployment, 3)
    scene.books.fronts_applied(3)
    scene.lose("w0")

    assert scene.told.take() == [("gone", deployment.handle)]


def test_a_new_worker_is_not_told_to_load_what_retires(scene: Scene) -> None:
    deployment = scene.served()
    scene.books.retire(deployment, 3)
    scene.arrive("w1")

    assert scene.workers.take() == []


def test_an_answer_to_an_unload_that_nobody_remembers_is_nothing(scene: Scene) -> None:
    scene.books.state_changed("w0", unloaded(99))
    scene.books.state_changed("w0", load_failed(99))

    assert scene.workers.take() == []
    assert scene.told.take() == []


# Giving up.


def test_giving_up_a_trial_withdraws_it(scene: Scene) -> None:
    deployment = scene.begin()
    scene.books.give_up(deployment, ErrorRecord("DeviceUnavailable", "no worker"))

    assert scene.trials.withdrawn == [deployment.handle]
    assert scene.told.reasons == [("DeviceUnavailable", "no worker")]
    assert list(scene.books) == []


def test_giving_up_a_load_drops_it_where_it_is_and_where_it_is_coming(two: Scene) -> None:
    deployment = two.tried()
    two.books.state_changed("w0", loaded(deployment.handle))
    two.workers.take()
    two.books.give_up(deployment, load_failure("no"))
    assert two.workers.take() == [("w0", "unload", deployment.handle)]
    two.books.state_changed("w1", loaded(deployment.handle))

    assert two.workers.take() == [("w1", "unload", deployment.handle)]


# What is told to workers and fronts.


def test_endpoints_are_those_of_workers_that_have_it_and_are_routed_to(two: Scene) -> None:
    deployment = two.served()
    deployment.loaded.discard("w1")

    assert endpoints_of(deployment, [("w0", "a"), ("w1", "b"), ("w2", "c")]) == ("a",)
    assert endpoints_of(deployment, [("w1", "b")]) == ()


def test_settings_of_a_model() -> None:
    inputs = InputSettings(batch_size=BatchSize(None))
    config = ModelConfig(
        name="m",
        base_path=Path("/m"),
        nireq=3,
        target_device="GPU.1",
        plugin_config={"A": 1},
        inputs=inputs,
        allow_cache=True,
    )
    made = settings_of(config, LimitsConfig(max_queue_tasks=7, max_queue_mb=3))

    assert (made.device, made.nireq, made.plugin_config) == ("GPU.1", 3, {"A": 1})
    assert (made.inputs, made.allow_cache) == (inputs, True)
    assert (made.max_queue_tasks, made.max_queue_bytes) == (7, 3 << 20)
    assert made == settings_of(config, LimitsConfig(max_queue_tasks=7, max_queue_mb=3))
    assert made != SETTINGS


# Whatever happens.

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(
            ["begin", "tried", "untried", "load", "fail", "unload", "retire", "apply", "lose", "arrive"]
        ),
        st.integers(0, 5),
    ),
    max_size=40,
)


class Story(Scene):
    """Anything happens, in any order; answers to what was asked only."""

    def __init__(self) -> None:
        super().__init__("w0", "w1")
        self.unanswered: list[tuple[str, str, int]] = []
        self.epoch = 1
        self.workers_seen = 2
        self.gone: set[int] = set()

    def happen(self, event: str, number: int) -> None:
        everything = list(self.books)
        match event:
            case "begin":
                self.begin(number + 1)
            case "tried" | "untried" if self.trials.waiting:
                deployment = self.trials.waiting.popleft()
                self.books.trial_ended(
                    deployment.handle, None if event == "tried" else load_failure("no"), ""
                )
            case "load" | "fail" | "unload" if self.unanswered:
                self.answer(self.unanswered.pop(number % len(self.unanswered)), is_good=event != "fail")
            case "retire" if everything:
                deployment = everything[number % len(everything)]
                if deployment.state is not DeploymentState.RETIRING:
                    self.epoch += 1
                    self.books.retire(deployment, self.epoch)
            case "apply":
                self.books.fronts_applied(self.epoch)
            case "lose" if self.workers.devices:
                worker = sorted(self.workers.devices)[number % len(self.workers.devices)]
                self.unanswered = [entry for entry in self.unanswered if entry[0] != worker]
                self.lose(worker)
            case "arrive" if len(self.workers.devices) < 3:
                self.arrive(f"w{self.workers_seen}")
                self.workers_seen += 1
        self.look()

    def answer(self, asked: tuple[str, str, int], *, is_good: bool) -> None:
        worker, what, handle = asked
        if what == "unload":
            self.books.state_changed(worker, unloaded(handle))
        elif is_good:
            self.books.state_changed(worker, loaded(handle))
        else:
            self.workers.held[worker].discard(handle)
            self.books.state_changed(worker, load_failed(handle))

    def look(self) -> None:
        self.unanswered += self.workers.take()
        for event, handle in self.told.take():
            if event in ("failed", "gone"):
                assert handle not in self.gone, "ended twice"
                self.gone.add(handle)
        for deployment in self.books:
            assert deployment.handle not in self.gone
            assert not deployment.loaded & set(deployment.pending)
            assert deployment.loaded | set(deployment.pending) <= set(self.workers.devices)
            if deployment.state is DeploymentState.SERVING:
                assert deployment.handle not in {entry.handle for entry in self.trials.waiting}


@settings(max_examples=60, deadline=None)
@given(events=EVENTS)
def test_nothing_is_left_when_everything_has_been_retired_and_answered(events: list[tuple[str, int]]) -> None:
    story = Story()
    for event, number in events:
        story.happen(event, number)
    for deployment in story.books:
        if deployment.state is not DeploymentState.RETIRING:
            story.epoch += 1
            story.books.retire(deployment, story.epoch)
    story.happen("apply", 0)
    for _ in range(200):
        if not story.unanswered:
            break
        story.happen("load", 0)

    assert list(story.books) == []
    assert not any(story.workers.held.values())
    assert not story.trials.waiting


def test_errors_of_workers_keep_their_names(scene: Scene) -> None:
    deployment = scene.tried()
    scene.books.state_changed(
        "w0",
        ModelStateChanged(
            deployment.handle, State.LOADING, ErrorRecord("DeviceUnavailable", "no GPU"), (), (), 0, ""
        ),
    )

    assert scene.told.reasons == [("DeviceUnavailable", "no GPU")]
