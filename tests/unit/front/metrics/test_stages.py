# SPDX-License-Identifier: Apache-2.0
"""What a front counts of calls and of itself, and how it is told."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from ovms_mp.errors import Code, DeadlineExceeded, ModelNotFound, NoFreeSlot, OvmsError
from ovms_mp.front.call_context import CallContext
from ovms_mp.front.metrics.families import Buckets, text_of
from ovms_mp.front.metrics.own import OwnMetrics
from ovms_mp.front.metrics.stages import StageObserver
from ovms_mp.front.routing import NO_SNAPSHOT, RoutingTable
from ovms_mp.model import own_metrics as names
from ovms_mp.wire.counters import CounterReader, CounterRow, CountersFile, managers_row
from ovms_mp.wire.messages import RoutingSnapshot
from ovms_mp.wire.process_counters import LIMITS
from ovms_mp.wire.records import ModelRecord, VersionRecord
from ovms_mp.wire.version_counters import VersionCounters
from tests.unit.front.infer.test_leases import arena_leases
from tests.unit.front.workers import Nobody

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ovms_mp.front.infer.leases import Leases
    from ovms_mp.wire.records import CountersHandle

PAGE = 3
LABELS = {"name": "tiny", "version": "1"}


class Scene:
    """One front, and the page that any front would show."""

    def __init__(self, leases: Leases) -> None:
        self.now_ns = 10**9
        self.file = CountersFile(1, 0)
        row = CounterRow(self.file.handle, 0)
        self.observer = StageObserver(row, leases, "gRPC", lambda: self.now_ns)
        self.counters = VersionCounters(row, PAGE, has_metrics=True)
        version = VersionRecord(1, 30, 0, "", 1, (), 1, "", (), (), counters=PAGE)
        snapshot = RoutingSnapshot(1, False, (), (), (ModelRecord("tiny", 1, (version,)),))
        self.table = table = RoutingTable(snapshot, lambda page: VersionCounters(row, page))
        self.metrics = OwnMetrics(
            self.file.reader, managers_row(self.file.handle), lambda: table, 5 * 10**9, lambda: self.now_ns
        )

    def call(self, *, is_known: bool = True, deadline_ns: int = 0) -> CallContext:
        context = CallContext(deadline_ns, 0, "tfs", "Predict", Nobody(), "gRPC", 1000)
        context.received_bytes, context.sent_bytes = 70, 30
        if is_known:
            context.counters, context.decoded_ns = self.counters, 1500
        return context

    def values(self, name: str) -> dict[tuple[str, ...], float | Buckets]:
        """By the labels' values, those of the version and empty ones left out."""
        (family,) = [family for family in self.metrics() if family.name == name]
        return {
            tuple(text for label, text in sample.labels if text not in ("", LABELS.get(label))): sample.value
            for sample in family.samples
        }


@pytest.fixture
def scene() -> Iterator[Scene]:
    with arena_leases() as leases:
        made = Scene(leases)
        yield made
        made.file.close()


def test_an_answered_request(scene: Scene) -> None:
    context = scene.call()
    context.arrived_ns, context.sent_ns, context.received_ns, context.encoded_ns = 1100, 1700, 9000, 9500
    context.queue_ns, context.infer_ns = 2000, 3000
    scene.observer.ended(context, None, None)
    context.counters.stages.sent(40)
    scene.observer.look()

    sums = {
        stage[0]: round(value.sum * 1e9)
        for stage, value in scene.values(names.STAGE_SECONDS).items()
        if isinstance(value, Buckets)
    }
    assert sums == {
        "receive": 100,
        "decode": 600,
        "queue": 2000,
        "infer": 3000,
        "handover": 2300,
        "encode": 500,
        "send": 40,
    }
    assert scene.values(names.REQUEST_BYTES)[()] == 0  # Of no version; that one has the same labels here.
    assert 'ovms_mp_request_bytes_total{name="tiny",version="1"} 70' in "".join(text_of(scene.metrics()))


class NotingReader(CounterReader):
    """Knows which pages were wanted."""

    def __init__(self, handle: CountersHandle) -> None:
        super().__init__(handle)
        self.wanted: list[int] = []

    def pages(self, page: int) -> Iterator[memoryview]:
        """The words of a version's page."""
        self.wanted.append(page)
        return super().pages(page)


