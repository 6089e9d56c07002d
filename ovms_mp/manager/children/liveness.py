# SPDX-License-Identifier: Apache-2.0
"""Liveness means progress, not existence: children that are silent or stuck are killed.

A child that sends no heartbeat is stopped or gone; one that sends heartbeats but finishes none of its work is stuck.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ovms_mp.defects import contain
from ovms_mp.manager.children.child import Child, ChildState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ovms_mp.config.server import SupervisionConfig
    from ovms_mp.manager.clock import Clock

_log = logging.getLogger(__name__)

_LATE_LOOP_S = 1.0
"""If the manager's own loop was held up for longer, the children's silence says nothing about them."""


class Liveness:
    """Judges children by their heartbeats. Owned by the supervisor."""

    def __init__(self, settings: SupervisionConfig, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._looked_at = clock.monotonic()

    def beat(
        self, child: Child, progress: int | None = None, in_flight: int = 0, oldest_run_s: float = 0.0
    ) -> None:
        """Record a heartbeat of a child."""
        now = self._clock.monotonic()
        child.beat_at = now
        if progress is not None and (progress != child.progress or not in_flight):
            child.progress = progress
            child.progress_at = now
        child.in_flight = in_flight
        child.oldest_run_s = oldest_run_s

    def check(self, children: Iterable[Child]) -> None:
        """Kill children that are silent or stuck. Called every heartbeat interval."""
        now = self._clock.monotonic()
        held_up = now - self._looked_at - self._settings.heartbeat_interval_s
        self._looked_at = now
        for child in children:
            if held_up > _LATE_LOOP_S:
                child.beat_at = max(child.beat_at, now - self._settings.heartbeat_timeout_s / 2)
            contain("manager.liveness", child.child_id, self._check_child, child, now)

    def _check_child(self, child: Child, now: float) -> None:
        if child.state is not ChildState.READY:
            return  # Booting and draining have deadlines of their own.
        silence = now - child.beat_at
        standstill = now - max(child.progress_at, child.spawned_at) if child.in_flight else 0.0
        # One run that never ends is stuck, too, whatever is answered beside it.
        standstill = max(standstill, child.oldest_run_s)
        settings = self._settings
        if silence > settings.heartbeat_timeout_s:
            _kill(
                child,
                "silent",
                f"no heartbeat within {settings.heartbeat_timeout_s:g} s (--heartbeat_timeout_s)",
            )
        elif standstill > settings.stuck_timeout_s:
            _kill(child, "stuck", f"no progress within {settings.stuck_timeout_s:g} s (--stuck_timeout_s)")


def _kill(child: Child, event: str, reason: str) -> None:
    _log.error("event=%s child=%s pid=%d %s; killing", event, child.child_id, child.pid, reason)
    child.end(reason)
