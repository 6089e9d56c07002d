# SPDX-License-Identifier: Apache-2.0
"""What a controller keeps from turn to turn; msgspec writes it as JSON and reads it again.

Every turn makes a new one. Times are of the plan's own clock, ``time_s``: a turn moves it on by a minute at most and
never back, whatever the caller's clock does, which is another one after the controller has moved to another machine.
"""

from __future__ import annotations

import msgspec

from ovms_mp.fleet.decisions.specification import FleetSpec

MOST_PER_TURN_S = 60.0


class PlannedModel(msgspec.Struct, kw_only=True):
    """A model that a server is to have."""

    revision: str
    since_s: float  # When it was told so.
    served_s: float | None = None  # When that revision was first seen to be served; None: not yet.


class PlannedServer(msgspec.Struct, kw_only=True):
    """A server that there is to be, or that is on its way out."""

    revision: str
    started_s: float  # When its start begins; moves on while it waits for a place.
    models: dict[str, PlannedModel] = {}
    failures: int = 0  # How often in a row it and those that it replaces have not settled.
    was_seen: bool = False
    ready_s: float | None = None  # When it was first ready, with its models.
    unready_s: float | None = None  # Since when it is not ready any more.
    is_leaving: bool = False  # It is to go, once what it serves is served elsewhere.
    stop_s: float | None = None  # It drains, and is stopped then; None: it has not been told to go.

    @property
    def is_ready(self) -> bool:
        """Whether it can take its part of the requests."""
        return self.ready_s is not None and self.unready_s is None


class Scaling(msgspec.Struct, kw_only=True):
    """The number of servers that is wanted, and why."""

    wanted: int = 0
    peaks: list[tuple[float, float]] = []  # (time, most that was needed since); falling.
    reduced_s: float = 0.0


class Plan(msgspec.Struct, kw_only=True):
    """All of it. An empty one begins a fleet."""

    servers: dict[int, PlannedServer] = {}
    scaling: Scaling = msgspec.field(default_factory=Scaling)
    now_s: float | None = None  # The caller's clock at the last turn.
    time_s: float = 0.0
    next_number: int = 1  # Of the next server; none is used twice.
    good: FleetSpec | None = None  # The server and the models' revisions that have proved to run.
    failed: dict[str, str] = {}  # Why ``REVISION`` or ``MODEL REVISION`` was given up.
    routed: str = ""  # The servers' revision that requests go to, where updates are consistent.
    asked_s: dict[str, float] = {}  # When models without own copies were last asked for.

    def next_turn(self, now_s: float) -> Plan:
        """A copy to be changed, with its clock moved on."""
        lapse_s = 0.0 if self.now_s is None else min(max(0.0, now_s - self.now_s), MOST_PER_TURN_S)
        # PERF: JSON is several times as fast as copying each part.
        plan = msgspec.json.decode(msgspec.json.encode(self), type=Plan)
        plan.now_s, plan.time_s = now_s, self.time_s + lapse_s
        return plan

    def start(self, revision: str, count: int, after_s: float = 0.0, failures: int = 0) -> None:
        """There are to be so many more servers after a time."""
        for _ in range(count):
            self.servers[self.next_number] = PlannedServer(
                revision=revision, started_s=self.time_s + after_s, failures=failures
            )
            self.next_number += 1
