# SPDX-License-Identifier: Apache-2.0
"""When the service manager is told what: the start as long as it lasts, readiness, reloads, the stop, and beats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.model.status import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.manager.clock import Clock
    from ovms_mp.manager.service.service_manager import ServiceManager
    from ovms_mp.manager.timers import Timers
    from ovms_mp.wire.records import ModelRecord

_BUSY_INTERVAL_S = 5.0
_BUSY_S = 60.0
"""Time that a start or a stop that goes on may take until the next word."""
_BEATS = 3
"""Signs of life in the time that the watchdog waits."""
_MOST_NAMED = 10


class ServiceReports:
    """Owns the service manager's socket."""

    def __init__(self, service_manager: ServiceManager, timers: Timers, clock: Clock) -> None:
        self._told = service_manager
        self._timers = timers
        self._clock = clock
        self._is_ready = False
        self._is_stopping = False

    def open(self) -> None:
        """Begin to tell, if anybody listens."""
        if self._told.watchdog_s:
            self._timers.call_every(self._told.watchdog_s / _BEATS, self._told.alive)
        if self._told.is_there:
            self._timers.call_every(_BUSY_INTERVAL_S, self._go_on)

    def _go_on(self) -> None:
        """Loads have limits of their own (--load_timeout_s), so a start that goes on is no start that hangs."""
        if not self._is_ready:
            self._told.busy(_BUSY_S)

    def serving(self, models: Sequence[ModelRecord]) -> None:
        """The fronts answer; to be called whenever what they serve may have changed."""
        if self._is_stopping or not self._told.is_there:
            return
        self._told.status(_status(models))
        if not self._is_ready:
            self._is_ready = True
            self._told.ready()

    def reloading(self) -> None:
        """A reload was asked for by a signal."""
        if self._is_ready:
            self._told.reloading(self._clock.monotonic_ns())

    def reloaded(self) -> None:
        """It has ended, in whatever way."""
        if self._is_ready and not self._is_stopping:
            self._told.ready()

    def stopping(self, grace_s: float) -> None:
        """The stop has begun and takes about so many seconds."""
        self._is_ready = self._is_stopping = True
        self._told.stopping(grace_s + _BUSY_INTERVAL_S)
        self._told.status("Stopping: requests in flight are answered")

    def close(self) -> None:
        """Tell nobody any more."""
        self._told.close()


def _status(models: Sequence[ModelRecord]) -> str:
    """One line for people."""
    versions = [(model.name, version) for model in models for version in model.versions]
    served = [f"{name}/{version.version}" for name, version in versions if version.state == State.AVAILABLE]
    failed = [f"{name}/{version.version}" for name, version in versions if version.error_code]
    text = f"Serving {_some(served)}" if served else "Serving nothing"
    return f"{text}; failed: {_some(failed)}" if failed else text


def _some(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
