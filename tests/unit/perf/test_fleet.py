# SPDX-License-Identifier: Apache-2.0
"""Simulated days of a fleet, a short dose: what the controller's decisions must not do to clients."""

from __future__ import annotations

import dataclasses

import pytest

from perf.fleet.crowd import simulate_crowd
from perf.fleet.day import DAYS, HOUR_S, Day, Spike, hours
from perf.fleet.drawing import draw
from perf.fleet.simulation import Outcome, simulate

BY_NAME = {day.name: day for day in DAYS}


def run(day: Day, begin: float, end: float, seed: int = 1) -> Outcome:
    return simulate(day, most=20, turn_s=15.0, begin_s=begin * HOUR_S, end_s=end * HOUR_S, seed=seed)


def test_the_same_seed_gives_the_same_day() -> None:
    once, again = run(BY_NAME["deaths"], 8, 8.3), run(BY_NAME["deaths"], 8, 8.3)

    assert once.samples == again.samples
    assert once.lost == again.lost
    assert run(BY_NAME["deaths"], 8, 8.3, seed=2).samples != once.samples


def test_an_ordinary_morning_loses_nothing_and_does_not_waver() -> None:
    outcome = run(BY_NAME["curve"], 6, 9)

    assert outcome.lost.total() == 0
    assert outcome.flaps() <= 1
    assert outcome.cost() < 1.4


def test_load_that_rises_beyond_all_servers_is_counted() -> None:
    flood = Day(name="flood", about="", spikes=(Spike(hours(14.1, 0.2), 4.0),))

    assert run(flood, 14, 14.5).lost.refused > 0


@pytest.mark.parametrize("name", ["blind", "half-blind"])
def test_a_controller_that_hears_nothing_does_no_harm(name: str) -> None:
    outcome = run(BY_NAME[name], 13.4, 14)

    assert outcome.lost.total() == 0
    assert outcome.started <= 4


def test_an_update_that_is_never_ready_costs_no_capacity() -> None:
    outcome = run(dataclasses.replace(BY_NAME["bad-update"], deaths_per_day=12.0), 6.9, 9.5)

    assert outcome.lost.refused == 0
    assert all(sample.new_part == 0 for sample in outcome.samples)
    assert any("was given up" in note for note in outcome.notes)


def test_a_day_is_drawn() -> None:
    text = draw([run(BY_NAME["curve"], 8, 8.5)], "A & B")

    assert text.startswith("<svg ")
    assert "A &amp; B" in text
    assert text.count("<polyline") == 3


def test_models_that_are_seldom_asked_for_come_and_go_and_the_others_stay() -> None:
    crowd = simulate_crowd(turn_s=20.0, seed=1, hours=0.75)

    assert crowd.over_memory == 0
    assert crowd.waits_s
    assert crowd.without_model_s < 0.04 * crowd.demand_s
