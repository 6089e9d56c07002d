# SPDX-License-Identifier: Apache-2.0
"""Stages, octets, failures and company of a version in shared words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ovms_mp.wire import call_counters, counters, stage_counters
from ovms_mp.wire.counters import CounterRow, CountersFile
from ovms_mp.wire.process_counters import PHASES, Phase, observe, process_words
from ovms_mp.wire.stage_counters import (
    COMPANY_BOUNDS,
    REASONS,
    STAGE_BOUNDS_S,
    STAGE_WORDS,
    Stage,
    StageCounters,
    StageTotals,
    reason_number,
    reason_text,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = 7


@pytest.fixture
def file() -> Iterator[CountersFile]:
    made = CountersFile(2, 1)
    yield made
    made.close()


def totals(file: CountersFile) -> StageTotals:
    return StageTotals.of(file.reader.pages(PAGE))


def test_words_are_nobody_elses() -> None:
    assert call_counters.FIRST_FREE_WORD <= stage_counters.FIRST_WORD
    assert stage_counters.END_WORD <= counters.PAGE_WORDS
    assert len(REASONS) <= stage_counters.MOST_REASONS


def test_answers_are_written_together_and_add_up_over_rows(file: CountersFile) -> None:
    for index in range(2):
        row = CounterRow(file.handle, index)
        stages = StageCounters(row, PAGE)
        stages.answered(0, 8191, 8192, 10**12, 5, 6, 100, 10)
        stages.sent(7)
        assert totals(file).received_bytes == 100 * index
        row.flush()
        row.flush()  # What was written is not written again.

    found = totals(file)
    assert (found.received_bytes, found.sent_bytes) == (200, 20)
    assert found.sums_ns == [0, 2 * 8191, 2 * 8192, 2 * 10**12, 10, 12, 14]
    assert found.buckets[Stage.DECODE][0] == 2
    assert found.buckets[Stage.QUEUE][1] == 2
    assert found.buckets[Stage.INFER][-1] == 2
    assert [sum(buckets) for buckets in found.buckets] == [2] * len(Stage)


def test_a_time_is_in_the_bucket_whose_bound_it_does_not_pass(file: CountersFile) -> None:
    row = CounterRow(file.handle, 0)
    stages = StageCounters(row, PAGE)
    bounds_ns = [round(bound * 1e9) for bound in STAGE_BOUNDS_S]
    for bound_ns in bounds_ns:
        stages.answered(bound_ns, bound_ns + 1, 0, 0, 0, 0, 0, 0)
    row.flush()

    found = totals(file)
    assert found.buckets[Stage.RECEIVE] == [1] * len(bounds_ns) + [0]
    assert found.buckets[Stage.DECODE] == [0] + [1] * len(bounds_ns)


def test_what_was_gathered_of_a_retired_version_is_not_the_next_ones(file: CountersFile) -> None:
    row = CounterRow(file.handle, 0)
    stages = StageCounters(row, PAGE)
    stages.carried(5, 6)
    stages.retire()
    assert totals(file).received_bytes == 5
    file.clear(PAGE)
    stages.carried(7, 8)
    stages.failed(1)
    stages.expired()
    row.flush()

    found = totals(file)
    assert (found.received_bytes, found.expired, sum(found.failures)) == (0, 0, 0)


def test_what_did_not_begin_and_what_failed(file: CountersFile) -> None:
    stages = StageCounters(CounterRow(file.handle, 0), PAGE)
    stages.expired()
    stages.cancelled()
    stages.cancelled()
    stages.failed(reason_number("QueueFull"))

    found = totals(file)
    assert (found.expired, found.cancelled) == (1, 2)
    assert {reason_text(number): count for number, count in enumerate(found.failures) if count} == {
        "queue_full": 1
    }
    assert reason_text(reason_number("no such class")) == "other"


@pytest.mark.parametrize(("count", "bucket"), [(2, 0), (3, 1), (4, 1), (5, 2), (32, 4), (33, 5), (1000, 5)])
def test_company(file: CountersFile, count: int, bucket: int) -> None:
    StageCounters(CounterRow(file.handle, 0), PAGE).ran_in_company(count)

    found = totals(file)
    assert found.company == [int(index == bucket) for index in range(len(COMPANY_BOUNDS))]
    assert found.company_sum == count


def test_nothing_counted_is_zero(file: CountersFile) -> None:
    assert totals(file) == StageTotals()


def test_the_managers_histograms_have_the_same_form(file: CountersFile) -> None:
    words = process_words(file.own_row)
    observe(words, PHASES + Phase.LOAD * STAGE_WORDS, 10**9)
    found = words[PHASES + Phase.LOAD * STAGE_WORDS :][:STAGE_WORDS].tolist()
    bucket = next(index for index, bound in enumerate(STAGE_BOUNDS_S) if bound >= 1.0)
    assert found == [int(index == bucket) for index in range(STAGE_WORDS - 1)] + [10**9]
