# SPDX-License-Identifier: Apache-2.0
"""What is known of one version's forms (:mod:`ovms_mp.worker.run.forms`)."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic

from ovms_mp.wire.records import bounded_text
from ovms_mp.worker.run.demand import LEAST_RUN_S, Demand, Form
from ovms_mp.worker.run.pool import OwnerT

if TYPE_CHECKING:
    from collections import deque

    from ovms_mp.worker.load.forms import FormLoader
    from ovms_mp.worker.run.pool import FinishedRun, InferPool

_LOOK_S = 0.02
"""So often a version's demand is looked at."""
_SURE_S = 0.25
"""A form is compiled when it has been wanted for so long: the first runs of a version take several times as long."""
_BACK_TO_BACK_NS = 150_000
"""A run in the loop that begins so soon after the last one had its task waiting meanwhile; a client that had to be
answered first takes longer."""


@dataclass(slots=True)
class Forms(Generic[OwnerT]):
    """The forms of one version.

    Attributes:
        demand: Says which one to use.
        loader: Loads them.
        details: The plan of each, for people.
        notices: What people should know of its answers.
        due: Handles of versions whose form should be another.
        other: The pool of the form that is not in use; None where that is not compiled.
        since_s: Since when it has been there without being used; monotonic.
        nbytes: What a second form takes.
        is_compiling: It is being compiled.
        refusal: Why there is no second form, for people.
        again_s: It is not compiled before this moment.
        told_s: When the manager heard of the form in use.
        is_untold: It has not heard of the newest one.
        discarded: Pools that are to be given back.
    """

    demand: Demand
    loader: FormLoader
    details: dict[Form, str]
    notices: tuple[str, ...]
    due: deque[int]
    other: InferPool[OwnerT] | None = None
    since_s: float = 0.0
    nbytes: int = 0
    is_compiling: bool = False
    refusal: str = ""
    again_s: float = 0.0
    told_s: float = 0.0
    is_untold: bool = False
    discarded: list[InferPool[OwnerT]] = field(default_factory=list)
    _look_s: float = 0.0
    _wanted_s: float = 0.0
    _ended_ns: int = 0

    def note(
        self,
        run: FinishedRun[OwnerT],
        pool: InferPool[OwnerT],
        waiting: int,
        *,
        is_in_loop: bool,
        usual_s: float,
        handle: int,
    ) -> None:
        """A run has ended. PERF: 1.4 us, of versions that have forms.

        Args:
            run: Of either form.
            pool: Of the form in use.
            waiting: Tasks in the version's queue.
            is_in_loop: The loop itself runs the version's tasks.
            usual_s: Smoothed time of all its runs, the quick ones too: those that were interrupted say nothing alone.
            handle: The version's.
        """
        if is_in_loop and usual_s < LEAST_RUN_S:
            self._wanted_s = 0.0
            return  # PERF: 0.1 us, of models that are this quick.
        now_s, other, form = time.monotonic(), self.other, self.demand.form
        together = 1 + waiting + pool.handed_over
        if other is not None:
            together += other.handed_over
            if run.pool is other:
                form = Form.PARALLEL if form is Form.LONE else Form.LONE
        if is_in_loop:
            # What came during the run has not been read yet.
            together += run.pool.begun_ns - self._ended_ns < _BACK_TO_BACK_NS
            self._ended_ns = time.perf_counter_ns()
        self.demand.note(
            form,
            run.run_time_s / run.batch,
            run.company,
            together,
            now_s,
            0 if self.is_compiling else run.batch,
        )
        if now_s >= self._look_s:
            self._look_s = now_s + _LOOK_S
            if not self.demand.is_worth_compiling:
                self._wanted_s = 0.0
            elif other is not None or (self._wanted_s and now_s - self._wanted_s >= _SURE_S):
                self.due.append(handle)
            elif not self._wanted_s:
                self._wanted_s = now_s

    def replaced(self) -> None:
        """The form in use was broken, and has been compiled again as the one for lone requests."""
        if self.demand.form is not Form.LONE:
            self.demand.changed(Form.LONE, time.monotonic())
            if self.other is not None:
                self.discarded.append(self.other)
                self.other = None

    @property
    def has_second(self) -> bool:
        """Whether there are two forms, or the second one is being compiled."""
        return self.other is not None or self.is_compiling

    @property
    def text(self) -> str:
        """Which form is in use and why, for people."""
        demand = self.demand
        if not demand.changed_s:
            least = f"{1000 * LEAST_RUN_S:g} ms"
            text = f"adaptive={demand.form.value} until requests come together that run for {least} or longer"
        else:
            text = f"adaptive={demand.form.value} since {demand.concurrency:.1f} requests come at once"
            if demand.was_tried:
                text += f", of which {Form.PARALLEL.value} answers {demand.gain:.2f} times as many"
        return f"{text} second_form=none ({self.refusal})" if self.refusal else text

    def detail(self) -> str:
        """The version's plan, for people."""
        return bounded_text("\n".join((f"{self.details[self.demand.form]} {self.text}", *self.notices)))
