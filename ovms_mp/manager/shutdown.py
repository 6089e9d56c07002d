# SPDX-License-Identifier: Apache-2.0
"""The graceful stop: the order in which children drain, and the deadline after which they are killed.

::

    begin --> trials and downloads end --notice--> fronts drain --no front is left--> workers drain --> over

During the notice (``--stop_notice_s``) fronts take requests, say that they are not ready, and REST tells clients to
close their connections.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ovms_mp.defects import contain
from ovms_mp.log import tell_people
from ovms_mp.manager.children.child import Child, ChildState
from ovms_mp.manager.children.kinds import Kind
from ovms_mp.wire.messages import Drain

if TYPE_CHECKING:
    from ovms_mp.manager.children.control import ControlChannel
    from ovms_mp.manager.children.supervisor import Supervisor
    from ovms_mp.manager.clock import Clock
    from ovms_mp.manager.fronts.fronts import Fronts
    from ovms_mp.manager.models.stores import Stores
    from ovms_mp.manager.models.trials import Trials
    from ovms_mp.manager.timers import Timers

_log = logging.getLogger(__name__)

_WHY = "the server stops"


class Shutdown:
    """Begun once, and continued by the manager's loop."""

    def __init__(
        self,
        grace_s: float,
        notice_s: float,
        supervisor: Supervisor,
        fronts: Fronts,
        trials: Trials,
        stores: Stores,
        control: ControlChannel,
        timers: Timers,
        clock: Clock,
    ) -> None:
        """Prepare.

        Args:
            grace_s: Children that have not exited after this time are killed.
            notice_s: For so long fronts go on, while their readiness is false; at most half of the time there is.
            supervisor: Of all children.
            fronts: Stop accepting first.
            trials: End at once.
            stores: Downloads end at once, too.
            control: The way to the children.
            timers: The manager's.
            clock: The manager's.
        """
        self._grace_s = grace_s
        self._notice_s = min(notice_s, grace_s / 2)
        self._supervisor = supervisor
        self._fronts = fronts
        self._trials = trials
        self._stores = stores
        self._control = control
        self._timers = timers
        self._clock = clock
        self._deadline_ns = 0
        self._are_workers_draining = False
        self._is_grace_over = False

    def begin(self, reason: str) -> None:
        """Have fronts say that they are not ready, and ask them to finish after the notice."""
        _log.info("event=stopping reason=%s grace_s=%g", reason, self._grace_s)
        tell_people(_log, "Stopping (%s); requests in flight have %g s to end", reason, self._grace_s)
        # First of all, so that nothing that fails below can keep the server from ending.
        self._timers.call_after(self._grace_s, self._give_up)
        self._deadline_ns = self._clock.monotonic_ns() + int(self._grace_s * 1e9)
        contain("manager.stop", "the supervisor", self._supervisor.stop_replacing)
        contain("manager.stop", "trials", self._trials.stop)
        contain("manager.stop", "downloads", self._stores.stop)
        # The snapshot that says so leaves at the end of this turn, so before any timer.
        self._timers.call_after(self._notice_s, lambda: self._drain(Kind.GRPC))
        self._timers.call_after(self._notice_s, lambda: self._fronts.stop_rest(self._deadline_ns))

    def advance(self) -> bool:
        """Take the next step when this one is complete; whether all have exited or the grace period is over."""
        if self._is_grace_over:
            return True
        if not self._are_workers_draining:
            if not any(self._supervisor.living(Kind.GRPC, Kind.REST, Kind.ARBITER)):
                self._are_workers_draining = True
                self._drain(Kind.WORKER)
        elif not any(self._supervisor.living()):
            _log.info("event=stopped")
            tell_people(_log, "Stopped")
            return True
        return False

    def greeted(self, child: Child) -> None:
        """A REST front said hello after the stop was asked for; its arbiter ends it with the others."""
        self._fronts.stop_one(child, self._deadline_ns)

    def _drain(self, kind: Kind) -> None:
        """Ask the children of a kind to finish; one that has not even begun, or cannot be asked, is ended at once."""
        for child in self._supervisor.living(kind):
            if not contain("manager.drain", child.child_id, self._drain_one, child):
                child.end(_WHY, is_dismissed=True)

    def _drain_one(self, child: Child) -> None:
        if child.state is ChildState.READY:
            self._control.send(child, Drain(self._deadline_ns))
        elif child.state is not ChildState.DRAINING:
            child.end(_WHY, is_dismissed=True)
        child.to(ChildState.DRAINING)

    def _give_up(self) -> None:
        living = [child.child_id for child in self._supervisor.living()]
        if living:
            _log.warning(
                "event=grace_over killing=%s; work in flight is lost (--stop_grace_s)", ",".join(living)
            )
            self._is_grace_over = True
