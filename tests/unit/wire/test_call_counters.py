# SPDX-License-Identifier: Apache-2.0
"""Words of a page that OVMS's metrics are made of."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator

import pytest

from ovms_mp.wire.call_counters import (
    BOUNDS_NS,
    BOUNDS_US,
    BUCKETS,
    CALLS,
    FIRST_FREE_WORD,
    INTERFACES,
    REQUEST_TIME,
    RUN_BUCKETS,
    WAIT_BUCKETS,
    CallTotals,
    call_word,
)
from ovms_mp.wire.counters import CounterRow, CountersFile
from ovms_mp.wire.version_counters import UNCOUNTED, VersionCounters, VersionTotals

PAGE = 5
SUCCEEDED = call_word("Predict", "gRPC")


@pytest.fixture
def file() -> Iterator[CountersFile]:
    made = CountersFile(2, 1)
    yield made
    made.close()


def counters(file: CountersFile, row: int, page: int = PAGE) -> VersionCounters:
    return VersionCounters(CounterRow(file.handle, row), page, has_metrics=True)


def totals(file: CountersFile, nireq: int = 2) -> CallTotals:
    return CallTotals.of(file.reader.pages(PAGE), nireq)


def test_buckets_are_those_of_ovms() -> None:
    assert BOUNDS_US[:12] == (10, 18, 32, 58, 104, 188, 340, 612, 1101, 1983, 3570, 6426)
    assert BOUNDS_US[-3:] == (455171596, 819308872, 1474755971)
    assert len(BOUNDS_US) == 33


@pytest.mark.parametrize("index", range(33))
def test_a_bound_is_in_its_bucket(index: int) -> None:
    assert bisect_left(BOUNDS_NS, BOUNDS_NS[index]) == index
    assert bisect_left(BOUNDS_NS, BOUNDS_NS[index] + 1) == index + 1


def test_no_word_has_two_meanings() -> None:
    words = [
        call_word(call, interface) + failed for call in CALLS for interface in INTERFACES for failed in (0, 1)
    ]
    words += range(128, 132)
    for first in REQUEST_TIME.values():
        words += range(first, first + BUCKETS + 1)
    for first in (RUN_BUCKETS, WAIT_BUCKETS):
        words += range(first, first + BUCKETS)

    assert len(words) == len(set(words))
    assert min(words) == 104
    assert max(words) < FIRST_FREE_WORD


def test_every_row_counts(file: CountersFile) -> None:
    for row, took_ns in ((0, 5_000), (1, 2_000_000_000_000)):
        of_row = counters(file, row)
        of_row.begun()
        of_row.infer_ended(SUCCEEDED, REQUEST_TIME["gRPC"], took_ns)
        of_row.call_ended(call_word("ModelMetadata", "REST") + 1)

    found = totals(file)

    assert (found.succeeded("Predict", "gRPC"), found.failed("Predict", "gRPC")) == (2, 0)
    assert (found.succeeded("ModelMetadata", "REST"), found.failed("ModelMetadata", "REST")) == (0, 2)
    buckets = found.buckets(REQUEST_TIME["gRPC"])
    assert (buckets[0], buckets[-1], sum(buckets)) == (1, 1, 2)
    assert found.request_sum_ns("gRPC") == 2_000_000_005_000
    assert not sum(found.buckets(REQUEST_TIME["REST"]))


def test_times_of_the_engine_are_those_of_answers(file: CountersFile) -> None:
    counters(file, 0).answered(0, 1, 2, 3, queue_ns=18_000, infer_ns=18_001, batch_size=1)

    found = totals(file)

    assert (found.buckets(WAIT_BUCKETS)[1], found.buckets(RUN_BUCKETS)[2]) == (1, 1)
    times = VersionTotals.of(file.reader.pages(PAGE))
    assert (times.queue_ns, times.every_batch.infer_ns) == (18_000, 18_001)


def test_without_metrics_nothing_of_it_is_written(file: CountersFile) -> None:
    plain = VersionCounters(CounterRow(file.handle, 0), PAGE)
    plain.answered(0, 1, 2, 3, 4, 5, 1)
    plain.taken()
    plain.not_run()

    assert not sum(totals(file).words[104:])


def test_what_has_begun_is_under_way_until_it_has_ended_or_left(file: CountersFile) -> None:
    first, second = counters(file, 0), counters(file, 1)
    for of_row in (first, first, first, second):
        of_row.begun()
    assert totals(file).current == 4

    first.infer_ended(SUCCEEDED, REQUEST_TIME["gRPC"], 1)
    second.call_ended(call_word("ModelInfer", "REST") + 1)
    first.call_ended(call_word("ModelMetadata", "REST"))
    assert totals(file).current == 2
    first.left()
    assert totals(file).current == 1


def test_taken_infer_requests_are_no_more_than_there_are(file: CountersFile) -> None:
    worker = counters(file, 2)
    for expected in (1, 2, 2):
        worker.taken()
        assert totals(file, nireq=2).active == expected
    worker.executed()
    worker.not_run()
    assert totals(file, nireq=2).active == 1
    worker.executed()
    assert totals(file, nireq=2).active == 0


def test_a_dead_process_has_nothing_under_way(file: CountersFile) -> None:
    dead, living = counters(file, 0), counters(file, 1)
    for of_row in (dead, dead, living):
        of_row.begun()
    dead.call_ended(SUCCEEDED)
    dead.taken()
    living.taken()

    file.close_row(0)

    assert (totals(file).current, totals(file).active) == (1, 1)
    assert totals(file).succeeded("Predict", "gRPC") == 1
    file.close_row(0)
    assert totals(file).current == 1
    successor = counters(file, 0)
    successor.begun()
    assert totals(file).current == 2
    successor.call_ended(SUCCEEDED)
    assert totals(file).current == 1


def test_a_row_that_there_is_not_needs_no_closing(file: CountersFile) -> None:
    file.close_row(-1)
    file.close_row(3)


def test_every_page_of_a_dead_process_is_closed(file: CountersFile) -> None:
    pages = (1, 63, 64, 4095)
    for page in pages:
        counters(file, 0, page).begun()

    file.close_row(0)

    assert [CallTotals.of(file.reader.pages(page)).current for page in pages] == [0, 0, 0, 0]


def test_a_version_that_is_gone_counts_for_nobody(file: CountersFile) -> None:
    gone = counters(file, 0)
    gone.begun()
    gone.retire()
    file.clear(PAGE)

    gone.left()
    gone.infer_ended(SUCCEEDED, REQUEST_TIME["gRPC"], 1)

    assert not sum(totals(file).words)
    assert UNCOUNTED.page == 0


def test_descriptors_are_given_back() -> None:
    made = CountersFile(1, 0)
    counters(made, 0).begun()
    made.close_row(0)
    descriptor = made.handle.descriptor
    made.close()

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
