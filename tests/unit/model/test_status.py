# SPDX-License-Identifier: Apache-2.0
"""The status machine, arrow by arrow, against the diagram of its docstring."""

from __future__ import annotations

import itertools

import pytest

from ovms_mp.model.status import IllegalTransition, State, VersionStatus

ARROWS = {
    (State.START, State.LOADING),
    (State.START, State.END),  # Given up before it was begun.
    (State.LOADING, State.START),  # A failed load is tried again.
    (State.LOADING, State.LOADING),  # Its worker died; the successor loads it.
    (State.LOADING, State.AVAILABLE),
    (State.LOADING, State.UNLOADING),
    (State.LOADING, State.END),  # Nobody wants it any more.
    (State.AVAILABLE, State.LOADING),  # Its worker died.
    (State.AVAILABLE, State.UNLOADING),
    (State.UNLOADING, State.END),
    (State.END, State.START),  # The directory came back.
}


def test_states_are_tensorflow_servings() -> None:
    assert {state.name: int(state) for state in State} == {
        "START": 10,
        "LOADING": 20,
        "AVAILABLE": 30,
        "UNLOADING": 40,
        "END": 50,
    }


@pytest.mark.parametrize(("before", "after"), list(itertools.product(State, State)))
def test_transition(before: State, after: State) -> None:
    status = VersionStatus(7, before, 2, "why")

    if (before, after) in ARROWS:
        assert status.to(after) == VersionStatus(7, after, 0, "")
    else:
        with pytest.raises(IllegalTransition, match=f"version 7: {before.name} -> {after.name}"):
            status.to(after)


def test_a_version_begins_without_an_error() -> None:
    assert VersionStatus(3) == VersionStatus(3, State.START, 0, "")


@pytest.mark.parametrize("state", [State.LOADING, State.AVAILABLE])
def test_a_failed_load_stays_loading_with_code_unknown(state: State) -> None:
    failed = VersionStatus(3, state).failed("no such file")

    assert failed == VersionStatus(3, State.LOADING, 2, "no such file")


def test_a_failure_is_never_without_words() -> None:
    assert VersionStatus(3, State.LOADING).failed("").error_message == "load failed"


def test_a_retry_forgets_the_error() -> None:
    again = VersionStatus(3, State.LOADING).failed("x").to(State.START).to(State.LOADING)

    assert (again.error_code, again.error_message) == (0, "")
