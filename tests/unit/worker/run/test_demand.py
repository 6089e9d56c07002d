# SPDX-License-Identifier: Apache-2.0
"""Which form should run a version's tasks, from what its runs have shown."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from ovms_mp.worker.run.demand import Demand, Form

TWO_CORES = (0.010, 0.018, 2)
"""A run on all cores, one in a stream beside others, streams."""


@dataclass
class Machine:
    """Runs as they would be with so many requests under way."""

    lone_s: float
    parallel_s: float
    streams: int
    now_s: float = 100.0
    changes: int = 0

    def __post_init__(self) -> None:
        self.demand = Demand(self.lone_s)

    def serve(self, together: int, runs: int = 200) -> Form:
        """Some runs, each with a look at what should be in use; the form after them."""
        demand = self.demand
        for _ in range(runs):
            company = min(together, self.streams)
            is_lone = demand.form is Form.LONE
            run_s = self.lone_s if is_lone else self.parallel_s
            self.now_s += run_s if is_lone else run_s / company
            demand.note(demand.form, run_s, 1 if is_lone else company, together, self.now_s)
            if demand.is_worth_compiling and not demand.streams:
                demand.compiled(self.streams, self.parallel_s)
            form = demand.next_form(self.now_s)
            if form is not demand.form:
                demand.changed(form, self.now_s)
                self.changes += 1
        return demand.form


def test_a_lone_client_never_has_another_form_compiled() -> None:
    machine = Machine(*TWO_CORES)

    assert machine.serve(1) is Form.LONE
    assert machine.demand.streams == 0


@pytest.mark.parametrize("together", [2, 4, 16])
def test_requests_that_come_together_run_in_parallel_and_lone_ones_on_all_cores_again(together: int) -> None:
    machine = Machine(*TWO_CORES)

    forms = [machine.serve(together, 100), machine.serve(1, 50), machine.serve(together, 100)]

    assert forms == [Form.PARALLEL, Form.LONE, Form.PARALLEL]
    assert machine.changes == 3


def test_streams_that_are_not_filled_are_left_where_all_cores_are_quicker() -> None:
    """64 cores: a run takes 2 ms on all of them and 10 ms on four."""
    machine = Machine(0.002, 0.010, 16)

    assert machine.serve(3, 2000) is Form.LONE
    assert machine.serve(16, 2000) is Form.PARALLEL
    assert machine.serve(3, 2000) is Form.LONE
    assert machine.changes <= 6


def test_a_model_whose_streams_gain_nothing_ends_with_one_form_and_does_not_swing() -> None:
    machine = Machine(0.010, 0.030, 2)

    assert machine.serve(16, 5000) is Form.LONE
    assert machine.changes == 2
    assert not machine.demand.is_worth_compiling


def test_quick_models_stay_in_the_loop() -> None:
    machine = Machine(0.00005, 0.00008, 8)

    assert machine.serve(16, 5000) is Form.LONE
    assert machine.demand.streams == 0


def test_a_time_that_was_measured_on_a_busy_machine_does_not_keep_a_lone_request_in_a_stream() -> None:
    machine = Machine(0.0006, 0.001, 2)
    machine.lone_s = 0.006
    assert machine.serve(16, 400) is Form.PARALLEL

    machine.lone_s = 0.0006

    assert machine.serve(1, 1500) is Form.LONE


def test_changes_that_follow_each_other_quickly_become_rare() -> None:
    machine = Machine(*TWO_CORES)
    machine.serve(16)
    began_s, machine.changes = machine.now_s, 0

    while machine.now_s < began_s + 60:
        machine.serve(1, 30)
        machine.serve(16, 30)

    assert machine.changes < 60


def test_what_is_answered_counts_and_not_how_long_runs_take() -> None:
    """Cores that have other things to do between runs: two streams that look better answer fewer."""
    demand, now_s = Demand(0.0003), 100.0
    forms: list[Form] = []
    for turn in range(4000):
        if turn == 200:  # When that has been wanted for a while.
            demand.compiled(2, 0.0004)
        is_lone = demand.form is Form.LONE
        now_s += 0.0004 if is_lone else 0.00045
        demand.note(demand.form, 0.0003 if is_lone else 0.0004, 1 if is_lone else 2, 16, now_s)
        form = demand.next_form(now_s)
        if demand.streams and form is not demand.form:
            demand.changed(form, now_s)
            forms.append(form)

    assert forms == [Form.PARALLEL, Form.LONE]
    assert demand.gain == pytest.approx(0.89, abs=0.01)


def test_a_moment_of_other_work_says_little_about_a_form() -> None:
    demand, now_s = Demand(0.0003), 100.0
    demand.compiled(2, 0.0003)
    for form, slow in ((Form.LONE, range(49, 65)), (Form.PARALLEL, range(0))):
        demand.changed(form, now_s)
        for number in range(1 + 4 * 16):
            now_s += 0.1 if number in slow else 0.001
            demand.note(form, 0.0003, 2, 16, now_s)
    assert demand.gain == pytest.approx(1.05)


def test_requests_of_one_run_are_so_many_answers() -> None:
    demand, now_s = Demand(0.0003), 100.0
    demand.compiled(2, 0.0003)
    for form, each_s in ((Form.LONE, 0.004), (Form.PARALLEL, 0.001)):
        demand.changed(form, now_s)
        for _ in range(50):
            now_s += 8 * each_s
            demand.note(form, 0.0003, 2, 40, now_s, requests=8)
    assert demand.gain == pytest.approx(4.0)
