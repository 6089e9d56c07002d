# SPDX-License-Identifier: Apache-2.0
"""What is lost on the way to a collector is counted, and told once."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from ovms_mp.front.tracing.export import CarefulExporter

if TYPE_CHECKING:
    from collections.abc import Sequence

SPANS = [ReadableSpan("x")] * 5


class Collector(SpanExporter):
    """Takes spans, fails or raises."""

    def __init__(self) -> None:
        self.taken = 0
        self.failure: Exception | None = None
        self.is_away = False
        self.shutdowns = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self.failure is not None:
            raise self.failure
        if self.is_away:
            return SpanExportResult.FAILURE
        self.taken += len(spans)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self.shutdowns += 1


def test_what_finds_no_room_is_lost_and_the_rest_is_sent(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    collector = Collector()
    exporter = CarefulExporter(collector, 12, lambda: 0.0)

    assert [exporter.takes(5) for _ in range(4)] == [True, True, False, False]
    exporter.export(SPANS)
    assert exporter.takes(5)
    assert (collector.taken, exporter.lost) == (5, 10)
    assert [record.getMessage() for record in caplog.records] == [
        "event=spans_lost reason=the queue is full (OTEL_BSP_MAX_QUEUE_SIZE); requests are not affected",
        "event=spans_exported_again lost=10",
    ]


def test_an_outage_is_one_line_and_its_end_another(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    collector, now_s = Collector(), [0.0]
    exporter = CarefulExporter(collector, 100, lambda: now_s[0])
    collector.failure = ValueError("no such place")
    for _ in range(3):
        exporter.takes(5)
        assert exporter.export(SPANS) is SpanExportResult.FAILURE
    collector.failure = None
    exporter.export(SPANS)
    # Again within a minute: counted, not told.
    collector.is_away = True
    exporter.export(SPANS)
    now_s[0] = 60.0
    exporter.export(SPANS)
    collector.is_away = False
    exporter.export(SPANS)

    assert [record.getMessage() for record in caplog.records] == [
        "event=spans_lost reason=ValueError: no such place; requests are not affected",
        "event=spans_exported_again lost=15",
        "event=spans_lost reason=the collector did not take them; requests are not affected",
        "event=spans_exported_again lost=10",
    ]


@pytest.mark.parametrize("is_away", [False, True])
def test_the_end_does_not_wait_for_a_collector_that_is_away(is_away: bool) -> None:
    collector = Collector()
    exporter = CarefulExporter(collector, 100, lambda: 0.0)
    collector.is_away = is_away
    exporter.export(SPANS)
    exporter.end_soon()
    exporter.export(SPANS)
    exporter.shutdown()

    assert collector.taken == (0 if is_away else 10)
    assert collector.shutdowns == 1
