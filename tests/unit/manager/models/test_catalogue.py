# SPDX-License-Identifier: Apache-2.0
"""Versions come, fail, serve and go; workers die. See :mod:`.world`."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovms_mp.model.status import State
from ovms_mp.model.versions import All
from ovms_mp.wire.records import ErrorRecord, VersionRecord

from ..fakes import INPUTS, OUTPUTS, Clock, load_failed
from ..world import World, model, put, remove

pytestmark = pytest.mark.usefixtures("clock")


# The first load.


def test_a_version_is_tried_then_loaded_then_served(base: Path, clock: Clock) -> None:
    put(base, 1, 4)
    world = World(clock, model(base))
    world.turn()
    assert world.states() == {4: State.LOADING}
    assert world.workers.take() == []
    assert not world.catalogue.is_idle()
    assert world.default() == 4
    message = world.load()
    assert (message.name, message.version) == ("m", 4)
    assert message.model_file == str(base / "4" / "model.onnx")
    assert (message.settings.device, message.settings.nireq) == ("CPU", 3)
    assert (message.settings.max_queue_tasks, message.settings.max_queue_bytes) == (7, 3 << 20)
    assert world.states() == {4: State.LOADING}
    assert world.versions()[4].endpoints == ()
    world.answer(message.handle)

    assert world.catalogue.is_changed
    assert world.catalogue.is_settled()
    assert world.versions()[4] == VersionRecord(
        version=4,
        state=30,
        error_code=0,
        error_message="",
        handle=message.handle,
        endpoints=("ipc://@w0",),
        nireq=2,
        detail="nireq=2",
        inputs=INPUTS,
        outputs=OUTPUTS,
        counters=1,
    )


def test_nothing_changes_while_nothing_happens(world: World) -> None:
    epoch, changes = world.epoch, world.catalogue.changes
    for _ in range(3):
        assert world.turn() is None

    assert (world.epoch, world.catalogue.changes) == (epoch, changes)
    assert world.workers.take() == []
    assert not world.trials.waiting


def test_a_version_that_is_being_copied_is_start_until_it_has_settled(base: Path, clock: Clock) -> None:
    put(base, 1)
    world = World(clock, model(base), settle_s=0.5)
    moment = world.turn()
    assert moment is not None
    assert clock.now < moment <= clock.now + 0.5
    assert world.states() == {1: State.START}
    assert world.default() == 1
    assert world.catalogue.is_idle()
    assert not world.catalogue.is_settled()
    put(base, 1, content=b"more")
    clock.now = moment
    world.turn()
    assert world.states() == {1: State.START}
    clock.now += 0.5
    world.serve()

    assert world.states() == {1: State.AVAILABLE}
    assert world.catalogue.is_settled()


def test_a_copy_that_nobody_will_want_is_not_shown_nor_waited_for(base: Path, clock: Clock) -> None:
    world = World(clock, model(base), settle_s=0.5)
    put(base, 5)
    world.turn()
    clock.now += 0.5
    world.serve()
    put(base, 2)
    moment = world.turn()

    assert world.states() == {5: State.AVAILABLE}
    assert world.catalogue.is_settled()
    assert moment is not None


def test_a_copy_that_stops_and_vanishes_ends(base: Path, clock: Clock) -> None:
    put(base, 1)
    world = World(clock, model(base), settle_s=0.5)
    world.turn()
    remove(base, 1)
    world.turn()

    assert world.states() == {1: State.END}
    assert world.catalogue.is_settled()


def test_a_version_that_changes_while_it_is_tried_is_begun_anew(base: Path, clock: Clock) -> None:
    put(base, 1)
    world = World(clock, model(base), settle_s=0.5)
    world.turn()
    clock.now += 0.5
    world.turn()
    first = world.trials.one()
    put(base, 1, content=b"more")
    world.turn()
    assert first.handle in world.trials.withdrawn
    assert not world.catalogue.is_settled()
    clock.now += 0.5
    message = world.serve()

    assert message.handle != first.handle
    assert world.states() == {1: State.AVAILABLE}
    assert world.catalogue.is_settled()


def test_a_version_that_changes_and_vanishes_while_it_is_loaded_ends(base: Path, clock: Clock) -> None:
    put(base, 1)
    world = World(clock, model(base), settle_s=0.5)
    world.turn()
    clock.now += 0.5
    world.turn()
    message = world.load()
    put(base, 1, content=b"more")
    world.turn()
    remove(base, 1)
    world.turn()
    assert world.states() == {1: State.UNLOADING}
    world.answer(message.handle)
    assert world.end_unloads() == [message.handle]

    assert world.states() == {1: State.END}
    assert world.catalogue.is_settled()


def test_without_a_worker_the_load_waits_for_it(base: Path, clock: Clock) -> None:
    put(base, 1)
    world = World(clock, model(base))
    world.workers.devices.clear()
    world.turn()
    (deployment,) = world.books
    assert not world.trials.waiting
    assert world.workers.take() == []
    assert world.states() == {1: State.LOADING}
    world.arrive("w7")

    assert world.workers.take() == [("w7", "load", deployment.handle)]


def test_devices_are_those_of_the_models_in_their_order(base: Path, clock: Clock) -> None:
    world = World(
        clock, model(base, name="b", device="GPU"), model(base, name="a"), model(base, name="c", device="GPU")
    )

    assert world.catalogue.devices() == ("GPU", "CPU")
    assert [config.name for config in world.catalogue.configs] == ["b", "a", "c"]
    assert world.catalogue.devices_in_use() == set()


# Versions come and go.


def test_the_old_version_is_unloaded_only_when_all_fronts_route_to_the_new_one(
    world: World, base: Path
) -> None:
    put(base, 2)
    world.turn()
    assert world.states() == {1: State.AVAILABLE, 2: State.LOADING}
    assert world.default() == 1
    second = world.load()
    world.answer(second.handle)
    assert world.states() == {1: State.AVAILABLE, 2: State.AVAILABLE}
    assert world.default() == 2
    assert world.is_plan_due
    world.plan()
    world.publish()
    assert world.states() == {1: State.UNLOADING, 2: State.AVAILABLE}
    assert world.versions()[1].endpoints == ()
    assert world.workers.take() == []
    assert not world.catalogue.is_settled()
    world.apply()
    assert world.end_unloads() == [1]

    assert world.states() == {1: State.END, 2: State.AVAILABLE}
    assert world.catalogue.is_settled()


def test_a_version_that_has_gone_from_disk_serves_until_another_does(world: World, base: Path) -> None:
    put(base, 2)
    second = world.serve()
    world.end_unloads()
    remove(base, 2)
    world.turn()
    assert world.states() == {1: State.LOADING, 2: State.AVAILABLE}
    assert world.default() == 2
    first = world.load()
    world.answer(first.handle)
    world.turn()
    assert world.default() == 1
    assert world.end_unloads() == [second.handle]

    assert world.states() == {1: State.AVAILABLE, 2: State.END}


def test_the_last_version_that_goes_from_disk_is_unloaded_and_stays_listed(world: World, base: Path) -> None:
    remove(base, 1)
    world.turn()
    assert world.states() == {1: State.UNLOADING}
    assert world.default() == 0
    assert world.end_unloads() == [1]

    assert world.states() == {1: State.END}
    assert world.versions()[1].endpoints == ()
    assert world.catalogue.devices_in_use() == set()


def test_a_directory_that_comes_back_is_loaded_again(world: World, base: Path) -> None:
    remove(base, 1)
    world.turn()
    world.end_unloads()
    put(base, 1)
    again = world.serve()

    assert again.handle != 1
    assert world.states() == {1: State.AVAILABLE}


def test_a_directory_that_comes_back_before_it_was_unloaded_is_loaded_after_that(
    world: World, base: Path
) -> None:
    remove(base, 1)
    world.turn()
    put(base, 1)
    world.turn()
    assert world.states() == {1: State.UNLOADING}
    assert world.end_unloads() == [1]
    assert world.states() == {1: State.LOADING}
    world.answer(world.load().handle)

    assert world.states() == {1: State.AVAILABLE}


def test_a_copy_over_an_ended_version_is_start(world: World, base: Path, clock: Clock) -> None:
    remove(base, 1)
    world.turn()
    world.end_unloads()
    world.look_anew(0.5)
    put(base, 1)
    world.turn()
    assert world.states() == {1: State.START}
    clock.now += 0.5
    world.serve()

    assert world.states() == {1: State.AVAILABLE}


def test_a_version_that_nobody_wants_while_it_is_tried_is_withdrawn(world: World, base: Path) -> None:
    put(base, 2)
    world.turn()
    trial = world.trials.one()
    remove(base, 2)
    world.turn()

    assert world.trials.withdrawn == [trial.handle]
    assert world.states() == {1: State.AVAILABLE, 2: State.END}
    assert world.catalogue.is_settled()
    assert [deployment.version for deployment in world.books] == [1]


def test_a_version_that_nobody_wants_while_it_is_loaded_is_unloaded_afterwards(
    world: World, base: Path
) -> None:
    put(base, 2)
    world.turn()
    message = world.load()
    remove(base, 2)
    world.turn()
    assert world.states() == {1: State.AVAILABLE, 2: State.UNLOADING}
    assert not world.catalogue.is_settled()
    world.answer(message.handle)
    assert world.end_unloads() == [message.handle]

    assert world.states() == {1: State.AVAILABLE, 2: State.END}
    assert world.catalogue.is_settled()


def test_a_look_that_fails_takes_nothing_away(world: World, base: Path, clock: Clock) -> None:
    base.rename(base.with_name("away"))
    base.symlink_to(base)
    moment = world.turn()

    assert moment is not None
    assert clock.now < moment <= clock.now + 10
    assert world.states() == {1: State.AVAILABLE}


# Loads that fail.


def test_a_failed_load_says_why_and_is_tried_again_with_growing_patience(base: Path, clock: Clock) -> None:
    put(base, 1)
    world = World(clock, model(base))
    delays = []
    for number in range(9):
        world.turn()
        # The last reason stays while it is tried again; there is no next try then.
        assert (world.versions()[1].is_coming, world.versions()[1].retry_at_ns) == (True, 0)
        assert world.versions()[1].error_message == ("it is no model" if number else "")
        world.fail("it is no model")
        record = world.versions()[1]
        assert (record.state, record.error_code, record.error_message) == (20, 2, "it is no model")
        assert world.catalogue.is_settled()
        moment = world.turn()
        assert not world.trials.waiting
        assert moment is not None
        assert (world.versions()[1].retry_at_ns, record.is_coming) == (int(moment * 1e9), False)
        delays.append(moment - clock.now)
        clock.now = moment - 0.01
        world.turn()
        assert not world.trials.waiting
        clock.now = moment

    assert delays == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_load_that_fails_at_the_worker_is_the_same(base: Path, clock: Clock) -> None:
    put(base, 1)
    world = World(clock, model(base))
    world.turn()
    message = world.load()
    world.books.state_changed("w0", load_failed(message.handle, "out of memory"))

    assert world.versions()[1].error_message == "out of memory"
    assert world.turn() == clock.now + 1
    assert world.catalogue.last_failure == ErrorRecord("ModelLoadFailed", "model=m version=1: out of memory")


def test_success_forgets_the_failures(base: Path, clock: Clock) -> None:
    put(base, 1)
    world = World(clock, model(base))
    world.turn()
    world.fail()
    clock.now += 1
    world.serve()
    assert world.versions()[1].error_message == ""
    remove(base, 1)
    world.turn()
    world.end_unloads()
    put(base, 1)
    world.turn()
    world.fail()

    assert world.turn() == clock.now + 1


def test_a_version_that_was_mended_is_tried_at_once(base: Path, clock: Clock) -> None:
    put(base, 1, content=b"broken")
    world = World(clock, model(base))
    for _ in range(5):
        clock.now += 20
        world.turn()
        world.fail()
    world.turn()
    assert not world.trials.waiting
    put(base, 1, content=b"mended")
    world.serve()

    assert world.states() == {1: State.AVAILABLE}


def test_a_broken_newest_leaves_the_old_one_serving(world: World, base: Path, clock: Clock) -> None:
    put(base, 2)
    world.turn()
    world.fail("corrupt")
    assert world.turn() == clock.now + 1
    assert world.states() == {1: State.AVAILABLE, 2: State.LOADING}
    assert world.versions()[2].error_message == "corrupt"
    assert world.default() == 1
    assert world.workers.take() == []
    clock.now += 1
    world.serve()

    assert world.states() == {1: State.UNLOADING, 2: State.AVAILABLE}
    assert world.default() == 2


def test_a_broken_newest_falls_back_to_the_one_below(base: Path, clock: Clock) -> None:
    put(base, 1, 2)
    world = World(clock, model(base))
    world.turn()
    world.fail()
    fallback = world.serve()

    assert fallback.version == 1
    assert world.default() == 1
    assert world.turn() == clock.now + 1


def test_a_failed_version_that_leaves_the_disk_ends(base: Path, clock: Clock) -> None:
    put(base, 1)
    world = World(clock, model(base))
    world.turn()
    world.fail()
    assert world.default() == 1
    remove(base, 1)
    assert world.turn() is None

    assert world.states() == {1: State.END}
    assert world.versions()[1].error_message == ""
    assert world.default() == 0


def test_a_device_that_has_no_worker_fails_what_waits_for_it(base: Path, clock: Clock) -> None:
    put(base / "a", 1)
    put(base / "b", 1)
    world = World(clock, model(base / "a", name="a", device="NPU"), model(base / "b", name="b"))
    world.turn()
    world.end_trial()
    world.catalogue.device_failed("NPU", "no NPU; here are CPU")
    record = world.versions("a")[1]
    assert (record.state, record.error_code, record.error_message) == (20, 2, "no NPU; here are CPU")
    assert world.states("b") == {1: State.LOADING}
    assert world.catalogue.last_failure is not None
    assert world.catalogue.last_failure.name == "DeviceUnavailable"

    assert world.turn() == clock.now + 60


def test_a_device_whose_worker_cannot_be_started_again_fails_what_served_there(world: World) -> None:
    # Its worker has died, and its role was given up: nothing will come back by itself.
    world.lose()
    assert world.states() == {1: State.LOADING}
    world.catalogue.device_failed("CPU", "no inference worker can be started")

    assert world.versions()[1].error_message == "no inference worker can be started"
    assert world.catalogue.is_settled()


# Workers come and go.


def test_a_lost_worker_takes_its_versions_back_to_loading_and_a_new_one_gets_them(world: World) -> None:
    world.lose()
    assert world.catalogue.is_changed
    record = world.versions()[1]
    assert (record.state, record.endpoints, record.error_message) == (20, (), "")
    # Clients may still ask for its metadata, and wait for it.
    assert record.inputs == INPUTS
    assert world.default() == 1
    assert not world.catalogue.is_idle()
    world.turn()
    world.arrive("w1")
    (message,) = world.workers.loads()
    world.answer(message.handle, "w1")

    assert world.versions()[1].endpoints == ("ipc://@w1",)
    assert world.states() == {1: State.AVAILABLE}
    assert world.catalogue.is_idle()


def test_one_of_two_workers_dies_and_the_version_stays_available(base: Path, clock: Clock) -> None:
    put(base, 1)
    world = World(clock, model(base))
    world.workers.devices = {"w0": "CPU", "w1": "CPU"}
    world.turn()
    deployment = world.end_trial()
    world.answer(deployment.handle, "w0")
    assert world.states() == {1: State.LOADING}
    world.answer(deployment.handle, "w1")
    assert world.versions()[1].endpoints == ("ipc://@w0", "ipc://@w1")
    world.lose("w0")

    assert world.versions()[1].endpoints == ("ipc://@w1",)
    assert world.states() == {1: State.AVAILABLE}


def test_a_version_whose_workers_are_all_past_routing_is_not_called_available(world: World) -> None:
    # The successor of a worker that leaves has died; the one that leaves still answers, but is not routed to.
    world.arrive("w1")
    world.answer(1, "w1")
    world.workers.devices["w0"] = "left"
    world.lose("w1")
    world.catalogue.records()

    assert bool(world.versions()[1].endpoints) == (world.states()[1] is State.AVAILABLE)


def test_only_the_lost_workers_device_is_affected(base: Path, clock: Clock) -> None:
    put(base / "a", 1)
    put(base / "b", 1)
    world = World(clock, model(base / "a", name="a"), model(base / "b", name="b", device="GPU"))
    world.workers.devices["gpu"] = "GPU"
    world.turn()
    world.answer(world.end_trial().handle)
    world.answer(world.end_trial().handle, "gpu")
    world.lose("gpu")

    assert world.states("a") == {1: State.AVAILABLE}
    assert world.states("b") == {1: State.LOADING}


def test_what_a_lost_worker_was_unloading_is_gone(world: World, base: Path) -> None:
    remove(base, 1)
    world.turn()
    assert world.states() == {1: State.UNLOADING}
    world.lose()
    assert world.states() == {1: State.END}
    world.workers.take()
    world.arrive("w1")
    world.turn()

    assert world.workers.take() == []


def test_a_version_whose_worker_is_dead_can_be_taken_away(world: World, base: Path) -> None:
    world.lose()
    remove(base, 1)
    world.turn()

    assert world.states() == {1: State.END}
    assert world.catalogue.is_settled()
    assert list(world.books) == []


def test_a_version_that_kills_two_workers_in_its_first_load_has_failed(base: Path, clock: Clock) -> None:
    put(base, 1)
    world = World(clock, model(base))
    world.turn()
    world.load()
    world.lose("w0", "killed by signal 11 (SIGSEGV)")
    assert world.versions()[1].error_message == ""
    world.arrive("w1")
    world.lose("w1", "killed by signal 11 (SIGSEGV)")
    record = world.versions()[1]
    assert (record.state, record.error_code) == (20, 2)
    assert record.error_message == (
        "the inference worker died while loading it: killed by signal 11 (SIGSEGV)"
    )
    assert world.catalogue.is_settled()

    # Others pay for each try, so the first is a minute away.
    assert world.turn() == clock.now + 60
    clock.now += 60
    world.turn()
    assert world.trials.one().version == 1


def test_what_served_and_cannot_be_loaded_again_has_failed_and_is_tried_again(
    world: World, clock: Clock
) -> None:
    world.lose()
    world.arrive("w1")
    (message,) = world.workers.loads()
    world.books.state_changed("w1", load_failed(message.handle, "gone"))
    assert world.versions()[1].error_message == "gone"
    assert world.catalogue.is_settled()
    clock.now += 1
    world.turn()
    world.answer(world.load().handle, "w1")

    assert world.states() == {1: State.AVAILABLE}


# Without watching.


def test_without_watching_only_who_asks_is_shown_something_new(base: Path, clock: Clock) -> None:
    put(base, 1)
    world = World(clock, model(base), is_watching=False)
    world.serve()
    put(base, 2)
    for _ in range(3):
        world.turn()
    assert world.states() == {1: State.AVAILABLE}
    world.serve(is_asked=True)

    assert world.states() == {1: State.UNLOADING, 2: State.AVAILABLE}


def test_without_watching_a_failed_load_is_still_tried_again(base: Path, clock: Clock) -> None:
    put(base, 1)
    world = World(clock, model(base), is_watching=False)
    world.turn()
    world.fail()
    clock.now += 1
    world.serve()

    assert world.states() == {1: State.AVAILABLE}


# The default version.


def test_the_default_is_the_highest_available_then_the_highest_coming_back(base: Path, clock: Clock) -> None:
    put(base, 1, 2, 3)
    world = World(clock, model(base, All()))
    assert world.default() == 0
    world.turn()
    assert world.default() == 3
    one, two, _ = list(world.trials.waiting)
    world.end_trial()
    world.answer(one.handle)
    assert world.default() == 1
    world.end_trial()
    world.fail()
    world.answer(two.handle)
    assert world.default() == 2
    world.lose()

    # Not 3, which has failed, but 2, which was served a moment ago.
    assert world.default() == 2


def test_when_all_have_failed_the_highest_says_why(base: Path, clock: Clock) -> None:
    put(base, 1, 2)
    world = World(clock, model(base, All()))
    world.turn()
    world.fail()
    world.fail()

    assert world.default() == 2
