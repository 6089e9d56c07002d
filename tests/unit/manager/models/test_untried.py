# SPDX-License-Identifier: Apache-2.0
"""Deployments that go without a trial: which, and what becomes of them when their worker does not survive it."""

from __future__ import annotations

import pytest

from ovms_mp.manager.models.deployment import Deployment, DeploymentState, load_failure
from ovms_mp.wire.messages import LoadModel

from ..fakes import files, load_failed, loaded
from .test_deployments import ON_GPU, Scene


class Start(Scene):
    """A server that starts: its workers are not ready yet."""

    def __init__(self) -> None:
        super().__init__()
        self.workers.devices.clear()

    def is_tried(self, deployment: Deployment) -> bool:
        return deployment in self.trials.waiting

    def is_urgent(self) -> list[bool]:
        return [message.is_urgent for _, message in self.workers.sent if isinstance(message, LoadModel)]


@pytest.fixture
def start() -> Start:
    return Start()


def test_what_comes_alone_is_loaded_at_once_by_the_first_worker(start: Start) -> None:
    deployment = start.begin()
    assert deployment.state is DeploymentState.LOADING
    assert start.trials.skipped == [deployment.handle]
    start.arrive("w0")
    assert start.is_urgent() == [True]
    assert start.workers.take() == [("w0", "load", deployment.handle)]
    start.books.state_changed("w0", loaded(deployment.handle))

    assert start.told.take() == [("serving", deployment.handle)]
    assert not start.trials.waiting


def test_each_device_has_its_own_first(start: Start) -> None:
    start.begin()
    on_gpu = start.books.begin("g", 1, ON_GPU, files())
    assert not start.trials.waiting
    start.arrive("w0")
    start.arrive("w1", "GPU")

    assert start.workers.take() == [("w0", "load", 1), ("w1", "load", on_gpu.handle)]


def test_in_company_all_are_tried(start: Start) -> None:
    deployments = [start.begin(version) for version in (1, 2, 3)]

    assert list(start.trials.waiting) == deployments
    assert {deployment.state for deployment in deployments} == {DeploymentState.TRYING}
    start.arrive("w0")
    assert start.workers.take() == []


def test_who_comes_later_is_tried_and_leaves_the_first_alone(start: Start) -> None:
    first = start.begin(1)
    start.arrive("w0")
    second = start.begin(2)
    assert list(start.trials.waiting) == [second]
    start.books.trial_ended(second.handle, None, "")

    assert start.workers.take() == [("w0", "load", first.handle), ("w0", "load", second.handle)]
    assert start.books.waits_for_untried(second.handle, "w0")
    assert not start.books.waits_for_untried(first.handle, "w0")
    start.books.state_changed("w0", loaded(first.handle))
    assert not start.books.waits_for_untried(second.handle, "w0")


def test_beside_what_serves_a_version_is_tried_even_when_all_workers_are_gone(start: Start) -> None:
    first = start.begin(1)
    start.arrive("w0")
    start.books.state_changed("w0", loaded(first.handle))
    start.lose("w0")
    second = start.begin(2)

    assert list(start.trials.waiting) == [second]


def test_a_worker_that_is_ready_gets_nothing_untried(scene: Scene) -> None:
    deployment = scene.begin()

    assert deployment in scene.trials.waiting


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_one_worker_tries_it_and_the_others_load_it_then(start: Start) -> None:
    deployment = start.begin()
    start.arrive("w0")
    start.arrive("w1")
    assert start.workers.take() == [("w0", "load", deployment.handle)]
    start.books.state_changed("w0", loaded(deployment.handle))
    assert start.told.take() == []
    assert start.workers.take() == [("w1", "load", deployment.handle)]
    start.books.state_changed("w1", loaded(deployment.handle))

    assert start.told.take() == [("serving", deployment.handle)]
    assert deployment.loaded == {"w0", "w1"}


def test_when_its_worker_dies_it_is_tried_and_costs_no_other(start: Start) -> None:
    deployment = start.begin()
    start.arrive("w0")
    start.lose("w0")
    assert deployment.state is DeploymentState.TRYING
    assert start.is_tried(deployment)
    assert start.told.take() == []
    start.workers.take()
    start.arrive("w1")
    assert start.workers.take() == []
    start.trials.waiting.clear()
    start.books.trial_ended(deployment.handle, load_failure("it died again"), "")
    assert start.told.reasons == [("ModelLoadFailed", "it died again")]
    # And when it comes again while no worker is there, it is tried.
    start.lose("w1", "")
    again = start.begin()

    assert start.is_tried(again)


def test_a_death_was_not_its_fault(start: Start) -> None:
    deployment = start.begin()
    start.arrive("w0")
    start.lose("w0")
    start.books.trial_ended(deployment.handle, None, "")
    start.workers.take()
    start.arrive("w1")
    assert start.workers.take() == [("w1", "load", deployment.handle)]
    start.books.state_changed("w1", loaded(deployment.handle))

    assert start.told.take() == [("serving", deployment.handle)]


def test_what_waited_behind_it_is_loaded_by_the_next_worker(start: Start) -> None:
    first = start.begin(1)
    start.arrive("w0")
    second = start.begin(2)
    start.trials.waiting.clear()
    start.books.trial_ended(second.handle, None, "")
    start.lose("w0", "killed by signal 9 (SIGKILL)")
    start.workers.take()
    assert start.is_tried(first)
    start.arrive("w1")
    assert start.workers.take() == [("w1", "load", second.handle)]
    start.books.state_changed("w1", loaded(second.handle))

    assert start.told.take() == [("serving", second.handle)]


def test_one_that_took_too_long_is_not_tried_for_as_long_again(start: Start) -> None:
    deployment = start.begin()
    start.arrive("w0")
    start.books.load_is_late(deployment.handle, "it was not loaded within 10 s")
    start.lose("w0", "killed by signal 9 (SIGKILL)")

    assert start.told.reasons == [("ModelLoadFailed", "it was not loaded within 10 s")]
    assert not start.trials.waiting
    again = start.begin()
    assert start.is_tried(again)


def test_a_failure_that_harms_nobody_is_its_reason_and_the_next_time_it_is_tried(start: Start) -> None:
    deployment = start.begin()
    start.arrive("w0")
    start.books.state_changed("w0", load_failed(deployment.handle, "no model"))
    assert start.told.reasons == [("ModelLoadFailed", "no model")]
    again = start.begin()

    assert start.is_tried(again)


def test_a_worker_that_was_asked_to_end_hands_it_on(start: Start) -> None:
    deployment = start.begin()
    start.arrive("w0")
    start.arrive("w1")
    start.workers.take()
    start.lose("w0", "")

    assert start.workers.take() == [("w1", "load", deployment.handle)]
    assert not start.trials.waiting


def test_retired_before_any_worker_came_it_is_gone(start: Start) -> None:
    deployment = start.begin()
    start.books.retire(deployment, 3)
    start.books.fronts_applied(3)
    start.arrive("w0")

    assert start.workers.take() == []
    assert list(start.books) == []


def test_loads_are_urgent_only_while_nothing_is_served(start: Start) -> None:
    first = start.begin(1)
    start.arrive("w0")
    start.books.state_changed("w0", loaded(first.handle))
    second = start.begin(2)
    start.books.trial_ended(second.handle, None, "")

    assert start.is_urgent() == [True, False]
