# SPDX-License-Identifier: Apache-2.0
"""Reloads that clients ask for: the questions that the manager has not answered yet, and what its errors become.

A reload's failure keeps OVMS's first words, which its users' scripts look for, and then says what was wrong.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from ovms_mp.errors import (
    ConfigError,
    ConfigRejected,
    ConfigUnreadable,
    DeadlineExceeded,
    DeviceUnavailable,
    Draining,
    ModelLoadFailed,
    OvmsError,
)
from ovms_mp.wire.messages import ReloadConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovms_mp.front.clock import Clock
    from ovms_mp.wire.messages import ConfigReloaded

_log = logging.getLogger(__name__)

_UNREADABLE = "Config file not found or cannot open."
_REJECTED = "Reloading config file failed. Check server logs for more info."
_NOT_LOADED = "Reloading models versions failed. Check server logs for more info."


class Reloads:
    """Questions to the manager and their answers. All calls come from one event loop."""

    def __init__(
        self,
        send: Callable[[ReloadConfig], None],
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
        self._timeout_s = timeout_s
        self._waiting: dict[int, asyncio.Future[ConfigReloaded]] = {}
        self._next_id = 0
        self._is_ended = False

    async def ask(self, deadline_ns: int = 0) -> ConfigReloaded:
        """Ask for a reload and wait until everything that it began has ended.

        Who gives up ends the wait, not the reload.

        Args:
            deadline_ns: Monotonic moment after which nobody waits; 0 for the timeout alone.

        Raises:
            Draining: The server is stopping.
            DeadlineExceeded: No answer in time.
        """
        if self._is_ended:
            raise _draining()
        timeout_s = self._timeout_s
        if deadline_ns:
            timeout_s = min(timeout_s, max(0.0, (deadline_ns - self._clock_ns()) / 1e9))
        self._next_id += 1
        request_id = self._next_id
        future: asyncio.Future[ConfigReloaded] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = future
        try:
            self._send(ReloadConfig(request_id))
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            raise DeadlineExceeded(
                f"the reload was not done within {timeout_s:g} s (--request_timeout_s, or the request's own deadline); "
                f"it goes on, see the models' status"
            ) from None
        finally:
            self._waiting.pop(request_id, None)

    def take(self, answer: ConfigReloaded) -> None:
        """Take the manager's answer; nobody may be waiting for it any more."""
        future = self._waiting.pop(answer.request_id, None)
        if future is None:
            _log.info("event=late_reload_answer request_id=%d", answer.request_id)
        elif not future.done():
            future.set_result(answer)

    def end(self) -> None:
        """The server is stopping: whoever waits, or asks from now on, is told so. May be called again."""
        self._is_ended = True
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(_draining())
        self._waiting.clear()


def reload_failure(error: OvmsError) -> OvmsError:
    """What a client is told of a reload that failed: the one place where that is decided.

    ``error`` comes from the manager. A configuration file that cannot be read is INTERNAL (500), a wrong one
    FAILED_PRECONDITION (412), as in OVMS; a version that does not load fails as itself; everything else was nobody's
    configuration and goes on unchanged.
    """
    match error:
        case ConfigUnreadable():
            return ConfigUnreadable(f"{_UNREADABLE} {error.message}")
        case ConfigError():
            return ConfigRejected(f"{_REJECTED} {error.message}")
        case ModelLoadFailed() | DeviceUnavailable():
            return type(error)(f"{_NOT_LOADED} {error.message}")
        case _:
            return error


def _draining() -> Draining:
    return Draining("the server is stopping; its configuration is not reloaded any more")
