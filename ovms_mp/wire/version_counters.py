# SPDX-License-Identifier: Apache-2.0
"""What is counted of a model's version: the meaning of the words of its page (:mod:`ovms_mp.wire.counters`).

::

    words 0 to 15:    the totals below
    words 16 to 100:  17 slots of 5 words, one for each batch size in the order in which this row met them:
                      | batch size + 1 | answers | input ns | inference ns | output ns |    of a front
                      | batch size + 1 | runs | requests of these beyond the first | inference ns | - |  of a worker
                      The last one is for all further sizes; its first word is the sum of them.
    words 104 to 271: see :mod:`ovms_mp.wire.call_counters`
    words 320 to 499: stages (:mod:`ovms_mp.wire.stage_counters`)

Fronts count requests, workers count executions. A request is counted once, however often it was sent to a worker, when
its answer has been made and before that leaves. So an answer that a client has seen is counted, and a front that is
killed may have counted answers that did not leave any more. Within an answer's words the number of answers is the last
one that is written: a process that is killed meanwhile leaves times of an answer that was not made, at most.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field

from ovms_mp.wire.call_counters import (
    BEGUN,
    BOUNDS_NS,
    BUCKETS,
    EXECUTIONS,
    LEFT,
    NOT_RUN,
    RUN_BUCKETS,
    TAKEN,
    WAIT_BUCKETS,
)
from ovms_mp.wire.counters import PROCESS_PAGE, CounterRow
from ovms_mp.wire.stage_counters import StageCounters

_SUCCESS_NS, _QUEUE_NS, _FAILED, _FAILED_NS, _CANCELLED, _CANCELLED_NS, _LAST_NS = range(7)
_FIRST_SLOT_WORD, _SLOT_WORDS, _SIZES = 16, 5, 16
_OTHER_SIZES = _FIRST_SLOT_WORD + _SIZES * _SLOT_WORDS
_USED_WORDS = _OTHER_SIZES + _SLOT_WORDS
_WRAP = 1 << 64
_LARGEST = 1 << 32
"""Of a batch size with a slot of its own. A tensor without elements may claim any; sums of such ones wrap."""


class VersionCounters:
    """One process's counters of one version. All calls come from one thread.

    A page is touched when something is counted, so that versions which nobody asks for take no memory.
    """

    __slots__ = ("_has_metrics", "_is_marked", "_row", "_slots", "_words", "page", "stages")

    def __init__(self, row: CounterRow, page: int, *, has_metrics: bool = False) -> None:
        """Begin where the row's last writer ended.

        Args:
            row: This process's.
            page: The version's.
            has_metrics: Whether to count what only metrics show.
        """
        self.page = page
        self.stages = StageCounters(row, page)
        self._has_metrics = has_metrics
        self._row = row
        self._words = row.page(page)
        self._is_marked = False
        self._slots: dict[int, int] = {}
        """Where the words of a batch size begin."""

    def answered(
        self,
        begun_ns: int,
        sent_ns: int,
        received_ns: int,
        ended_ns: int,
        queue_ns: int,
        infer_ns: int,
        batch_size: int,
    ) -> None:
        """A request's answer has been made. PERF: 0.37 us.

        Args:
            begun_ns: When the request had been decoded.
            sent_ns: When its task went to a worker.
            received_ns: When the results were there.
            ended_ns: When the answer was made of them.
            queue_ns: How long the task waited at the worker.
            infer_ns: How long it ran.
            batch_size: First dimension of the first input; 1 where that has none.
        """
        slot = self._slots.get(batch_size) or self._slot(batch_size)
        words = self._words
        words[_SUCCESS_NS] += ended_ns - begun_ns
        words[_QUEUE_NS] += queue_ns
        words[_LAST_NS] = ended_ns
        words[slot + 2] += sent_ns - begun_ns
        words[slot + 3] += infer_ns
        words[slot + 4] += ended_ns - received_ns
        if slot == _OTHER_SIZES:
            words[slot] = (words[slot] + batch_size) % _WRAP
        if self._has_metrics:
            words[RUN_BUCKETS + bisect_left(BOUNDS_NS, infer_ns)] += 1
            words[WAIT_BUCKETS + bisect_left(BOUNDS_NS, queue_ns)] += 1
        words[slot + 1] += 1

    def begun(self) -> None:
        """A request for inference is one of this version's, until it has ended or left."""
        if not self._is_marked:
            self._mark()
        self._words[BEGUN] += 1

    def left(self) -> None:
        """A request that has begun went to another version."""
        self._words[LEFT] += 1

    def call_ended(self, word: int) -> None:
        """A call has its answer.

        Args:
            word: Where calls of its kind are counted that ended as it did.
        """
        self._mark()
        self._words[word] += 1

    def infer_ended(self, word: int, first_bucket: int, took_ns: int) -> None:
        """The same for a request for inference that succeeded, after so long. PERF: 0.25 us."""
        words = self._words
        words[first_bucket + bisect_left(BOUNDS_NS, took_ns)] += 1
        words[first_bucket + BUCKETS] += took_ns
        words[word] += 1

    def taken(self) -> None:
        """A task has been given an infer request; :meth:`executed` or :meth:`not_run` follows."""
        if self._has_metrics:
            self._mark()
            self._words[TAKEN] += 1

    def not_run(self) -> None:
        """A task has given its infer request back without using it."""
        if self._has_metrics:
            self._words[NOT_RUN] += 1

    def failed(self, took_ns: int) -> None:
        """A request got an error."""
        self._mark()
        self._words[_FAILED_NS] += took_ns
        self._words[_FAILED] += 1

    def cancelled(self, took_ns: int) -> None:
        """A request's client has gone before its answer was made."""
        self._mark()
        self._words[_CANCELLED_NS] += took_ns
        self._words[_CANCELLED] += 1

    def executed(self, batch_size: int = 0, requests: int = 0, run_ns: int = 0) -> None:
        """An infer request has run to its end, whether or not somebody still waits for that. PERF: 0.45 us.

        Args:
            batch_size: How many samples it had, by the first dimension of the first input.
            requests: How many requests these are of; 0 for a run that has failed.
            run_ns: How long it took.
        """
        if not self._is_marked:
            self._mark()
        words = self._words
        # First, as it says whose the slots of a page are.
        words[EXECUTIONS] += 1
        if requests:
            slot = self._slots.get(batch_size) or self._slot(batch_size)
            if requests > 1:
                words[slot + 2] += requests - 1
            words[slot + 3] += run_ns
            if slot == _OTHER_SIZES:
                words[slot] = (words[slot] + batch_size) % _WRAP
            words[slot + 1] += 1

    def retire(self) -> None:
        """The version is not served any more: requests that are still under way are counted for nobody.

        From now on the page is not touched, so it may be given to another version.
        """
        self._words, self._is_marked = _NOBODYS.page(PROCESS_PAGE), True
        self.stages.retire()

    def _mark(self) -> None:
        if not self._is_marked:
            self._row.mark(self.page)
            self._is_marked = True

    def _slot(self, batch_size: int) -> int:
        """Find or begin the words of a batch size. PERF: once for each of a few sizes, and for each other one."""
        self._mark()
        words = self._words
        if len(self._slots) == _SIZES or batch_size >= _LARGEST:
            return _OTHER_SIZES
        for slot in range(_FIRST_SLOT_WORD, _OTHER_SIZES, _SLOT_WORDS):
            if not words[slot]:
                words[slot] = batch_size + 1
            if words[slot] == batch_size + 1:
                self._slots[batch_size] = slot
                return slot
        return _OTHER_SIZES


