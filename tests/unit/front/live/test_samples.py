# SPDX-License-Identifier: Apache-2.0
"""Rates and latencies out of counters that only grow."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from ovms_mp.front.live.processes import ProcessUse
from ovms_mp.front.live.samples import Sampler, quantile
from ovms_mp.front.live.state import MOST_VERSIONS
from ovms_mp.front.protobuf.turns import at_one_go
from ovms_mp.model.status import State
from ovms_mp.wire.call_counters import BOUNDS_NS, BUCKETS, REQUEST_TIME, call_word
from ovms_mp.wire.counters import CounterReader, CounterRow, create_counters_file, managers_row
from ovms_mp.wire.messages import RoutingSnapshot
from ovms_mp.wire.records import ModelRecord, VersionRecord
from ovms_mp.wire.version_counters import VersionCounters

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = 3
SNAPSHOT = RoutingSnapshot(
    1,
    False,
    (),
    (),
    (
        ModelRecord(
            "m", 1, (VersionRecord(1, State.AVAILABLE, 0, "", 1, ("a",), 2, "", (), (), counters=PAGE),)
        ),
    ),
)


class Place:
    """Counters of a front, and a clock that the test turns."""

    def __init__(self, *, has_metrics: bool) -> None:
        self.handle = create_counters_file(3)
        self.counters = VersionCounters(CounterRow(self.handle, 0), PAGE, has_metrics=has_metrics)
        self.worker = VersionCounters(CounterRow(self.handle, 1), PAGE, has_metrics=has_metrics)
        self.now_ns = 10**9
        self.cpu_ms = 0
        self.sampler = Sampler(
            CounterReader(self.handle),
            managers_row(self.handle),
            self.processes,
            lambda: self.now_ns,
            10**10,
            has_metrics=has_metrics,
        )

    def processes(self) -> Iterator[ProcessUse]:
        yield ProcessUse(7, "worker", "worker-0.1", self.cpu_ms, 1 << 20, 1 << 10, 5.9)

    def answer(self, took_ns: int, *, batch: int = 1) -> None:
        self.counters.begun()
        self.counters.answered(0, 0, 0, took_ns, took_ns // 4, took_ns // 2, batch)
        self.counters.infer_ended(call_word("Predict", "REST"), REQUEST_TIME["REST"], took_ns)
        self.worker.executed(batch, 1, took_ns // 2)

    def sample(self, after_s: float = 1.0) -> dict[str, Any]:
        self.now_ns += int(after_s * 1e9)
        return at_one_go(self.sampler.steps(SNAPSHOT))


@pytest.fixture
def place() -> Iterator[Place]:
    place = Place(has_metrics=True)
    yield place
    os.close(place.handle.descriptor)


def test_the_first_sample_has_no_rates(place: Place) -> None:
    place.answer(10**6)
    sample = place.sample()

    assert sample["elapsed_s"] == 0
    assert sample["processes"][0]["cores"] is None
    assert "answers_per_s" not in sample["versions"][0]
    assert "p50_ms" not in sample


def test_rates_are_of_the_time_between_samples(place: Place) -> None:
    place.answer(10**6)
    place.sample()
    for _ in range(10):
        place.answer(4 * 10**6, batch=3)
    place.counters.failed(5)
    place.cpu_ms = 1000
    sample = place.sample(2.0)

    (version,) = sample["versions"]
    assert (version["model"], version["version"], version["requests"]) == ("m", "1", 12)
    assert (version["answers_per_s"], version["failures_per_s"], version["batch"]) == (5.0, 0.5, 3.0)
    assert (version["mean_ms"], version["queue_ms"], version["infer_ms"]) == (4.0, 1.0, 2.0)
    assert (version["under_way"], version["running"]) == (0, 0)
    assert sample["processes"] == [
        {
            "pid": 7,
            "kind": "worker",
            "name": "worker-0.1",
            "cores": 0.5,
            "own_bytes": 1 << 20,
            "shared_bytes": 1 << 10,
            "age_s": 5,
        }
    ]


def test_latencies_are_of_the_last_seconds(place: Place) -> None:
    place.sample()
    for took_ns in [10**6] * 90 + [10**8] * 10:
        place.answer(took_ns)
    sample = place.sample()

    assert 0.5 < sample["p50_ms"] < 2
    assert 60 < sample["p99_ms"] < 200
    assert sample["versions"][0]["p50_ms"] == sample["p50_ms"]
    for _ in range(12):
        sample = place.sample()
    assert "p50_ms" not in sample


def test_a_second_after_a_while_without_any_is_a_first_one(place: Place) -> None:
    place.answer(10**6)
    place.sample()
    place.answer(10**6)
    sample = place.sample(60.0)

    assert sample["elapsed_s"] == 0
    assert "answers_per_s" not in sample["versions"][0]
    assert place.sample()["versions"][0]["answers_per_s"] == 0


def test_without_metrics_there_are_means() -> None:
    place = Place(has_metrics=False)
    place.answer(10**6)
    place.sample()
    place.answer(10**6)
    (version,) = place.sample()["versions"]
    os.close(place.handle.descriptor)

    assert version["mean_ms"] == 1.0
    assert "p50_ms" not in version
    assert "under_way" not in version


def test_a_version_that_nobody_has_asked_is_left_out(place: Place) -> None:
    assert place.sample()["versions"] == []


def test_a_version_that_was_loaded_again_begins_anew(place: Place) -> None:
    place.answer(10**6)
    place.sample()
    other = ModelRecord(
        "m", 1, (VersionRecord(1, State.AVAILABLE, 0, "", 1, ("a",), 2, "", (), (), counters=PAGE + 1),)
    )
    place.now_ns += 10**9
    sample = at_one_go(place.sampler.steps(RoutingSnapshot(2, False, (), (), (other,))))

    assert sample["versions"] == []


def test_a_quantile_lies_within_its_bucket() -> None:
    buckets = [0] * BUCKETS
    buckets[4] = 10

    assert BOUNDS_NS[3] < quantile(buckets, 1) < quantile(buckets, 9) < BOUNDS_NS[4]
    assert quantile(buckets, 10) == BOUNDS_NS[4]
    buckets[-1] = 1000
    assert quantile(buckets, 500) == BOUNDS_NS[-1]


def test_no_more_versions_are_looked_at_than_a_page_shows(place: Place) -> None:
    place.answer(10**6)
    record = VersionRecord(1, State.AVAILABLE, 0, "", 1, ("a",), 2, "", (), (), counters=PAGE)
    models = tuple(ModelRecord(f"m{number}", 1, (record,)) for number in range(MOST_VERSIONS + 1))
    sample = at_one_go(place.sampler.steps(RoutingSnapshot(1, False, (), (), models)))

    assert len(sample["versions"]) == MOST_VERSIONS
