# SPDX-License-Identifier: Apache-2.0
"""The manager's loop: signals, messages, deaths and timers, one after another, and what follows from them.

Everything is owned by the parts that :mod:`.assembly` builds; what the server as a whole is doing is in
:mod:`.lifecycle`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from ovms_mp.defects import Steps, contain

if TYPE_CHECKING:
    from ovms_mp.manager.changes.changes import Changes
    from ovms_mp.manager.changes.region_socket import RegionSocket
    from ovms_mp.manager.child_events import ChildEvents
    from ovms_mp.manager.children.supervisor import Supervisor
    from ovms_mp.manager.clock import Clock
    from ovms_mp.manager.fronts.fronts import Fronts
    from ovms_mp.manager.inbox import Inbox
    from ovms_mp.manager.lifecycle import Lifecycle
    from ovms_mp.manager.models.rescans import Rescans
    from ovms_mp.manager.publisher import Publisher
    from ovms_mp.manager.signal_pipe import SignalPipe
    from ovms_mp.manager.signals import Signals
    from ovms_mp.manager.status_socket import StatusSocket
    from ovms_mp.manager.timers import Timers
    from ovms_mp.manager.turn_times import TurnTimes
    from ovms_mp.wire.channels import Poller

_AGAIN_S = 0.05
"""Until steps that raised are done again."""
_MOST_FAILURES_AT_START = 20
"""Turns in a row in which a step may raise while nothing is served yet; then the server ends with its reason."""


@dataclass(slots=True, kw_only=True)
class Manager:
    """One turn of the loop: each part does its share of it."""

    poller: Poller
    timers: Timers
    signal_pipe: SignalPipe
    signals: Signals
    supervisor: Supervisor
    inbox: Inbox
    events: ChildEvents
    fronts: Fronts
    rescans: Rescans
    changes: Changes
    lifecycle: Lifecycle
    publisher: Publisher
    status: StatusSocket
    region_socket: RegionSocket
    clock: Clock
    turn_times: TurnTimes
    _readable: set[int] = field(default_factory=set, init=False)

    def run(self) -> int:
        """Serve until stopped; the exit code."""
        self.lifecycle.start()
        self.signals.watch_terminal()
        turn = (
            self._take_signals,
            self._take_beats,
            self._take_hints,
            self._tell_status,
            self._take_region_calls,
            self._take_messages,
            self._collect,
            self.timers.run_due,
            self._take_role_failures,
            self._rescan,
            self.lifecycle.advance,
            self.publisher.publish,
            self.changes.advance,
        )
        steps = Steps("manager", _MOST_FAILURES_AT_START)
        while self.lifecycle.exit_code is None:
            if self.lifecycle.is_serving:
                steps.most_failures = 0
            if steps.have_failed:
                # Not at once, as what made a descriptor readable may not have been taken.
                self.signal_pipe.wait(_AGAIN_S)
                self.timers.call_after(0.0, _ignore)
            self._readable = self.poller.wait(self.timers.seconds_to_next())
            began_at = self.clock.monotonic()
            steps.do(turn)
            self.turn_times.note(began_at)
        return self.lifecycle.exit_code

    def _take_signals(self) -> None:
        self.signals.take(self.signal_pipe.take(self._readable))

    def _take_beats(self) -> None:
        self.fronts.take_beats(self._readable)

    def _take_hints(self) -> None:
        self.rescans.take_hints(self._readable)

    def _tell_status(self) -> None:
        self.status.take(self._readable)

    def _take_region_calls(self) -> None:
        self.region_socket.take(self._readable)

    def _take_messages(self) -> None:
        self.inbox.take()

    def _collect(self) -> None:
        self.supervisor.collect(self._readable, self.events)

    def _take_role_failures(self) -> None:
        while (failure := self.supervisor.take_failure()) is not None:
            if not contain("manager.role", failure.role, self.events.role_failed, failure):
                self.timers.call_after(_AGAIN_S, partial(self.events.role_failed, failure))

    def _rescan(self) -> None:
        if self.lifecycle.is_stopping:
            self.rescans.stop()
        else:
            self.rescans.run_if_due()


def _ignore() -> None:
    """Have the loop turn again at once."""
