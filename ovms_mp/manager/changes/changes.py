# SPDX-License-Identifier: Apache-2.0
"""Changes that are asked for: begun in the order in which they come, and answered when every front has applied them.

::

    asked --its subject is free--> begun --outcome known--> shown in a snapshot --all fronts applied it--> answered

A front that dies does not count any more, and one that starts has the state with its first snapshot. A change whose
deadline passes is forgotten, as its front waits no longer: what it began goes on, and does not hold up the next one.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.defects import contain
from ovms_mp.errors import INTERNAL_ERROR_TEXT, ChangesNotAllowed, OvmsError, TooManyChanges
from ovms_mp.manager.changes.course import Failed
from ovms_mp.wire.changes import (
    LoadNamed,
    RegisterRegion,
    ReloadConfig,
    SetLog,
    SetTrace,
    UnloadNamed,
    UnregisterRegion,
)
from ovms_mp.wire.messages import StateChanged
from ovms_mp.wire.records import ErrorRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovms_mp.manager.changes.course import Course, Outcome, Snapshots
    from ovms_mp.manager.changes.log_state import LogState
    from ovms_mp.manager.changes.models import Models
    from ovms_mp.manager.changes.regions import Regions
    from ovms_mp.manager.changes.reloads import Reloads
    from ovms_mp.manager.changes.trace_state import TraceState
    from ovms_mp.manager.clock import Clock
    from ovms_mp.manager.timers import Timers
    from ovms_mp.wire.changes import AnyChange

_log = logging.getLogger(__name__)

_MOST_WAITING = 256
"""Changes that are under way or wait; each is looked at in every turn of the loop."""


@dataclass(slots=True)
class _Asked:
    """A change that has not been answered.

    Attributes:
        deadline: Monotonic seconds.
        answer: Tells who asked.
        shown_in: The snapshot that shows its outcome; 0 while that is not known.
    """

    title: str
    course: Course
    deadline: float
    answer: Callable[[Outcome], None]
    has_begun: bool = False
    outcome: Outcome | None = None
    shown_in: int = 0


class Changes:
    """Owned by the manager's loop."""

    def __init__(
        self,
        reloads: Reloads,
        models: Models,
        regions: Regions,
        log_state: LogState,
        trace_state: TraceState,
        snapshots: Snapshots,
        timers: Timers,
        clock: Clock,
        *,
        is_allowed: bool,
    ) -> None:
        """Nothing is asked for yet.

        Args:
            reloads: Of configuration and repositories.
            models: Loads and unloads of one model.
            regions: Of clients' shared memory.
            log_state: What is logged.
            trace_state: What is traced.
            snapshots: Tell fronts what has changed, and whether they have applied it.
            timers: The manager's.
            clock: The manager's.
            is_allowed: Whether clients may change more than their own regions.
        """
        self._reloads = reloads
        self._models = models
        self._regions = regions
        self._log_state = log_state
        self._trace_state = trace_state
        self._snapshots = snapshots
        self._timers = timers
        self._clock = clock
        self._is_allowed = is_allowed
        self._asked: list[_Asked] = []
        self._wakes_at = math.inf

    def ask(
        self, change: AnyChange, deadline: float, answer: Callable[[StateChanged], None], request_id: int
    ) -> None:
        """Begin with a change, at the latest when all others of its subject have been answered.

        Args:
            change: What is wanted.
            deadline: Monotonic seconds, after which nobody waits for the answer.
            answer: Sends it.
            request_id: Given back in the answer.
        """

        def told(outcome: Outcome) -> None:
            answer(StateChanged(request_id, outcome.is_changed, outcome.error))

        self.begin(change.title, self._course(change), deadline, told)

    def begin(self, title: str, course: Course, deadline: float, answer: Callable[[Outcome], None]) -> None:
        """The same with a course that exists."""
        if len(self._asked) >= _MOST_WAITING:
            text = (
                f"{_MOST_WAITING} changes of the server's state are under way or wait; try again in a moment"
            )
            course = Failed(ErrorRecord.of(TooManyChanges(text)))
        asked = _Asked(title, course, deadline, answer)
        if not self._is_held_up(asked):
            self._begin(asked)
        self._asked.append(asked)

    def advance(self) -> None:
        """Answer what every front has applied, forget what is late, and begin with what waited for that."""
        applied = self._snapshots.applied_epoch
        for asked in list(self._asked):
            if not contain("manager.change", asked.title, self._advance, asked, applied):
                self._asked.remove(asked)
                error = ErrorRecord.of(OvmsError(INTERNAL_ERROR_TEXT))
                contain("manager.answer", asked.title, asked.answer, Failed(error).outcome())
        self._wake_at_deadline()

    def _wake_at_deadline(self) -> None:
        """Have the loop turn when the next deadline has passed. One timer for all, as none can be cancelled."""
        deadline = min((asked.deadline for asked in self._asked), default=math.inf)
        if deadline < self._wakes_at:
            self._wakes_at = deadline
            self._timers.call_at(deadline, self._awake)

    def _awake(self) -> None:
        self._wakes_at = math.inf

    def _advance(self, asked: _Asked, applied: int) -> None:
        is_late = self._clock.monotonic() >= asked.deadline
        if not (asked.has_begun or is_late or self._is_held_up(asked)):
            self._begin(asked)
            self._timers.call_after(0.0, _wake)  # What follows from it is for the next turn.
        if asked.has_begun and asked.outcome is None:
            asked.outcome = asked.course.outcome()
            if asked.outcome is not None:
                asked.shown_in = self._snapshots.covering_epoch
                if asked.shown_in > self._snapshots.epoch:
                    self._timers.call_after(0.0, _wake)
        if asked.outcome is not None and asked.shown_in <= applied:
            self._asked.remove(asked)
            contain("manager.answer", asked.title, asked.answer, asked.outcome)
        elif is_late:
            self._asked.remove(asked)
            waits_for = (
                ", ".join(self._snapshots.behind(asked.shown_in))
                if asked.outcome is not None
                else ("what it began" if asked.has_begun else "an earlier change")
            )
            _log.warning("event=change_late what=%r waits_for=%s", asked.title, waits_for)

    def _is_held_up(self, asked: _Asked) -> bool:
        """Whether an earlier change of the same subject has not been answered."""
        subject = asked.course.subject
        if not subject:
            return False
        for other in self._asked:
            if other is asked:
                return False
            if other.course.subject == subject:
                return True
        return False

    def _begin(self, asked: _Asked) -> None:
        asked.has_begun = True
        try:
            asked.course.begin()
        except OvmsError as error:
            asked.course = Failed(ErrorRecord.of(error))

    def _course(self, change: AnyChange) -> Course:
        if not (self._is_allowed or isinstance(change, RegisterRegion | UnregisterRegion)):
            text = f"{change.title} is not allowed to clients of this server (--allow_client_changes false)"
            return Failed(ErrorRecord.of(ChangesNotAllowed(text)))
        match change:
            case ReloadConfig():
                return self._reloads.course()
            case LoadNamed(name=name):
                return self._models.loading(name)
            case UnloadNamed(name=name):
                return self._models.unloading(name)
            case SetLog():
                return self._log_state.course(change)
            case SetTrace():
                return self._trace_state.course(change)
            case RegisterRegion() | UnregisterRegion():
                return self._regions.course(change)


def _wake() -> None:
    """Have the loop turn."""
