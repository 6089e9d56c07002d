# SPDX-License-Identifier: Apache-2.0
"""Steps of a front's event loop that are nobody's in particular: one that raises is logged and tried again."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, TypeVarTuple

from ovms_mp.defects import report

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from typing import Unpack

ArgumentsT = TypeVarTuple("ArgumentsT")

_AGAIN_FIRST_S = 0.05
_AGAIN_LONGEST_S = 5.0


def attempt(
    loop: asyncio.AbstractEventLoop,
    step: str,
    function: Callable[[Unpack[ArgumentsT]], object],
    *arguments: *ArgumentsT,
    again_in_s: float = _AGAIN_FIRST_S,
) -> None:
    """Do a step now; one that raises is done again in a moment, at growing intervals, until it does not.

    So the step must bear to be done twice. PERF: 0.1 us.
    """
    try:
        function(*arguments)
    except Exception as error:
        report(step, error, f"tried again in {again_in_s:g} s")
        longer_s = min(2 * again_in_s, _AGAIN_LONGEST_S)
        again = functools.partial(attempt, loop, step, function, *arguments, again_in_s=longer_s)
        loop.call_later(again_in_s, again)


class Periodic:
    """A step that is done now and every so often, whether or not it raises."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        step: str,
        interval_s: Callable[[], float],
        function: Callable[[], object],
    ) -> None:
        """Begin.

        Args:
            loop: The event loop; all happens there.
            step: The step's name in the log.
            interval_s: Gives the time until the next time; asked each time.
            function: The step.
        """
        self._loop, self._step, self._interval_s, self._function = loop, step, interval_s, function
        self._turn()

    def _turn(self) -> None:
        self._handle = self._loop.call_later(self._interval_s(), self._turn)
        try:
            self._function()
        except Exception as error:
            report(self._step, error, "nobody; goes on at its next turn")

    def cancel(self) -> None:
        """End; it is not done any more."""
        self._handle.cancel()


def report_the_rest(loop: asyncio.AbstractEventLoop) -> None:
    """Log what any other callback of the loop raises like a step's failure: in one line, and not without bound."""
    loop.set_exception_handler(_report)


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:  # Any: as asyncio has it.
    error = context.get("exception")
    if isinstance(error, Exception):
        report("front.callback", error, str(context.get("message", ""))[:200])
    else:
        loop.default_exception_handler(context)
