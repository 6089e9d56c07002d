# SPDX-License-Identifier: Apache-2.0
"""How many tasks run together."""

from __future__ import annotations

import pytest

from ovms_mp.model.batching import AUTO_BATCHING, BATCHING_OFF, parse_batching
from ovms_mp.worker.batching.plan import BatchPlan, sizes_to_try, useful_sizes


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, AUTO_BATCHING),
        ("auto", AUTO_BATCHING),
        ("off", BATCHING_OFF),
        ({"max": 2}, 2),
        ({"max": 1024}, 1024),
        ({"max": 1}, None),
        ({"max": 1025}, None),
        ({"max": True}, None),
        ({"max": "8"}, None),
        ({"max": 8, "min": 2}, None),
        ({}, None),
        ("on", None),
        (8, None),
        (False, None),
    ],
)
def test_the_setting(value: object, expected: int | None) -> None:
    assert parse_batching(value) == expected


@pytest.mark.parametrize(
    ("batching", "expected"), [(2, (2,)), (3, (2, 3)), (8, (2, 4, 8)), (12, (2, 4, 8, 12))]
)
def test_sizes_end_with_what_is_asked_for(batching: int, expected: tuple[int, ...]) -> None:
    assert sizes_to_try(batching) == expected


def test_sizes_beyond_the_best_rate_are_left_out() -> None:
    assert useful_sizes(1.0, {2: 1.2, 4: 1.6, 8: 4.0}, 1.15) == {2: 1.2, 4: 1.6}


@pytest.mark.parametrize("costs_s", [{}, {2: 2.0, 4: 4.0}, {2: 1.8}])
def test_what_gains_little_is_off(costs_s: dict[int, float]) -> None:
    assert useful_sizes(1.0, costs_s, 1.15) == {}


def test_where_runs_are_quicker_than_all_else_little_is_left_to_gain() -> None:
    assert useful_sizes(0.00001, {32: 0.00005}, 1.15) == {}
    assert useful_sizes(0.0001, {32: 0.0005}, 1.15) == {32: 0.0005}


def test_so_many_run_together_that_each_costs_least() -> None:
    plan = BatchPlan(1.0, {2: 1.5, 4: 1.8, 8: 8.0})
    # Three in a run of four cost 0.6 each; five in one of eight would cost 1.6.
    assert [plan.most(waiting) for waiting in (1, 2, 3, 4, 5, 8, 100)] == [1, 2, 3, 4, 4, 4, 4]
    assert [plan.size_of(count) for count in (2, 3, 4, 5)] == [2, 4, 4, 8]


def test_a_run_that_costs_more_than_lone_ones_is_not_made() -> None:
    plan = BatchPlan(1.0, {2: 3.0, 4: 2.0})
    assert [plan.most(waiting) for waiting in (2, 3, 4)] == [1, 3, 4]
