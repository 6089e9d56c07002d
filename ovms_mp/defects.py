# SPDX-License-Identifier: Apache-2.0
"""Exceptions in steps that a loop does for everybody: the loop goes on, and only what the step was for ends.

A step that is shared (a flush, a timer, a callback of the poller, a look at all models) must not take others with it,
so each is run by one of three mechanisms, and these are the only places besides process entries, request handlers and
work in threads where ``except Exception`` stands:

- :func:`contain` for one item of a step: one child, connection, model or version, which the caller then fails;
- the loops themselves: :class:`Steps` (each step of a turn of the worker's and the manager's loop), ``front.steps``
  (callbacks and timers of an event loop) and ``manager.timers``, all of which try a failed step again;
- a ``try`` where more follows, or in the hot paths: it fails one task, answer, connection or version.

``tests/unit/test_defects.py`` has the list. Each failure is one line in the log, a few a second at most from one step,
with a traceback once in a while.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVarTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Unpack

ArgumentsT = TypeVarTuple("ArgumentsT")

_log = logging.getLogger(__name__)

_LINES_PER_S = 3
_TRACEBACK_INTERVAL_S = 10.0
_LONGEST_TEXT = 500


@dataclass(slots=True)
class _Told:
    """What the log has of one step."""

    second: int = 0
    lines: int = 0
    untold: int = 0


class _Ledger:
    """Who may write what. Used from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._steps: dict[str, _Told] = {}
        self._tracebacks: dict[tuple[str, int], float] = {}

    def may_tell(self, step: str) -> int | None:
        """How many failures of the step were not told before this one; None if this one is not to be told."""
        now_s = self._clock()
        with self._lock:
            told = self._steps.setdefault(step, _Told())
            if told.second != int(now_s):
                told.second, told.lines = int(now_s), 0
            if told.lines >= _LINES_PER_S:
                told.untold += 1
                return None
            told.lines += 1
            untold, told.untold = told.untold, 0
            return untold

    def may_show(self, place: tuple[str, int]) -> bool:
        """Whether the traceback of an exception that was raised there is to be shown."""
        now_s = self._clock()
        with self._lock:
            shown_s = self._tracebacks.get(place)
            if shown_s is not None and now_s - shown_s < _TRACEBACK_INTERVAL_S:
                return False
            self._tracebacks[place] = now_s
            return True


_ledger = _Ledger()


def report(step: str, error: BaseException, victim: str = "nobody") -> None:
    """Log that a step has raised.

    Args:
        step: Its name, one of a fixed set, e.g. ``front.flush``.
        error: What it raised.
        victim: What ends by it: a task, connection, child, version or timer.
    """
    untold = _ledger.may_tell(step)
    if untold is None:
        return
    text = " ".join(f"{type(error).__name__}: {error}".split())
    if len(text) > _LONGEST_TEXT:
        text = text[: _LONGEST_TEXT - 3] + "..."
    _log.error(
        "event=defect step=%s victim=%r error=%s%s",
        step,
        victim,
        text,
        f" ({untold} more of this step were not logged)" if untold else "",
        exc_info=error if _ledger.may_show(_origin(error)) else None,
    )


def contain(
    step: str, victim: str, function: Callable[[Unpack[ArgumentsT]], object], *arguments: *ArgumentsT
) -> bool:
    """Do one item of a step; False if it raised, which is logged then. The caller fails what the item was for."""
    try:
        function(*arguments)
    except Exception as error:
        report(step, error, victim)
        return False
    return True


def _origin(error: BaseException) -> tuple[str, int]:
    """File and line where it was raised."""
    trace = error.__traceback__
    if trace is None:
        return type(error).__name__, 0
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_filename, trace.tb_lineno


class Steps:
    """The steps of a loop's turns: one that raises takes none of the others with it, and is done again next time."""

    def __init__(self, loop: str, most_failures: int = 0) -> None:
        """Prepare.

        Args:
            loop: Whose steps they are, for the log.
            most_failures: Turns in a row in which a step may raise before :meth:`do` does; 0 for any number.
        """
        self._loop = loop
        self.most_failures = most_failures
        self._failures: dict[Callable[[], object], int] = {}

    @property
    def have_failed(self) -> bool:
        """Whether some step has raised when it was last done."""
        return bool(self._failures)

    def do(self, steps: Iterable[Callable[[], object]]) -> None:
        """Do these steps, in their order. PERF: 30 ns a step more than calling it.

        Raises:
            Exception: A step's that has raised too often: the process ends, as its successor may fare better.
        """
        for step in steps:
            try:
                step()
            except Exception as error:
                self._failures[step] = self._failures.get(step, 0) + 1
                name = getattr(step, "__name__", "step").strip("_")
                report(f"{self._loop}.{name}", error, "nobody; tried again")
                if self._failures[step] == self.most_failures:
                    raise
            else:
                if self._failures:
                    self._failures.pop(step, None)
