# SPDX-License-Identifier: Apache-2.0
"""What has happened is told from one snapshot to the next, each thing once."""

from __future__ import annotations

from ovms_mp.front.live.history import LONGEST_TEXT, MOST_EVENTS, History, changes
from ovms_mp.model.status import State
from ovms_mp.wire.messages import RoutingSnapshot
from ovms_mp.wire.records import (
    ConfigRefusal,
    DeathRecord,
    ErrorRecord,
    ModelRecord,
    VersionRecord,
    WorkerRecord,
)

WORKER = WorkerRecord("worker-0", "CPU", 7, (0,), "ipc://a")


def version(state: State, *, error: str = "", number: int = 1) -> VersionRecord:
    return VersionRecord(number, state, 9 if error else 0, error, 1, (), 1, "", (), ())


def snapshot(*versions: VersionRecord, **changed: object) -> RoutingSnapshot:
    models = (ModelRecord("m", 1, versions),) if versions else ()
    return RoutingSnapshot(1, False, (WORKER,), (), models, **changed)  # type: ignore[arg-type]  # as the test says


def told(before: RoutingSnapshot, after: RoutingSnapshot) -> list[tuple[str, str]]:
    return [(level, text) for level, text, _ in changes(before, after)]


def test_nothing_happens_where_nothing_changes() -> None:
    same = snapshot(version(State.AVAILABLE))

    assert told(same, same) == []


def test_states_of_versions_are_told_with_the_state_before() -> None:
    before, after = snapshot(version(State.LOADING)), snapshot(version(State.AVAILABLE))

    assert told(before, after) == [("info", "m/1: LOADING → AVAILABLE")]
    assert told(snapshot(), before) == [("info", "m: is configured"), ("info", "m/1: LOADING")]
    assert told(after, snapshot()) == [("info", "m: is not configured any more")]


def test_a_failure_is_told_with_its_reason() -> None:
    failed = snapshot(version(State.LOADING, error="no such file"))

    assert told(snapshot(version(State.LOADING)), failed) == [("error", "m/1: has failed: no such file")]
    assert told(failed, failed) == []


def test_workers_end_and_begin() -> None:
    death = DeathRecord("ipc://a", "signal 11 (SIGSEGV)", True, ())
    successor = WorkerRecord("worker-0", "CPU", 8, (0,), "ipc://b")
    after = RoutingSnapshot(2, False, (successor,), (), (), deaths=(death,))

    assert told(snapshot(), after) == [
        ("error", "worker-0 has ended: signal 11 (SIGSEGV)"),
        ("info", "worker-0 runs on CPU (pid 8)"),
    ]


def test_the_configuration_and_readiness() -> None:
    refused = snapshot(config_refusal=ConfigRefusal(1.0, True, ErrorRecord("ConfigError", "line 3")))

    assert told(snapshot(), refused) == [("error", "the configuration file is refused: line 3")]
    assert told(refused, snapshot()) == [("info", "the configuration file is followed again")]
    assert told(snapshot(unready="loading"), snapshot()) == [("info", "ready")]
    assert told(snapshot(), snapshot(unready="lost")) == [("warning", "not ready: lost")]


def test_it_keeps_the_last_events_and_short_texts() -> None:
    history = History(lambda: 5.0)
    history.note(snapshot(version(State.LOADING)))
    assert not history.events

    for number in range(MOST_EVENTS + 1):
        history.note(snapshot(version(State.LOADING, error=f"{number} " + "x\n" * LONGEST_TEXT)))
        history.note(snapshot(version(State.LOADING)))

    assert len(history.events) == MOST_EVENTS
    assert all(len(event.text) <= LONGEST_TEXT and "\n" not in event.text for event in history.events)
    assert {event.at_s for event in history.events} == {5.0}
