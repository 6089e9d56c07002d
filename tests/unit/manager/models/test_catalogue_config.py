# SPDX-License-Identifier: Apache-2.0
"""Files and configuration change under what serves. See :mod:`.world`."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovms_mp.config.model import RefusedModel
from ovms_mp.model.status import State
from ovms_mp.model.versions import All, Specific
from ovms_mp.wire.records import ErrorRecord

from ..fakes import Clock, load_failed
from ..world import World, model, put, remove

pytestmark = pytest.mark.usefixtures("clock")


# Files that change in place.


def test_files_that_change_under_a_served_version_are_told_and_not_loaded(
    world: World, base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(base, 1, content=b"other")
    world.turn()
    world.turn()
    record = world.versions()[1]

    assert (record.state, record.error_code) == (30, 0)
    assert "changed on disk" in record.error_message
    assert caplog.text.count("event=changed_on_disk") == 1
    assert not world.trials.waiting
    assert world.catalogue.is_settled()


def test_when_they_are_put_back_the_note_goes(world: World, base: Path, tmp_path: Path) -> None:
    base.joinpath("1").rename(tmp_path / "kept")
    put(base, 1, content=b"other")
    world.turn()
    assert world.versions()[1].error_message
    remove(base, 1)
    (tmp_path / "kept").rename(base / "1")
    world.turn()

    assert world.versions()[1].error_message == ""


def test_who_asks_has_them_loaded_beside_what_serves(world: World, base: Path) -> None:
    put(base, 1, content=b"other")
    world.turn()
    world.turn(is_asked=True)
    assert world.states() == {1: State.AVAILABLE}
    assert world.versions()[1].handle == 1
    assert not world.catalogue.is_settled()
    message = world.load()
    world.answer(message.handle)
    assert world.versions()[1].handle == message.handle
    assert world.versions()[1].error_message == ""
    world.turn()
    assert world.end_unloads() == [1]

    assert world.catalogue.is_settled()


def test_who_asks_while_they_are_still_being_copied_has_them_when_they_have_settled(
    world: World, base: Path, clock: Clock
) -> None:
    world.look_anew(0.5)
    put(base, 1, content=b"half")
    world.turn(is_asked=True)
    assert not world.trials.waiting
    assert not world.catalogue.is_settled()
    assert world.states() == {1: State.AVAILABLE}
    put(base, 1, content=b"halfwhole")
    world.turn()
    clock.now += 0.5
    world.turn()
    message = world.load()
    world.answer(message.handle)

    assert world.versions()[1].handle == message.handle


def test_who_asked_is_not_taken_to_ask_for_later_changes(world: World, base: Path) -> None:
    world.turn(is_asked=True)
    assert world.catalogue.is_settled()
    put(base, 1, content=b"other")
    world.turn()

    assert not world.trials.waiting
    assert "changed on disk" in world.versions()[1].error_message


def test_a_version_that_is_copied_anew_while_asked_and_then_vanishes_goes(world: World, base: Path) -> None:
    world.look_anew(0.5)
    put(base, 1, content=b"half")
    world.turn(is_asked=True)
    remove(base, 1)
    world.turn()

    assert world.end_unloads() == [1]
    assert world.states() == {1: State.END}
    assert world.catalogue.is_settled()


def test_what_was_changed_and_cannot_be_loaded_leaves_what_serves(
    world: World, base: Path, clock: Clock
) -> None:
    put(base, 1, content=b"broken")
    world.turn(is_asked=True)
    world.fail("no model")
    world.turn()
    record = world.versions()[1]

    assert (record.state, record.error_code, record.handle) == (30, 0, 1)
    assert record.error_message == "loading it anew failed, what was loaded before goes on serving: no model"
    assert world.catalogue.is_settled()
    assert world.catalogue.last_failure is not None


# The configuration changes.


def test_other_settings_are_loaded_beside_what_serves(world: World, base: Path) -> None:
    world.configure(model(base, nireq=5))
    world.turn()
    assert world.states() == {1: State.AVAILABLE}
    assert world.versions()[1].handle == 1
    message = world.load()
    assert message.settings.nireq == 5
    world.answer(message.handle)
    record = world.versions()[1]
    assert (record.state, record.handle) == (30, message.handle)
    world.turn()
    assert world.end_unloads() == [1]

    assert world.states() == {1: State.AVAILABLE}
    assert world.catalogue.is_settled()


def test_what_is_replaced_is_unloaded_only_when_all_fronts_route_to_its_successor(
    world: World, base: Path
) -> None:
    world.configure(model(base, nireq=5))
    world.turn()
    message = world.load()
    # Something else was published since the last plan, and the fronts have applied all of it.
    world.catalogue.note_news()
    world.publish()
    world.apply()
    world.answer(message.handle)
    world.publish()
    assert world.workers.take() == [], "fronts still route to it"
    world.apply()

    assert world.workers.take() == [("w0", "unload", 1)]


def test_settings_that_do_not_load_leave_what_serves_and_are_tried_again(
    world: World, base: Path, clock: Clock
) -> None:
    world.configure(model(base, nireq=5))
    world.turn()
    world.fail("too many")
    record = world.versions()[1]
    assert (record.state, record.error_code, record.handle) == (30, 0, 1)
    assert "too many" in record.error_message
    assert world.catalogue.is_settled()
    assert world.turn() == clock.now + 1
    clock.now += 1
    message = world.serve()

    assert world.versions()[1].handle == message.handle
    assert world.versions()[1].error_message == ""


def test_settings_that_are_taken_back_leave_no_complaint(world: World, base: Path) -> None:
    world.configure(model(base, nireq=5))
    world.turn()
    world.fail("too many")
    world.configure(model(base))
    world.turn()

    assert world.versions()[1].error_message == ""
    assert not world.trials.waiting
    assert world.catalogue.is_settled()


def test_settings_that_change_again_while_they_are_tried_are_tried_anew(world: World, base: Path) -> None:
    world.configure(model(base, nireq=5))
    world.turn()
    first = world.trials.one()
    world.configure(model(base, nireq=6))
    world.turn()
    assert world.trials.withdrawn == [first.handle]
    assert world.trials.one().settings.nireq == 6
    message = world.load()
    world.answer(message.handle)
    world.turn()
    world.end_unloads()

    assert world.catalogue.is_settled()
    assert [deployment.handle for deployment in world.books] == [message.handle]


def test_settings_that_are_taken_back_while_they_are_tried_are_dropped(world: World, base: Path) -> None:
    world.configure(model(base, nireq=5))
    world.turn()
    world.configure(model(base))
    world.turn()

    assert not world.trials.waiting
    assert world.catalogue.is_settled()
    assert [deployment.handle for deployment in world.books] == [1]


def test_settings_that_change_while_the_first_load_goes_on(base: Path, clock: Clock) -> None:
    put(base, 1)
    world = World(clock, model(base))
    world.turn()
    first = world.load()
    world.configure(model(base, nireq=5))
    world.turn()
    second = world.load()
    assert second.settings.nireq == 5
    world.answer(first.handle)
    world.answer(second.handle)
    assert world.versions()[1].handle == second.handle
    world.turn()
    assert world.end_unloads() == [first.handle]

    assert world.states() == {1: State.AVAILABLE}
    assert world.catalogue.is_settled()


def test_settings_that_change_after_a_failure_are_tried_at_once(base: Path, clock: Clock) -> None:
    put(base, 1)
    world = World(clock, model(base, nireq=5))
    world.turn()
    world.fail("too many")
    world.configure(model(base))
    world.serve()

    assert world.states() == {1: State.AVAILABLE}


def test_settings_that_change_while_the_worker_is_dead_come_after_it_is_back(
    world: World, base: Path
) -> None:
    world.lose()
    world.configure(model(base, nireq=5))
    world.turn()
    world.arrive("w1")
    world.workers.take()
    world.answer(1, "w1")
    world.turn()
    message = world.load()
    world.answer(message.handle, "w1")
    world.turn()

    assert world.versions()[1].handle == message.handle
    assert world.end_unloads() == [1]


def test_what_serves_dies_for_good_while_its_successor_is_on_its_way(
    world: World, base: Path, clock: Clock
) -> None:
    world.configure(model(base, nireq=5))
    world.turn()
    coming = world.trials.one()
    world.lose()
    world.arrive("w1")
    world.books.state_changed("w1", load_failed(1, "gone"))
    clock.now += 120
    world.turn()
    # The one that is on its way is not begun a second time beside itself.
    assert world.trials.one() is coming
    world.workers.take()
    world.end_trial()
    world.answer(coming.handle, "w1")
    world.turn()

    assert world.versions()[1].handle == coming.handle
    assert world.states() == {1: State.AVAILABLE}
    assert world.catalogue.is_settled()
    assert [deployment.handle for deployment in world.books] == [coming.handle]


def test_another_device_is_loaded_there_before_it_leaves_here(world: World, base: Path) -> None:
    world.workers.devices["gpu"] = "GPU"
    world.configure(model(base, device="GPU"))
    assert world.catalogue.devices() == ("GPU",)
    world.turn()
    assert world.catalogue.devices_in_use() == {"CPU", "GPU"}
    deployment = world.end_trial()
    assert world.workers.take() == [("gpu", "load", deployment.handle)]
    world.answer(deployment.handle, "gpu")
    assert world.versions()[1].endpoints == ("ipc://@gpu",)
    world.turn()
    assert world.end_unloads() == [1]

    assert world.catalogue.devices_in_use() == {"GPU"}


def test_another_base_path_is_loaded_before_the_old_one_goes(world: World, tmp_path: Path) -> None:
    put(tmp_path / "other", 1, content=b"other")
    world.configure(model(tmp_path / "other"))
    world.turn()
    assert world.states() == {1: State.AVAILABLE}
    message = world.load()
    assert message.model_file.startswith(str(tmp_path / "other"))
    world.answer(message.handle)
    world.turn()

    assert world.end_unloads() == [1]


def test_another_base_path_with_other_versions_is_a_switch(world: World, tmp_path: Path) -> None:
    put(tmp_path / "other", 7)
    world.configure(model(tmp_path / "other"))
    world.turn()
    assert world.states() == {1: State.AVAILABLE, 7: State.LOADING}
    world.answer(world.load().handle)
    world.turn()
    assert world.end_unloads() == [1]

    assert world.states() == {1: State.END, 7: State.AVAILABLE}


def test_another_policy_loads_before_it_unloads(world: World, base: Path) -> None:
    put(base, 2)
    world.serve()
    world.end_unloads()
    world.configure(model(base, Specific(frozenset({1}))))
    world.turn()
    assert world.states() == {1: State.LOADING, 2: State.AVAILABLE}
    world.answer(world.load().handle)
    world.turn()
    assert world.end_unloads() == [2]

    assert world.states() == {1: State.AVAILABLE, 2: State.END}


def test_a_policy_that_wants_more_leaves_what_serves_alone(world: World, base: Path) -> None:
    put(base, 2)
    world.serve()
    world.end_unloads()
    world.configure(model(base, All()))
    first = world.serve()

    assert (first.version, world.states()) == (1, {1: State.AVAILABLE, 2: State.AVAILABLE})
    assert world.workers.take() == []


def test_a_removed_model_is_unloaded_and_then_unknown(world: World) -> None:
    world.configure()
    world.turn()
    assert world.states() == {1: State.UNLOADING}
    assert world.catalogue.configs == []
    assert world.catalogue.devices() == ()
    assert world.end_unloads() == [1]

    assert world.catalogue.records() == ()
    assert world.catalogue.is_settled()


@pytest.mark.parametrize("step", ["arriving", "trying", "loading", "failed", "worker dead"])
def test_a_model_can_be_removed_at_any_moment(base: Path, step: str, clock: Clock) -> None:
    put(base, 1)
    world = World(clock, model(base), settle_s=0.5 if step == "arriving" else 0.0)
    world.turn()
    if step == "failed":
        world.fail()
    elif step in ("loading", "worker dead"):
        message = world.load()
        if step == "worker dead":
            world.answer(message.handle)
            world.lose()
    world.configure()
    world.turn()
    if step == "loading":
        world.answer(message.handle)
        world.end_unloads()
    world.turn()

    assert world.catalogue.records() == ()
    assert list(world.books) == []
    assert not world.trials.waiting
    assert world.catalogue.is_settled()


def test_a_model_that_comes_back_before_it_was_unloaded_is_loaded_after_that(
    world: World, base: Path
) -> None:
    world.configure()
    world.turn()
    world.configure(model(base))
    world.turn()
    assert world.end_unloads() == [1]
    world.answer(world.load().handle)

    assert world.states() == {1: State.AVAILABLE}
    assert world.catalogue.is_settled()


def test_a_new_model_is_loaded_and_others_are_left_alone(world: World, base: Path, tmp_path: Path) -> None:
    put(tmp_path / "b", 1)
    world.configure(model(base), model(tmp_path / "b", name="b"))
    message = world.serve()

    assert message.name == "b"
    assert world.versions()[1].handle == 1
    assert world.workers.take() == []


def test_the_same_configuration_changes_nothing(world: World, base: Path) -> None:
    changes = world.catalogue.changes
    world.configure(model(base))
    world.turn()

    assert world.catalogue.changes == changes


def test_a_failure_to_look_at_one_model_does_not_keep_others(
    world: World, base: Path, tmp_path: Path
) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    put(base, 2)
    world.configure(model(loop, name="a"), model(base))
    world.serve()

    assert world.states()[2] is State.AVAILABLE
    assert world.states("a") == {}


# Entries that are refused.


def refused(name: str, text: str = "it is wrong") -> RefusedModel:
    return RefusedModel(name, ("in full",), text)


def test_a_refused_entry_leaves_its_model_as_it_was(world: World) -> None:
    world.catalogue.reconfigure((), [refused("m"), refused("n")])
    world.turn()
    record = world.versions()[1]
    assert (record.state, record.error_code) == (State.AVAILABLE, 0)
    assert record.error_message == "its entry in the configuration file is refused: it is wrong"
    m, n = world.catalogue.records()
    assert (m.name, n.name, n.default_version) == ("m", "n", 1)
    assert (n.versions[0].state, n.versions[0].error_code) == (State.LOADING, 2)
    assert n.versions[0].error_message == "its entry in the configuration file is refused: it is wrong"


def test_a_model_that_the_file_does_not_name_goes_unless_the_whole_file_is_refused(
    world: World, base: Path
) -> None:
    world.catalogue.reconfigure((), [refused("n")])
    world.turn()
    assert world.states() == {1: State.AVAILABLE}
    other = model(base.with_name("o"), name="o")
    world.catalogue.reconfigure([other], [refused("n")])
    assert [config.name for config in world.catalogue.configs] == ["o"]


def test_a_mended_entry_is_a_model_like_any_other(world: World, base: Path) -> None:
    world.catalogue.reconfigure([model(base)], [refused("n")])
    assert [record.name for record in world.catalogue.records()] == ["m", "n"]
    changes = world.catalogue.changes
    world.catalogue.reconfigure([model(base)], [])
    assert [record.name for record in world.catalogue.records()] == ["m"]
    assert world.catalogue.changes > changes


def test_the_same_refusal_again_is_no_change(world: World, base: Path) -> None:
    world.catalogue.reconfigure([model(base)], [refused("n")])
    changes = world.catalogue.changes
    world.catalogue.reconfigure([model(base)], [refused("n")])
    assert world.catalogue.changes == changes


def test_a_reason_has_paths_from_the_base_path_on_and_the_log_has_all(
    world: World, base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(base, 2)
    world.turn()
    (deployment,) = world.trials.waiting
    reason = f"cannot read {deployment.files.model_file}: see {base.parent}/x/lib.so"
    world.books.trial_ended(deployment.handle, ErrorRecord("ModelLoadFailed", reason), "")
    assert world.versions()[2].error_message == "cannot read 2/model.onnx: see lib.so"
    assert reason in caplog.text
