# SPDX-License-Identifier: Apache-2.0
"""Signal handling of the manager: SIGTERM, SIGINT, SIGHUP and SIGUSR1; see OPERATING.md."""

from __future__ import annotations

import logging
import signal
from typing import TYPE_CHECKING

from ovms_mp.log import reopen_logs

if TYPE_CHECKING:
    from ovms_mp.manager.changes.signal_reloads import SignalReloads
    from ovms_mp.manager.children.supervisor import Supervisor
    from ovms_mp.manager.lifecycle import Lifecycle
    from ovms_mp.manager.terminal import Terminal
    from ovms_mp.manager.timers import Timers

_log = logging.getLogger(__name__)

_TERMINAL_LOOK_S = 1.0
_TERMINAL_CLOSED = "its terminal was closed (SIGHUP); start it with nohup to have it go on"


class Signals:
    """Acts on signals; :class:`~.signal_pipe.SignalPipe` has them."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        supervisor: Supervisor,
        reloads: SignalReloads,
        terminal: Terminal,
        timers: Timers,
    ) -> None:
        self._lifecycle = lifecycle
        self._supervisor = supervisor
        self._reloads = reloads
        self._terminal = terminal
        self._timers = timers
        self._stop_signals = 0

    def watch_terminal(self) -> None:
        """Look from now on whether the terminal was closed, if there is one."""
        if self._terminal.is_awaited:
            self._timers.call_every(_TERMINAL_LOOK_S, self._look_at_terminal)

    def take(self, numbers: bytes) -> None:
        """Act on signals.

        Args:
            numbers: Of those that have come, in their order.
        """
        for number in numbers:
            if number in (signal.SIGHUP, signal.SIGUSR1):
                reopen_logs()
                self._supervisor.reopen_logs()
            if number == signal.SIGHUP:
                self._hang_up()
            elif number in (signal.SIGTERM, signal.SIGINT):
                self._stop(number)

    def _look_at_terminal(self) -> None:
        if self._terminal.is_closed():
            self._lifecycle.stop(_TERMINAL_CLOSED)

    def _hang_up(self) -> None:
        """Stop if the terminal was closed; else it is the signal for a reload."""
        if self._terminal.hang_up():
            self._lifecycle.stop(_TERMINAL_CLOSED)
        elif not self._lifecycle.is_stopping:
            _log.info("event=reload reason=SIGHUP")
            self._reloads.ask()

    def _stop(self, number: int) -> None:
        self._stop_signals += 1
        name = signal.Signals(number).name
        if self._stop_signals == 1:
            self._lifecycle.stop(name)
        else:
            _log.warning("event=stop_now reason=second %s", name)
            self._lifecycle.end(128 + number)
