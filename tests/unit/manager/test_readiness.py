# SPDX-License-Identifier: Apache-2.0
"""When the server is ready, by both meanings of --ready_when."""

from __future__ import annotations

import pytest

from ovms_mp.manager.readiness import unready_reason
from ovms_mp.model.status import State
from ovms_mp.wire.records import ModelRecord, VersionRecord


def model(
    name: str, *states: State, endpoints: tuple[str, ...] = ("e",), is_wanted: bool = True
) -> ModelRecord:
    versions = tuple(
        VersionRecord(number, state, 0, "", number, endpoints, 1, "", (), ())
        for number, state in enumerate(states, 1)
    )
    return ModelRecord(name, 1, versions, is_wanted=is_wanted)


GOOD = model("good", State.END, State.AVAILABLE)
BAD = model("bad", State.LOADING)


@pytest.mark.parametrize("ready_when", ["loaded", "all"])
def test_nothing_is_ready_before_the_initial_load_is_over(ready_when: str) -> None:
    assert "still being loaded" in unready_reason(ready_when, [GOOD], has_loaded=False, has_fronts=True)
    assert not unready_reason(ready_when, [GOOD], has_loaded=True, has_fronts=True)
    assert not unready_reason(ready_when, [], has_loaded=True, has_fronts=True)


def test_a_failed_load_is_over() -> None:
    assert not unready_reason("loaded", [GOOD, BAD], has_loaded=True, has_fronts=True)


def test_all_names_what_is_missing() -> None:
    assert (
        unready_reason("all", [GOOD, BAD], has_loaded=True, has_fronts=True)
        == "models without an available version: 'bad' (--ready_when all)"
    )
    many = [model(f"m{number}") for number in range(12)]
    assert unready_reason("all", many, has_loaded=True, has_fronts=True).endswith(
        "'m9' and 2 more (--ready_when all)"
    )


def test_a_version_without_a_worker_is_not_available() -> None:
    assert "'gone'" in unready_reason(
        "all", [model("gone", State.AVAILABLE, endpoints=())], has_loaded=True, has_fronts=True
    )


def test_what_is_on_its_way_out_is_not_waited_for() -> None:
    leaving = model("leaving", State.UNLOADING, is_wanted=False)
    assert not unready_reason("all", [GOOD, leaving], has_loaded=True, has_fronts=True)


@pytest.mark.parametrize("ready_when", ["loaded", "all"])
def test_no_front_is_ready_before_all_are_there(ready_when: str) -> None:
    assert "still being started" in unready_reason(ready_when, [GOOD], has_loaded=True, has_fronts=False)