def test_a_family_that_is_not_written_reads_no_version(scene: Scene) -> None:
    reader = NotingReader(scene.file.handle)
    metrics = OwnMetrics(reader, managers_row(scene.file.handle), lambda: scene.table, 1, lambda: 1)
    families = {family.name: family for family in metrics()}

    assert reader.wanted == []
    assert next(iter(families[names.REQUEST_BYTES].samples)).value == 0
    assert reader.wanted == [PAGE]


@pytest.mark.parametrize(
    ("code", "failure", "reason"),
    [
        (Code.RESOURCE_EXHAUSTED, NoFreeSlot("x"), "no_free_slot"),
        (Code.DEADLINE_EXCEEDED, DeadlineExceeded("x"), "deadline_exceeded"),
        (Code.DEADLINE_EXCEEDED, None, "deadline_exceeded"),
        (Code.CANCELLED, None, "call_cancelled"),
        (Code.INTERNAL, None, "other"),
        (Code.UNKNOWN, OvmsError("x"), "other"),
    ],
)
def test_failures_have_reasons(scene: Scene, code: Code, failure: OvmsError | None, reason: str) -> None:
    scene.observer.ended(scene.call(), code, failure)

    assert scene.values(names.FAILURES) == {(reason,): 1}


def test_failures_without_a_version(scene: Scene) -> None:
    scene.observer.ended(scene.call(is_known=False), Code.NOT_FOUND, ModelNotFound("x"))

    text = "".join(text_of(scene.metrics()))
    assert 'ovms_mp_failures_total{name="",reason="model_not_found",version=""} 1' in text
    assert 'ovms_mp_request_bytes_total{name="",version=""} 70' in text


@pytest.mark.parametrize(
    ("code", "deadline_ns", "sent_ns", "expired", "cancelled"),
    [
        (Code.DEADLINE_EXCEEDED, 0, 0, 1, 0),
        (Code.CANCELLED, 0, 0, 0, 1),
        (Code.CANCELLED, 5, 0, 1, 0),
        (Code.CANCELLED, 10**10, 0, 0, 1),
        (Code.CANCELLED, 5, 1700, 0, 0),  # The worker counts it.
        (Code.INTERNAL, 5, 0, 0, 0),
    ],
)
def test_what_never_went_to_a_worker(
    scene: Scene, code: Code, deadline_ns: int, sent_ns: int, expired: int, cancelled: int
) -> None:
    context = scene.call(deadline_ns=deadline_ns)
    context.sent_ns = sent_ns
    scene.observer.ended(context, code, None)

    assert scene.values(names.EXPIRED) == {(): expired}
    assert scene.values(names.CANCELLED) == {(): cancelled}


def test_limits_are_added_once(scene: Scene) -> None:
    counts = Counter({0: 2, 3: 1})
    scene.observer.watch(LIMITS, counts.items)
    for _ in range(3):
        scene.observer.look()
    counts[3] += 4
    scene.observer.look()

    found = scene.values(names.LIMITS)
    assert found["gRPC", "connections"] == 2
    assert found["gRPC", "header_block"] == 5


def test_gauges_go_with_their_process(scene: Scene) -> None:
    scene.observer.look()
    scene.now_ns += 3 * 10**9
    scene.observer.look()
    assert scene.values(names.ARENA_BYTES) == {("0",): 1 << 20}
    assert scene.values(names.LONGEST_LOOP_LAG)["grpc", "0"] == 2.0
    scene.now_ns += 6 * 10**9

    assert scene.values(names.ARENA_BYTES) == {}


def test_each_family_is_declared_and_told_once(scene: Scene) -> None:
    scene.observer.look()
    found = [family.name for family in scene.metrics()]
    assert len(found) == len(set(found))
    quota = {names.CPU_PERIODS, names.CPU_THROTTLED_PERIODS, names.CPU_THROTTLED}
    assert set(found) == set(names.OWN) - quota


def test_without_models_there_is_a_page(scene: Scene) -> None:
    scene.metrics._table = lambda: RoutingTable(NO_SNAPSHOT)
    assert "ovms_mp_build_info" in "".join(text_of(scene.metrics()))
