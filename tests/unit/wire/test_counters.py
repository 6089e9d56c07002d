# SPDX-License-Identifier: Apache-2.0
"""Counters that several processes write, and that outlive them."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ovms_mp.wire.counters import (
    MOST_ROWS,
    PAGES,
    CounterReader,
    CounterRow,
    CountersFile,
    create_counters_file,
)
from ovms_mp.wire.version_counters import UNCOUNTED, RunTotals, VersionCounters, VersionTotals

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ovms_mp.wire.records import CountersHandle

PAGE, OTHER_PAGE = 1, PAGES - 1


@pytest.fixture
def handle() -> Iterator[CountersHandle]:
    """A file with three rows."""
    made = create_counters_file(3)
    yield made
    os.close(made.descriptor)


def answer(counters: VersionCounters, batch_size: int = 1, times: int = 1) -> None:
    """An answer of a request that took 1000 ns in all: 100 before it was sent, 700 away, 200 to encode it."""
    for _ in range(times):
        counters.answered(5000, 5100, 5800, 6000, 30, 400, batch_size)


def totals(handle: CountersHandle, page: int = PAGE) -> VersionTotals:
    return VersionTotals.of(CounterReader(handle).pages(page))


def resident_bytes(handle: CountersHandle) -> int:
    return os.fstat(handle.descriptor).st_blocks * 512


def test_every_writer_s_counts_are_summed(handle: CountersHandle) -> None:
    rows = [CounterRow(handle, index) for index in range(3)]
    first, second = VersionCounters(rows[0], PAGE), VersionCounters(rows[1], PAGE)
    answer(first, 1, times=3)
    answer(second, 4, times=2)
    second.failed(70)
    first.cancelled(7)
    VersionCounters(rows[2], PAGE).executed()
    answer(VersionCounters(rows[0], OTHER_PAGE))

    found = totals(handle)
    assert (found.answers, found.failures, found.cancelled, found.requests) == (5, 1, 1, 7)
    assert (found.success_ns, found.failure_ns, found.cancelled_ns) == (5000, 70, 7)
    assert (found.queue_ns, found.last_ns, found.executions, found.inferences) == (150, 6000, 1, 11)
    every = found.every_batch
    assert (every.input_ns, every.infer_ns, every.output_ns) == (500, 2000, 1000)
    assert {size: batch.answers for size, batch in found.batches.items()} == {1: 3, 4: 2}
    assert totals(handle, OTHER_PAGE).answers == 1
    assert totals(handle, 2) == VersionTotals()


def test_the_next_writer_of_a_row_goes_on_adding(handle: CountersHandle) -> None:
    for batch_size in (8, 2, 8):
        answer(VersionCounters(CounterRow(handle, 0), PAGE), batch_size)

    found = totals(handle)
    assert (found.answers, found.inferences) == (3, 18)
    assert {size: batch.answers for size, batch in found.batches.items()} == {8: 2, 2: 1}


def test_a_reader_that_was_there_first_sees_what_comes(handle: CountersHandle) -> None:
    reader = CounterReader(handle)
    assert VersionTotals.of(reader.pages(PAGE)) == VersionTotals()
    answer(VersionCounters(CounterRow(handle, 2), PAGE))
    assert VersionTotals.of(reader.pages(PAGE)).answers == 1


def test_what_a_killed_process_has_counted_stays(handle: CountersHandle) -> None:
    code = (
        "import os, signal\n"
        "from ovms_mp.wire.counters import CounterRow\n"
        "from ovms_mp.wire.records import CountersHandle\n"
        "from ovms_mp.wire.version_counters import VersionCounters\n"
        f"counters = VersionCounters(CounterRow(CountersHandle({handle.descriptor}, {handle.rows}), 1), {PAGE})\n"
        "for _ in range(1000):\n"
        "    counters.answered(0, 1, 2, 3, 4, 5, 1)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    for times in (1, 2):
        ended = subprocess.run(
            [sys.executable, "-c", code], pass_fds=[handle.descriptor], timeout=60, check=False
        )
        assert ended.returncode == -9
        found = totals(handle)
        assert (found.answers, found.success_ns) == (1000 * times, 3000 * times)


def test_sizes_beyond_the_bound_count_in_the_sums_only(handle: CountersHandle) -> None:
    counters = VersionCounters(CounterRow(handle, 0), PAGE)
    for batch_size in range(40):
        answer(counters, batch_size)

    found = totals(handle)
    assert (found.answers, found.inferences) == (40, sum(range(40)))
    assert sorted(found.batches) == list(range(16))
    again = VersionCounters(CounterRow(handle, 0), PAGE)
    answer(again, 15)
    answer(again, 39)
    found = totals(handle)
    assert (found.answers, found.inferences) == (42, sum(range(40)) + 15 + 39)
    assert found.batches[15].answers == 2


def test_no_size_that_a_client_claims_passes_a_word(handle: CountersHandle) -> None:
    counters = VersionCounters(CounterRow(handle, 0), PAGE)
    for batch_size in ((1 << 63) - 1, (1 << 63) - 1, 1 << 32, (1 << 32) - 1, 7):
        answer(counters, batch_size)
    found = totals(handle)
    assert (found.answers, found.inferences) == (5, (1 << 33) + 4)
    assert sorted(found.batches) == [7, (1 << 32) - 1]


def test_rows_may_have_met_sizes_in_other_orders(handle: CountersHandle) -> None:
    for row in range(3):
        counters = VersionCounters(CounterRow(handle, row), PAGE)
        for batch_size in range(row, 20):
            answer(counters, batch_size)
    found = totals(handle)
    assert found.answers == 20 + 19 + 18
    assert found.inferences == sum(sum(range(row, 20)) for row in range(3))
    assert found.batches[5].answers == 3


def test_what_is_not_counted_takes_no_memory(handle: CountersHandle) -> None:
    rows = [CounterRow(handle, index) for index in range(3)]
    before = resident_bytes(handle)
    counters = [VersionCounters(row, page) for row in rows for page in range(1, 1000)]
    reader = CounterReader(handle)
    assert all(not list(reader.pages(page)) for page in range(1, 1000))
    assert resident_bytes(handle) <= before + 3 * 4096  # Each row's page 0.
    counters[7].failed(1)
    assert resident_bytes(handle) <= before + 5 * 4096


def test_runs_are_counted_by_their_samples_beside_requests(handle: CountersHandle) -> None:
    front, worker = (VersionCounters(CounterRow(handle, row), PAGE) for row in (0, 2))
    for _ in range(3):
        answer(front, 2)
    worker.executed(2, 1, 500)
    worker.executed(4, 2, 700)
    worker.executed(4, 2, 800)
    worker.executed()

    found = totals(handle)
    assert (found.answers, found.inferences, found.executions) == (3, 6, 4)
    assert {size: batch.answers for size, batch in found.batches.items()} == {2: 3}
    assert found.runs == {2: RunTotals(1, 1, 500), 4: RunTotals(2, 4, 1500)}


def test_who_is_retired_does_not_touch_the_page_any_more(handle: CountersHandle) -> None:
    old, row = VersionCounters(CounterRow(handle, 0), PAGE), CounterRow(handle, 1)
    answer(old)
    old.retire()
    for batch_size in range(20):
        answer(old, batch_size)
    old.failed(1)
    old.cancelled(1)
    old.executed()
    answer(VersionCounters(row, PAGE))
    assert totals(handle).requests == 2


def test_a_page_that_is_cleared_begins_at_zero() -> None:
    file = CountersFile(1, 2)
    handle = file.handle
    for row in range(3):
        answer(VersionCounters(CounterRow(handle, row), PAGE))
        answer(VersionCounters(CounterRow(handle, row), OTHER_PAGE))
    before = resident_bytes(handle)

    file.clear(PAGE)

    assert resident_bytes(handle) == before - 3 * 4096
    assert totals(handle).requests == 0
    assert totals(handle, OTHER_PAGE).requests == 3
    answer(VersionCounters(CounterRow(handle, 1), PAGE), 3)
    assert (totals(handle).requests, totals(handle).inferences) == (1, 3)
    file.close()


def test_rows_of_workers_are_given_out_and_back() -> None:
    file = CountersFile(2, 2)
    assert [file.take_row() for _ in range(3)] == [2, 3, -1]
    file.give_row_back(-1)
    file.give_row_back(2)
    assert [file.take_row() for _ in range(2)] == [2, -1]
    file.close()


def test_who_has_no_row_or_no_file_counts_for_nobody(handle: CountersHandle) -> None:
    for counters in (
        UNCOUNTED,
        VersionCounters(CounterRow(), PAGE),
        VersionCounters(CounterRow(handle, -1), PAGE),
        VersionCounters(CounterRow(handle, 3), PAGE),
    ):
        answer(counters)
        counters.executed()
    assert totals(handle) == VersionTotals()
    with pytest.raises(ValueError, match="4097 rows"):
        create_counters_file(MOST_ROWS + 1)
