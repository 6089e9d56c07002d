# SPDX-License-Identifier: Apache-2.0
"""From the record of requests to figures: what counts, exact percentiles, and notes about the generator."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ovms_mp.bench.endpoint import Endpoint
from ovms_mp.bench.figures import level_of, percentiles
from ovms_mp.bench.load import Load, Observed
from ovms_mp.bench.wire_client import WireRequest

CLOSED = Load(
    endpoint=Endpoint(is_grpc=True, port=1),
    request=WireRequest(method="POST", path="/", headers={}, body=b""),
    in_flight=2,
    warmup_s=1.0,
    seconds=2.0,
)
OPEN = Load(endpoint=CLOSED.endpoint, request=CLOSED.request, rate_per_s=10.0, warmup_s=1.0, seconds=2.0)


def observed(
    intended: list[float],
    ended: list[float],
    codes: list[int] | None = None,
    *,
    late_s: float = 0.0,
    cpu_share: float = 0.1,
    is_cut: bool = False,
    held_back: int = 0,
) -> Observed:
    return Observed(
        intended_s=np.array(intended),
        sent_s=np.array(intended) + late_s,
        ended_s=np.array(ended),
        codes=np.array(codes or [0] * len(ended), np.uint16),
        outcomes=("", "UNAVAILABLE"),
        answer_bytes=10.0,
        cpu_share=cpu_share,
        processes=1,
        generator="own",
        is_cut=is_cut,
        held_back=held_back,
    )


def test_percentiles_are_values_that_were_measured() -> None:
    found = percentiles(np.arange(1.0, 1001.0))

    assert found == {"p50": 500.0, "p90": 900.0, "p99": 990.0, "p99.9": 999.0, "max": 1000.0}


@pytest.mark.parametrize("count", [1, 2, 3, 10, 99])
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(count: int) -> None:
    values = np.random.default_rng(count).random(count)

    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        value = percentiles(values)[name]
        assert (values <= value).sum() >= share * count
        assert (values < value).sum() < share * count


def test_nothing_has_no_percentiles() -> None:
    assert percentiles(np.array([])) == {}


def test_a_closed_loop_counts_what_ends_within_the_window() -> None:
    level = level_of(CLOSED, observed([0.0, 0.9, 1.5, 2.9], [0.5, 1.1, 1.7, 3.1]))

    assert (level.answered, level.rate_per_s) == (2, 1.0)
    assert level.latency_ms["max"] == pytest.approx(200.0)
    assert level.notes == ()


def test_failures_have_their_code_and_no_latency() -> None:
    level = level_of(CLOSED, observed([1.0, 1.2], [1.1, 2.9], [0, 1]))

    assert level.errors == {"UNAVAILABLE": 1}
    assert level.latency_ms["max"] == pytest.approx(100.0)


def test_an_open_loop_counts_from_the_intended_time_and_tells_what_was_never_answered() -> None:
    level = level_of(OPEN, observed([0.5, 1.0, 2.0, 2.5], [0.6, 1.5, math.nan, 4.0], late_s=0.1))

    assert level.answered == 2
    assert level.errors == {"no answer": 1}
    assert level.latency_ms["max"] == pytest.approx(1500.0)
    assert level.lag_p99_ms == pytest.approx(100.0)


def test_a_load_that_was_cut_is_counted_to_its_end() -> None:
    level = level_of(CLOSED, observed([1.0, 1.1, 1.4], [1.2, 1.3, 1.5], is_cut=True))

    assert level.is_cut
    assert level.seconds == pytest.approx(0.5)
    assert level.rate_per_s == pytest.approx(4.0)  # The last answer is the end and not within.


def test_a_load_that_was_cut_in_its_warmup_has_no_figures() -> None:
    level = level_of(CLOSED, observed([0.1], [0.2], is_cut=True))

    assert (level.answered, level.rate_per_s, level.latency_ms) == (0, 0.0, {})


def test_a_generator_on_a_full_core_is_told_of() -> None:
    (note,) = level_of(CLOSED, observed([1.0], [1.1], cpu_share=0.95)).notes

    assert "it is the bottleneck, not the server" in note


def test_an_open_loop_that_sends_too_late_is_told_of() -> None:
    (note,) = level_of(OPEN, observed([1.0], [1.1], late_s=0.09)).notes

    assert "requests left up to 90.0 ms late" in note


def test_requests_that_had_no_connection_are_told_of() -> None:
    (note,) = level_of(OPEN, observed([1.0], [1.1], late_s=0.09, held_back=7)).notes

    assert note.startswith("7 requests waited for a free connection")


def test_a_load_that_nobody_answers_has_a_reason_for_no_figures() -> None:
    (note,) = level_of(CLOSED, observed([], [])).notes

    assert note.startswith("nothing was answered in 2 s")
