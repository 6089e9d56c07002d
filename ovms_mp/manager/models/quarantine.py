# SPDX-License-Identifier: Apache-2.0
"""What workers died of, and what follows: fronts are told who was innocent, and what kills again and again is isolated.

::

    served with others --some crashes--> isolated: a worker of its own, --quiet for a while--> served with others again
                                         a growing pause after each crash

A crash is a version's when the worker ran nothing of another version at that moment. A version that has been isolated
before is isolated by its next crash.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ovms_mp.wire.records import Conviction, DeathRecord
from ovms_mp.wire.run_page import NOT_A_TASK, SECOND_FORM

if TYPE_CHECKING:
    from ovms_mp.manager.children.child import Child
    from ovms_mp.manager.clock import Clock
    from ovms_mp.manager.models.catalogue import Catalogue
    from ovms_mp.manager.models.deployment import Deployment
    from ovms_mp.manager.workers.provisioner import Provisioner
    from ovms_mp.manager.workers.workers import Seat

_log = logging.getLogger(__name__)

_CRASHES = 3
_CRASHES_WITHIN_S = 300.0
"""A version with so many crashes within this time is isolated."""
_PAUSE_FIRST_S = 1.0
_PAUSE_LONGEST_S = 60.0
_QUIET_S = 600.0
"""Without a crash for so long, an isolated version is served with others again."""
_MOST_DEATHS = 32
"""Deaths in a snapshot; a front that missed more snapshots than that has been gone itself."""
_MOST_CONVICTIONS = 64
"""For each version; the newest ones."""
_MOST_DIGEST_BYTES = 64


@dataclass(slots=True)
class _Record:
    """What is known of one deployment.

    Attributes:
        crashes_at: Moments of its crashes, while it is not isolated.
        crashes_alone: Crashes of a worker of its own, one after another.
        last_at: The last crash of either kind.
        reason: How the worker ended then.
        paused_until: Its own worker is not started before this moment.
        total: All its crashes.
    """

    crashes_at: deque[float] = field(default_factory=lambda: deque(maxlen=_CRASHES))
    crashes_alone: int = 0
    last_at: float = 0.0
    reason: str = ""
    paused_until: float = 0.0
    total: int = 0
    was_isolated: bool = False


class Quarantine:
    """Records deaths of workers. Owned by the manager's loop."""

    def __init__(self, catalogue: Catalogue, provisioner: Provisioner, clock: Clock) -> None:
        """Begin without any death.

        Args:
            catalogue: Its deployments are isolated and released.
            provisioner: Told whom to give a worker of its own.
            clock: The manager's.
        """
        self._catalogue = catalogue
        self._deployments = catalogue.deployments
        self._provisioner = provisioner
        self._clock = clock
        self._records: dict[int, _Record] = {}
        self._deaths: deque[DeathRecord] = deque(maxlen=_MOST_DEATHS)
        self._convictions: dict[int, deque[Conviction]] = {}

    def deaths(self) -> tuple[DeathRecord, ...]:
        """For the routing snapshot."""
        return tuple(self._deaths)

    def convictions(self) -> tuple[Conviction, ...]:
        """For the routing snapshot: those that are not over."""
        now_ns = self._clock.monotonic_ns()
        for handle in list(self._convictions):
            kept = [entry for entry in self._convictions[handle] if entry.until_ns > now_ns]
            if kept and self._deployments.find(handle) is not None:
                self._convictions[handle] = deque(kept, maxlen=_MOST_CONVICTIONS)
            else:
                del self._convictions[handle]
        return tuple(entry for entries in self._convictions.values() for entry in entries)

    def convicted(self, conviction: Conviction) -> None:
        """A front found out that a request crashes workers."""
        if self._deployments.find(conviction.handle) is None:
            return
        if max(len(conviction.digest), len(conviction.sketch)) > _MOST_DIGEST_BYTES:
            return  # No front of ours makes such.
        entries = self._convictions.setdefault(conviction.handle, deque(maxlen=_MOST_CONVICTIONS))
        if all(entry.digest != conviction.digest for entry in entries):
            entries.append(conviction)
            self._catalogue.note_news()

    def worker_exited(self, child: Child, seat: Seat | None, reason: str) -> None:
        """Handle a worker that has been reaped. Its seat is None if that was given up."""
        was_asked = child.was_drained or (seat is not None and seat.is_leaving)
        self._deployments.worker_lost(child.child_id, "" if was_asked else reason)
        if seat is not None:
            self._note_death(child, seat, reason, was_asked=was_asked)
        self._provisioner.worker_exited(child)

    def _note_death(self, child: Child, seat: Seat, reason: str, *, was_asked: bool) -> None:
        """The seat still knows where the worker took tasks, and what it ran."""
        running = seat.page.running()
        seat.page.clear()
        tasks = tuple(mark for mark in running if mark.task_id not in (NOT_A_TASK, SECOND_FORM))
        self._deaths.append(DeathRecord(seat.endpoint, reason, child.has_crashed, running))
        forms = [mark.handle for mark in running if mark.task_id == SECOND_FORM]
        # Who was asked to go says nothing about a form, unless that was for memory.
        for handle in () if was_asked and not seat.has_outgrown else forms:
            self._forbid_forms(handle, reason)
        if not child.has_crashed or not tasks or forms:
            return
        handles = {mark.handle for mark in running}
        deployment = self._deployments.find(handles.pop()) if len(handles) == 1 else None
        _log.error(
            "event=crashed child=%s pid=%d %s while it ran %d requests%s",
            child.child_id,
            child.pid,
            reason,
            len(tasks),
            f" of {deployment.title}" if deployment is not None else "",
        )
        if deployment is not None:
            self._note_crash(deployment, seat, reason)

    def _forbid_forms(self, handle: int, reason: str) -> None:
        """A worker has died while it compiled a second form of a version, which nobody has tried before it."""
        deployment = self._deployments.find(handle)
        if deployment is None:
            return
        deployment.may_adapt = False
        _log.error(
            "event=second_form_forbidden %s the worker ended while it compiled it: %s; the version goes on with one "
            "form",
            deployment.title,
            reason,
        )

    def _note_crash(self, deployment: Deployment, seat: Seat, reason: str) -> None:
        now = self._clock.monotonic()
        record = self._records.setdefault(deployment.handle, _Record())
        record.total += 1
        record.last_at, record.reason = now, reason
        if deployment.is_isolated:
            if seat.tenant == deployment.handle:
                record.crashes_alone += 1
                pause_s = min(_PAUSE_LONGEST_S, _PAUSE_FIRST_S * 2.0 ** (record.crashes_alone - 1))
                record.paused_until = now + pause_s
            self._tell(deployment, record)
            return
        record.crashes_at.append(now)
        is_enough = len(record.crashes_at) == _CRASHES and now - record.crashes_at[0] <= _CRASHES_WITHIN_S
        if not (is_enough or record.was_isolated) or not self._isolate(deployment):
            return
        record.was_isolated, record.crashes_alone = True, 0
        record.crashes_at.clear()
        _log.error("event=isolated %s crashes=%d %s", deployment.title, record.total, reason)
        self._tell(deployment, record)

    def _isolate(self, deployment: Deployment) -> bool:
        # The snapshot that does not route to the shared workers has the next epoch.
        if not self._deployments.isolate(deployment, self._catalogue.next_epoch):
            return False
        handle = deployment.handle
        self._provisioner.isolate(deployment.settings.device, handle, lambda: self._pause_s(handle))
        return True

    def _pause_s(self, handle: int) -> float:
        """How long the worker of an isolated version must not be started yet."""
        record = self._records.get(handle)
        return 0.0 if record is None else max(0.0, record.paused_until - self._clock.monotonic())

    def _tell(self, deployment: Deployment, record: _Record) -> None:
        """Have the version's status say what is going on."""
        pause_s = self._pause_s(deployment.handle)
        text = (
            f"its requests crashed the inference worker {record.total} times (the last one: {record.reason}); it has a "
            f"worker of its own until {_QUIET_S:g} s have passed without a crash"
        )
        if pause_s:
            text += f", which is started again {round(record.paused_until - record.last_at)} s after its last crash"
        deployment.isolation = text
        deployment.paused_until = record.paused_until if pause_s else 0.0
        self._catalogue.note_news()

    def advance(self) -> None:
        """End what time ends: pauses, isolation, and workers of versions that are not isolated any more."""
        now = self._clock.monotonic()
        for handle, record in list(self._records.items()):
            deployment = self._deployments.find(handle)
            if deployment is None:
                del self._records[handle]
            elif deployment.is_isolated:
                if deployment.paused_until and deployment.paused_until <= now:
                    self._tell(deployment, record)
                if now - record.last_at >= _QUIET_S:
                    self.release(handle)
        self._provisioner.let_tenants_go(self._deployments.needs_own_worker)

    def release(self, handle: int) -> None:
        """Serve a version with others again."""
        deployment = self._deployments.find(handle)
        if deployment is not None and deployment.is_isolated:
            _log.warning("event=released %s", deployment.title)
            self._deployments.release(deployment)
            self._catalogue.note_news()
