# SPDX-License-Identifier: Apache-2.0
"""OVMS's families: which series there are, and that they are what was counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ovms_mp.front.metrics.families import text_of
from ovms_mp.front.metrics.ovms import OvmsMetrics
from ovms_mp.model.metric_names import ALL_METRICS
from ovms_mp.model.own_metrics import OWN_METRICS
from ovms_mp.model.status import State
from ovms_mp.wire.call_counters import REQUEST_TIME, call_word
from ovms_mp.wire.counters import CounterRow, CountersFile
from ovms_mp.wire.messages import RoutingSnapshot
from ovms_mp.wire.records import ModelRecord, VersionRecord
from ovms_mp.wire.version_counters import VersionCounters

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

MODEL, VERSION = 1, 2
"""Pages."""
NAME = 'a "model"'


@pytest.fixture
def file() -> Iterator[CountersFile]:
    made = CountersFile(1, 1)
    yield made
    made.close()


def families(file: CountersFile, *, is_counted: bool = True) -> dict[str, Metric]:
    record = VersionRecord(
        3,
        State.AVAILABLE,
        0,
        "",
        1,
        ("ipc://@a", "ipc://@b"),
        4,
        "",
        (),
        (),
        counters=VERSION * is_counted,
        streams=4,
    )
    models = (ModelRecord(NAME, 3, (record,), counters=MODEL * is_counted),)
    collect = OvmsMetrics(lambda: RoutingSnapshot(1, False, (), (), models), file.reader)
    return {family.name: family for family in text_string_to_metric_families("".join(text_of(collect())))}


def values(family: Metric) -> dict[tuple[str, ...], float]:
    return {(sample.name, *sample.labels.values()): sample.value for sample in family.samples}


def test_all_series_are_there_before_anything_is_counted(file: CountersFile) -> None:
    found = families(file)

    assert set(found) == {name for name in ALL_METRICS if "graph" not in name} - set(OWN_METRICS) - {
        "ovms_requests_accepted",
        "ovms_requests_rejected",
        "ovms_responses",
    }
    assert len(found["ovms_requests_success"].samples) == len(found["ovms_requests_fail"].samples) == 12
    assert len(found["ovms_request_time_us"].samples) == 2 * (34 + 2)
    assert len(found["ovms_inference_time_us"].samples) == 34 + 2
    assert {
        sample.value for name, family in found.items() for sample in family.samples if "streams" not in name
    } == {0.0, 8.0}


def test_labels_are_those_of_ovms(file: CountersFile) -> None:
    labels = [dict(sample.labels) for sample in families(file)["ovms_requests_success"].samples]

    infer = {"interface": "gRPC", "name": NAME, "version": "3", "api": "KServe", "method": "ModelInfer"}
    assert infer in labels
    ready = {"interface": "REST", "name": NAME, "api": "KServe", "method": "ModelReady"}
    assert ready in labels


def test_gauges_of_the_engine_are_those_of_all_workers(file: CountersFile) -> None:
    found = families(file)

    assert values(found["ovms_streams"]) == {("ovms_streams", NAME, "3"): 4.0}
    assert values(found["ovms_infer_req_queue_size"]) == {("ovms_infer_req_queue_size", NAME, "3"): 8.0}


def test_what_was_counted_is_told(file: CountersFile) -> None:
    front = VersionCounters(CounterRow(file.handle, 0), VERSION, has_metrics=True)
    worker = VersionCounters(CounterRow(file.handle, 1), VERSION, has_metrics=True)
    model = VersionCounters(CounterRow(file.handle, 0), MODEL, has_metrics=True)
    front.begun()
    front.begun()
    worker.taken()
    front.answered(0, 1, 2, 3, queue_ns=9_000, infer_ns=50_000, batch_size=1)
    front.infer_ended(call_word("Predict", "REST"), REQUEST_TIME["REST"], 70_500)
    model.call_ended(call_word("GetModelStatus", "gRPC") + 1)

    found = families(file)

    assert values(found["ovms_current_requests"])["ovms_current_requests", NAME, "3"] == 1
    assert values(found["ovms_infer_req_active"])["ovms_infer_req_active", NAME, "3"] == 1
    success = [sample for sample in found["ovms_requests_success"].samples if sample.value]
    assert [(sample.labels["method"], sample.labels["interface"]) for sample in success] == [
        ("Predict", "REST")
    ]
    fail = [sample for sample in found["ovms_requests_fail"].samples if sample.value]
    assert [(sample.labels["method"], "version" in sample.labels) for sample in fail] == [
        ("GetModelStatus", False)
    ]
    assert values(found["ovms_request_time_us"])["ovms_request_time_us_sum", "REST", NAME, "3"] == 70.5
    assert values(found["ovms_inference_time_us"])["ovms_inference_time_us_sum", NAME, "3"] == 50
    assert (
        values(found["ovms_wait_for_infer_req_time_us"])[
            "ovms_wait_for_infer_req_time_us_bucket", NAME, "3", "10"
        ]
        == 1
    )


def test_what_is_not_counted_has_no_series(file: CountersFile) -> None:
    found = families(file, is_counted=False)

    assert not any(family.samples for family in found.values())
