# SPDX-License-Identifier: Apache-2.0
"""Which calls are counted, and where."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ovms_mp.codes import Code
from ovms_mp.errors import CallCancelled, ModelNotFound, VersionNotFound
from ovms_mp.front.call_context import CallContext
from ovms_mp.front.counting import Counting
from ovms_mp.front.metrics.calls import CallCounting, follow, note_model, note_version
from ovms_mp.front.routing import RoutingTable
from ovms_mp.model.status import State
from ovms_mp.wire.call_counters import REQUEST_TIME, CallTotals
from ovms_mp.wire.counters import CounterRow, CountersFile
from ovms_mp.wire.messages import RoutingSnapshot
from ovms_mp.wire.records import ModelRecord, VersionRecord
from tests.unit.front.workers import Nobody

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL, FIRST, SECOND = 1, 2, 3
"""Pages."""


class Scene:
    """A front with a model of two versions."""

    def __init__(self) -> None:
        self.file = CountersFile(1, 0)
        counting = Counting(CounterRow(self.file.handle, 0), self.file.reader, has_metrics=True)
        versions = tuple(
            VersionRecord(number, State.AVAILABLE, 0, "", number, (), 1, "", (), (), counters=page)
            for number, page in ((1, FIRST), (2, SECOND))
        )
        models = (ModelRecord("m", 2, versions, counters=MODEL),)
        self.table = RoutingTable(RoutingSnapshot(1, False, (), (), models), counting.counters_of)
        self.observer = CallCounting()

    def call(self, method: str, interface: str = "gRPC", begun_ns: int = 0) -> CallContext:
        return CallContext(0, 0, "", method, Nobody(), interface, begun_ns)

    def infer(self, version: int, method: str = "Predict", interface: str = "gRPC") -> CallContext:
        context = self.call(method, interface, 1_000)
        self.go_to(context, version)
        return context

    def go_to(self, context: CallContext, version: int) -> None:
        """As the service does."""
        counters = self.table.find("m", version).counters
        follow(context, counters)
        context.counters = counters

    def totals(self, page: int) -> CallTotals:
        return CallTotals.of(self.file.reader.pages(page))


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.file.close()


@pytest.mark.parametrize("method", ["Predict", "ModelInfer"])
@pytest.mark.parametrize("interface", ["gRPC", "REST"])
def test_an_answer_to_inference_is_counted_with_its_time(scene: Scene, method: str, interface: str) -> None:
    context = scene.infer(2, method, interface)
    context.encoded_ns = 12_000

    scene.observer.ended(context, None, None)

    found = scene.totals(SECOND)
    assert (found.succeeded(method, interface), found.failed(method, interface), found.current) == (1, 0, 0)
    assert (found.buckets(REQUEST_TIME[interface])[1], found.request_sum_ns(interface)) == (1, 11_000)
    assert not sum(scene.totals(FIRST).words)


def test_a_failure_of_inference_is_counted_without_a_time(scene: Scene) -> None:
    context = scene.infer(1)
    assert scene.totals(FIRST).current == 1

    scene.observer.ended(context, Code.CANCELLED, CallCancelled("gone"))

    found = scene.totals(FIRST)
    assert (found.succeeded("Predict", "gRPC"), found.failed("Predict", "gRPC"), found.current) == (0, 1, 0)
    assert not sum(found.buckets(REQUEST_TIME["gRPC"]))


def test_a_request_that_moves_to_another_version_is_under_way_there(scene: Scene) -> None:
    context = scene.infer(1)
    scene.go_to(context, 2)
    scene.go_to(context, 2)
    assert (scene.totals(FIRST).current, scene.totals(SECOND).current) == (0, 1)

    scene.observer.ended(context, Code.UNAVAILABLE, None)

    assert (scene.totals(FIRST).current, scene.totals(SECOND).current) == (0, 0)
    assert scene.totals(SECOND).failed("Predict", "gRPC") == 1


@pytest.mark.parametrize("method", ["GetModelStatus", "ModelReady"])
def test_calls_about_a_model_are_its_own(scene: Scene, method: str) -> None:
    for code in (None, Code.NOT_FOUND):
        context = scene.call(method, "REST")
        note_model(scene.table, context, "m")
        scene.observer.ended(context, code, None)

    found = scene.totals(MODEL)
    assert (found.succeeded(method, "REST"), found.failed(method, "REST")) == (1, 1)
    assert (context.model, context.version) == ("m", 0)


@pytest.mark.parametrize("method", ["GetModelMetadata", "ModelMetadata"])
def test_metadata_is_the_versions(scene: Scene, method: str) -> None:
    context = scene.call(method)
    note_version(scene.table, context, "m", 0)
    scene.observer.ended(context, None, None)

    found = scene.totals(SECOND)
    assert (found.succeeded(method, "gRPC"), found.current) == (1, 0)
    assert (context.model, context.version) == ("m", 2)


def test_calls_about_nothing_that_is_known_are_not_counted(scene: Scene) -> None:
    nobodys = scene.call("GetModelStatus")
    with pytest.raises(ModelNotFound):
        note_model(scene.table, nobodys, "n")
    missing = scene.call("ModelMetadata")
    with pytest.raises(VersionNotFound):
        note_version(scene.table, missing, "m", 7)
    for context in (nobodys, missing, scene.call("Predict")):
        scene.observer.ended(context, Code.NOT_FOUND, None)

    assert not any(sum(scene.totals(page).words) for page in (MODEL, FIRST, SECOND))
    assert (nobodys.model, missing.model) == ("n", "m")


def test_other_calls_about_a_version_have_no_metric(scene: Scene) -> None:
    context = scene.call("ModelConfig")
    note_version(scene.table, context, "m", 1)
    scene.observer.ended(context, None, None)

    assert not sum(scene.totals(FIRST).words)
