# SPDX-License-Identifier: Apache-2.0
"""Spans on their way to a collector: by a thread of their own, and no further than a bounded queue.

A collector that is away, slow or refuses costs requests nothing. What is lost by it is counted, and told in one line
when it begins and in one when it is over. The thread starts with the front, thus after its fork.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

_log = logging.getLogger(__name__)

_LIBRARY = "opentelemetry"
_TELL_INTERVAL_S = 60.0
_LONGEST_REASON = 300


class CarefulExporter(SpanExporter):
    """Hands spans to another exporter, and knows what has become of them."""

    def __init__(
        self, inner: SpanExporter, most_waiting: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Own the other exporter.

        Args:
            inner: Sends spans; may block, fail or raise, in the exporting thread.
            most_waiting: Spans that wait to be sent.
            clock: Monotonic seconds.
        """
        self._inner = inner
        self._most_waiting = most_waiting
        self._clock = clock
        self._waiting = 0
        self._lock = threading.Lock()
        self._told_at = float("-inf")
        self._untold = 0
        self._is_told = False
        self._is_ending = False
        self.reason = ""
        """What the library has said first of the export that is under way, or of the last one."""
        self.lost = 0
        self.has_failed = False

    def takes(self, count: int) -> bool:
        """Whether so many more may wait; those that may not are lost."""
        with self._lock:
            if self._waiting + count <= self._most_waiting:
                self._waiting += count
                return True
        self._lose(count, self.reason or "the queue is full (OTEL_BSP_MAX_QUEUE_SIZE)")
        return False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send; in the exporting thread."""
        with self._lock:
            self._waiting -= len(spans)
        if self._is_ending and self.has_failed:
            self._lose(len(spans), self.reason)
            return SpanExportResult.FAILURE
        self.reason = ""
        try:
            result = self._inner.export(spans)
        except Exception as error:  # A library's, and of whatever its settings name.
            result, self.reason = SpanExportResult.FAILURE, f"{type(error).__name__}: {error}"
        self.has_failed = result is not SpanExportResult.SUCCESS
        if self.has_failed:
            self._lose(len(spans), self.reason or "the collector did not take them")
        else:
            self._tell_end()
        return result

    def _tell_end(self) -> None:
        with self._lock:
            was_told, lost = self._is_told, self._untold
            if not was_told:
                return
            self._is_told, self._untold = False, 0
        _log.info("event=spans_exported_again lost=%d", lost)

    def _lose(self, count: int, reason: str) -> None:
        now = self._clock()
        with self._lock:
            self.lost += count
            self._untold += count
            if self._is_told or now - self._told_at < _TELL_INTERVAL_S:
                return
            self._is_told, self._told_at = True, now
        _log.warning("event=spans_lost reason=%s; requests are not affected", reason[:_LONGEST_REASON])

    def end_soon(self) -> None:
        """Waste no more time with a collector that is away."""
        self._is_ending = True
        if self.has_failed:
            self._inner.shutdown()

    def shutdown(self) -> None:
        """Close connections."""
        if not (self._is_ending and self.has_failed):
            self._inner.shutdown()


class SpanExport:
    """The queue and its thread."""

    def __init__(self, inner: SpanExporter, most_waiting: int) -> None:
        """Begin.

        Args:
            inner: Sends spans.
            most_waiting: Spans that wait to be sent.

        Raises:
            ValueError: A variable of the batches (OTEL_BSP_...) has a value that does not go with the others.
        """
        self.exporter = CarefulExporter(inner, most_waiting)
        self._processor = BatchSpanProcessor(self.exporter, max_queue_size=most_waiting)
        logging.getLogger(_LIBRARY).addHandler(_FirstWords(self.exporter))
        # It has a line for every try; there is one of ours.
        logging.getLogger(_LIBRARY).propagate = False

    def put(self, spans: Sequence[ReadableSpan]) -> None:
        """Have the spans of a call sent, all of them or none. PERF: 1 us a span."""
        if self.exporter.takes(len(spans)):
            for span in spans:
                self._processor.on_end(span)

    async def close(self, within_s: float) -> None:
        """Send what is waiting, if the collector takes it in time. The thread ends with the process at the latest."""
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def shut() -> None:
            self._processor.shutdown()  # type: ignore[no-untyped-call]  # the library has no types for it
            loop.call_soon_threadsafe(done.set)

        self.exporter.end_soon()
        threading.Thread(target=shut, name="spans-end", daemon=True).start()
        try:
            async with asyncio.timeout(within_s):
                await done.wait()
        except TimeoutError:
            _log.info(
                "event=spans_not_exported the collector did not take the last ones within %g s", within_s
            )


class _FirstWords(logging.Handler):
    """Keeps what the library says first of an export, as the reason of a loss; what follows are only its tries."""

    def __init__(self, exporter: CarefulExporter) -> None:
        super().__init__(logging.WARNING)
        self._exporter = exporter

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self._exporter.reason = self._exporter.reason or record.getMessage()
