# SPDX-License-Identifier: Apache-2.0
"""Changes of the server's state that clients ask for: the questions that the manager has not answered yet."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from ovms_mp.errors import DeadlineExceeded, Draining
from ovms_mp.wire.messages import ChangeState

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovms_mp.front.clock import Clock
    from ovms_mp.wire.changes import AnyChange
    from ovms_mp.wire.messages import StateChanged

_log = logging.getLogger(__name__)


class StateChanges:
    """Questions to the manager and their answers. All calls come from one event loop."""

    def __init__(
        self,
        send: Callable[[ChangeState], None],
        timeout_s: float,
        clock_ns: Clock,
    ) -> None:
        """Prepare.

        Args:
            send: Queues a message to the manager.
            timeout_s: Longest time to wait for an answer.
            clock_ns: Monotonic time.
        """
        self._send = send
        self._clock_ns = clock_ns
        self._timeout_ns = int(timeout_s * 1e9)
        self._waiting: dict[int, asyncio.Future[StateChanged]] = {}
        self._next_id = 0
        self._is_ended = False

    async def ask(self, change: AnyChange, deadline_ns: int = 0) -> StateChanged:
        """Ask for a change and wait until everything that it began has ended, and every process knows of it.

        Who gives up ends the wait, not the change.

        Args:
            change: What is wanted.
            deadline_ns: Monotonic moment after which nobody waits; 0 for the timeout alone.

        Raises:
            Draining: The server is stopping.
            DeadlineExceeded: No answer in time.
        """
        if self._is_ended:
            raise _draining()
        now_ns = self._clock_ns()
        latest_ns = now_ns + self._timeout_ns
        deadline_ns = max(now_ns, min(deadline_ns, latest_ns)) if deadline_ns else latest_ns
        timeout_s = (deadline_ns - now_ns) / 1e9
        self._next_id += 1
        request_id = self._next_id
        future: asyncio.Future[StateChanged] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = future
        try:
            self._send(ChangeState(request_id, deadline_ns, change))
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            raise DeadlineExceeded(
                f"{change.title} was not done within {timeout_s:g} s (--request_timeout_s, or the request's own "
                f"deadline); what has begun goes on, see the server's status"
            ) from None
        finally:
            self._waiting.pop(request_id, None)

    def take(self, answer: StateChanged) -> None:
        """Take the manager's answer; nobody may be waiting for it any more."""
        future = self._waiting.pop(answer.request_id, None)
        if future is None:
            _log.info("event=late_answer request_id=%d", answer.request_id)
        elif not future.done():
            future.set_result(answer)

    def end(self) -> None:
        """The server is stopping: whoever waits, or asks from now on, is told so. May be called again."""
        self._is_ended = True
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(_draining())
        self._waiting.clear()


def _draining() -> Draining:
    return Draining("the server is stopping; its state is not changed any more")
