# SPDX-License-Identifier: Apache-2.0
"""The orderly end of the server: what children are told, and the moment from which nobody is waited for."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ovms_mp.defects import contain
from ovms_mp.log import tell_people
from ovms_mp.manager.children.child import Child, ChildState, Kind
from ovms_mp.wire.messages import Drain

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovms_mp.manager.children.supervisor import Supervisor
    from ovms_mp.manager.clock import Clock
    from ovms_mp.manager.fronts.fronts import Fronts
    from ovms_mp.manager.models.trials import Trials
    from ovms_mp.manager.timers import Timers
    from ovms_mp.wire.messages import ToChild

_log = logging.getLogger(__name__)

_NOTICE_S = 0.3
"""After a stop was asked for, REST takes requests for so long and tells clients to close their connections."""

_WHY = "the server stops"


class Ending:
    """Begun once; the manager's phases carry it on."""

    def __init__(
        self,
        grace_s: float,
        supervisor: Supervisor,
        timers: Timers,
        clock: Clock,
        send: Callable[[Child, ToChild], None],
    ) -> None:
        self._clock = clock
        self._grace_s = grace_s
        self._supervisor = supervisor
        self._timers = timers
        self._send = send
        self._deadline_ns = 0
        self.is_over = False
        """The grace period is over, and children are left."""

    def begin(self, reason: str, fronts: Fronts, trials: Trials) -> None:
        """Ask gRPC fronts to finish, and REST fronts a moment later."""
        _log.info("event=stopping reason=%s grace_s=%g", reason, self._grace_s)
        tell_people(_log, "Stopping (%s); requests in flight have %g s to end", reason, self._grace_s)
        # First of all, so that nothing that fails below can keep the server from ending.
        self._timers.call_after(self._grace_s, self._give_up)
        self._deadline_ns = self._clock.monotonic_ns() + int(self._grace_s * 1e9)
        contain("manager.stop", "the supervisor", self._supervisor.stop_replacing)
        contain("manager.stop", "trials", trials.stop)
        self.drain(Kind.GRPC)
        notice_s = min(_NOTICE_S, self._grace_s / 2)
        self._timers.call_after(notice_s, lambda: fronts.stop_rest(self._deadline_ns))

    def drain(self, kind: Kind) -> None:
        """Ask the children of a kind to finish; one that has not even begun, or cannot be asked, is ended at once."""
        for child in self._supervisor.living(kind):
            if not contain("manager.drain", child.child_id, self._drain_one, child):
                child.end(_WHY, is_dismissed=True)

    def _drain_one(self, child: Child) -> None:
        if child.state is ChildState.READY:
            self._send(child, Drain(self._deadline_ns))
        elif child.state is not ChildState.DRAINING:
            child.end(_WHY, is_dismissed=True)
        child.to(ChildState.DRAINING)

    def greeted(self, child: Child, fronts: Fronts) -> None:
        """A REST front said hello after the stop was asked for; its arbiter ends it with the others."""
        fronts.stop_one(child, self._deadline_ns)

    def _give_up(self) -> None:
        living = [child.child_id for child in self._supervisor.living()]
        if living:
            _log.warning(
                "event=grace_over killing=%s; work in flight is lost (--stop_grace_s)", ",".join(living)
            )
            self.is_over = True