_NOBODYS = CounterRow()
UNCOUNTED = VersionCounters(_NOBODYS, PROCESS_PAGE)
"""For versions that have no counters."""


@dataclass(slots=True)
class BatchTotals:
    """Of one batch size; times in nanoseconds."""

    answers: int = 0
    input_ns: int = 0
    infer_ns: int = 0
    output_ns: int = 0


@dataclass(slots=True)
class RunTotals:
    """Of runs with one number of samples."""

    runs: int = 0
    requests: int = 0
    infer_ns: int = 0


@dataclass(slots=True)
class VersionTotals:
    """The sums over all processes of one moment; times in nanoseconds.

    Attributes:
        answers: Requests that were answered.
        success_ns: From decoded requests to their answers.
        queue_ns: In workers' queues.
        failures: Requests that got an error; those before the version was known are not among them.
        cancelled: Requests whose clients went away first.
        last_ns: CLOCK_MONOTONIC of the last answer; 0 without one.
        executions: Runs of infer requests, also those for whose results nobody waited.
        inferences: Answers, each as often as its batch size says.
        batches: By batch size of requests; a bounded number of sizes.
        every_batch: Of all sizes.
        runs: By the number of samples of runs that did not fail, which may be of several requests; the same.
    """

    answers: int = 0
    success_ns: int = 0
    queue_ns: int = 0
    failures: int = 0
    failure_ns: int = 0
    cancelled: int = 0
    cancelled_ns: int = 0
    last_ns: int = 0
    executions: int = 0
    inferences: int = 0
    batches: dict[int, BatchTotals] = field(default_factory=dict)
    every_batch: BatchTotals = field(default_factory=BatchTotals)
    runs: dict[int, RunTotals] = field(default_factory=dict)

    @property
    def requests(self) -> int:
        """All requests of the version that have ended."""
        return self.answers + self.failures + self.cancelled

    @classmethod
    def of(cls, pages: Iterable[memoryview]) -> VersionTotals:
        """Add up a version's pages. PERF: 12 us for each page."""
        totals = cls()
        for page in pages:
            words = page[:_USED_WORDS].tolist()
            # Again: it is written before what is in a worker's slots.
            if page[EXECUTIONS]:
                totals.executions += words[EXECUTIONS]
                totals._add_runs(words)
                continue
            totals.success_ns += words[_SUCCESS_NS]
            totals.queue_ns += words[_QUEUE_NS]
            totals.failures += words[_FAILED]
            totals.failure_ns += words[_FAILED_NS]
            totals.cancelled += words[_CANCELLED]
            totals.cancelled_ns += words[_CANCELLED_NS]
            totals.last_ns = max(totals.last_ns, words[_LAST_NS])
            for slot in range(_FIRST_SLOT_WORD, _OTHER_SIZES, _SLOT_WORDS):
                if words[slot]:
                    size = words[slot] - 1
                    totals.inferences += size * words[slot + 1]
                    _add(totals.batches.setdefault(size, BatchTotals()), words, slot)
                    _add(totals.every_batch, words, slot)
            totals.inferences += words[_OTHER_SIZES]
            _add(totals.every_batch, words, _OTHER_SIZES)
        totals.answers = totals.every_batch.answers
        totals.inferences %= _WRAP
        return totals

    def _add_runs(self, words: list[int]) -> None:
        for slot in range(_FIRST_SLOT_WORD, _OTHER_SIZES, _SLOT_WORDS):
            if words[slot]:
                found = self.runs.setdefault(words[slot] - 1, RunTotals())
                found.runs += words[slot + 1]
                found.requests += words[slot + 1] + words[slot + 2]
                found.infer_ns += words[slot + 3]


def _add(totals: BatchTotals, words: list[int], slot: int) -> None:
    totals.answers += words[slot + 1]
    totals.input_ns += words[slot + 2]
    totals.infer_ns += words[slot + 3]
    totals.output_ns += words[slot + 4]
