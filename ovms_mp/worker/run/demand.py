# SPDX-License-Identifier: Apache-2.0
"""Which form of a version answers most: one request at a time on all cores, or several in parallel. Pure.

With ``k`` requests under way, the lone form answers one each ``lone`` seconds, and the parallel one
``min(k, streams)`` each ``parallel`` seconds. Both times are measured while they serve, hand-overs to threads included,
so that nothing need be known of machine or model: where two streams share what one run had alone, a second request is
worth little; a model too small for its cores gains with the second one.

These times are of runs, and a machine whose cores have other things to do between them answers fewer. So once both
forms have had requests waiting for a while, how soon one answer followed another in each of them is what counts.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class Form(enum.Enum):
    """How a version is compiled; the values are OpenVINO's hints."""

    LONE = "LATENCY"
    PARALLEL = "THROUGHPUT"


_WEIGHT = 0.15
"""Of the newest run in smoothed times and in the smoothed concurrency."""
HAND_OVER_S = 0.00006
"""What a run in a thread takes beside the run; PERF: 53 us alone."""
_MOST_IN_LOOP_S = 0.001
"""Shorter runs of the lone form are done by the loop."""
LEAST_RUN_S = 0.00025
"""Versions with quicker runs stay with the lone form. PERF: a run in a thread costs the interpreter some 60 us, so that
many streams gain next to nothing then."""
_CONCURRENT = 1.5
_LONE = 1.2
_GAIN, _LOSS = 1.05, 0.97
_RUNS_TO_TRY = 36
"""In company, before the parallel form is judged."""
_FIRST_HOLD_S, _LONGEST_HOLD_S = 0.25, 30.0
_HOLD_GROWS, _HOLD_HALVES_S = 1.5, 5.0
"""Each change makes the next one wait longer, and time makes it forget."""
_UNKNOWN_STREAMS = 4
_BUSY = 0.8
"""Of the streams have something to do where it is the pace that counts."""
_PACE_ANSWERS, _PACE_GROWS = 16, 1.05
"""So many answers in a row are one measurement of a pace. A quicker one counts at once; of a slower one, which may be
a moment of other work, a part."""


@dataclass(slots=True)
class Demand:
    """What is known of one version's demand.

    Attributes:
        lone_s: Smoothed run time of the lone form.
        form: The one in use.
        streams: Of the parallel form; 0 while that has never been compiled.
        concurrency: Smoothed number of requests that are there when one of them ends, as far as streams go.
        changed_s: When the form was changed; monotonic.
        asked_s: When a run ended last.
    """

    lone_s: float
    form: Form = Form.LONE
    streams: int = 0
    concurrency: float = 1.0
    changed_s: float = 0.0
    asked_s: float = 0.0
    _parallel_s: dict[int, float] = field(default_factory=dict)
    """Smoothed run time of the parallel form by the power of two of how many ran together."""
    _pace_s: dict[Form, float] = field(default_factory=dict)
    """Time from answer to answer while more requests wait than the form runs at once."""
    _answers: int = 0
    _since_s: float = 0.0
    """Answers while it was so without a break, and since when; 0.0 where it is not."""
    _tried: int = 0
    _hold_s: float = _FIRST_HOLD_S

    def compiled(self, streams: int, run_time_s: float | None) -> None:
        """The parallel form is there.

        Args:
            streams: Its streams.
            run_time_s: Of one run alone, where it is known.
        """
        self.streams = max(1, streams)
        self.concurrency = min(self.concurrency, self.streams)
        if run_time_s is not None:
            self._parallel_s.setdefault(0, run_time_s)

    def note(
        self, form: Form, run_time_s: float, company: int, together: int, now_s: float, requests: int = 1
    ) -> None:
        """A run has ended. PERF: 0.8 us.

        Args:
            form: What ran it.
            run_time_s: How long that took for each of its requests.
            company: How many ran together when it began.
            together: How many requests were there when it ended, with this one.
            now_s: Monotonic.
            requests: How many it was for; 0 where its end says nothing about the form's pace.
        """
        self.asked_s = now_s
        self._note_pace(form, together, now_s, requests)
        self.concurrency += _WEIGHT * (min(together, self.streams or _UNKNOWN_STREAMS) - self.concurrency)
        if form is Form.LONE:
            # A run that was interrupted measures anything.
            self.lone_s += _WEIGHT * (min(run_time_s, 2 * self.lone_s + HAND_OVER_S) - self.lone_s)
            return
        bucket = company.bit_length() - 1
        known_s = self._parallel_s.get(bucket)
        if company > 1:
            self._tried += 1
        if known_s is None:
            self._parallel_s[bucket] = run_time_s
        else:
            measured_s = min(run_time_s, 2 * known_s + HAND_OVER_S)
            self._parallel_s[bucket] = known_s + _WEIGHT * (measured_s - known_s)

    def _note_pace(self, form: Form, together: int, now_s: float, requests: int) -> None:
        if not requests or form is not self.form or together <= (1 if form is Form.LONE else self.streams):
            self._since_s = 0.0
        elif not self._since_s:
            self._since_s, self._answers = now_s, 0
        else:
            self._answers += requests
            if self._answers >= _PACE_ANSWERS:
                pace_s = (now_s - self._since_s) / self._answers
                self._pace_s[form] = min(pace_s, _PACE_GROWS * self._pace_s.get(form, pace_s))
                self._since_s, self._answers = now_s, 0

    @property
    def parallel_s(self) -> float:
        """Run time of the parallel form with as many in company as there are; the lone form's where none has run."""
        if not self._parallel_s:
            return self.lone_s
        wanted = round(self.concurrency).bit_length() - 1
        return self._parallel_s[min(self._parallel_s, key=lambda bucket: abs(bucket - wanted))]

    @property
    def was_tried(self) -> bool:
        """Whether the parallel form has run enough to be judged."""
        return self._tried >= _RUNS_TO_TRY

    @property
    def gain(self) -> float:
        """How many times as much the parallel form answers as the lone one, at this concurrency."""
        if len(self._pace_s) == len(Form) and self.concurrency > _BUSY * self.streams:
            return self._pace_s[Form.LONE] / self._pace_s[Form.PARALLEL]
        lone_s = self.lone_s if self.lone_s <= _MOST_IN_LOOP_S else self.lone_s + HAND_OVER_S
        return self.concurrency * lone_s / (self.parallel_s + HAND_OVER_S)

    @property
    def is_worth_compiling(self) -> bool:
        """Whether the form that is not in use would be better, as far as one knows."""
        return self._better() is not self.form

    def next_form(self, now_s: float) -> Form:
        """The form that should run tasks from now on."""
        if now_s - self.changed_s < self._hold_s:
            return self.form
        return self._better()

    def changed(self, form: Form, now_s: float) -> None:
        """Another form runs tasks from now on."""
        forgotten = 0.5 ** ((now_s - self.changed_s) / _HOLD_HALVES_S)
        self._hold_s = min(_LONGEST_HOLD_S, max(_FIRST_HOLD_S, _HOLD_GROWS * self._hold_s * forgotten))
        self.form, self.changed_s = form, now_s
        self._since_s = 0.0

    def _better(self) -> Form:
        is_quick = self.form is Form.LONE and self.lone_s < LEAST_RUN_S
        # Whatever was measured, and when: one request has nothing from cores that wait for another.
        if is_quick or self.concurrency < (_CONCURRENT if self.form is Form.LONE else _LONE):
            return Form.LONE
        if not self.was_tried:
            return Form.PARALLEL
        least = _GAIN if self.form is Form.LONE else _LOSS
        return Form.PARALLEL if self.gain >= least else Form.LONE
