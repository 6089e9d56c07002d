# SPDX-License-Identifier: Apache-2.0
"""What a controller keeps from turn to turn; msgspec writes it as JSON and reads it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ovms_mp.fleet.decisions.specification import FleetSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedModel:
    """A model that a server is to have."""

    revision: str
    since_s: float  # When it was told so.
    available_s: float | None = None  # When that revision was first seen to be available; None: not yet.


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedServer:
    """A server that there is to be, or that is on its way out."""

    revision: str
    started_s: float  # When its start began; moves on while it waits for a place.
    models: Mapping[str, PlannedModel] = field(default_factory=dict)
    failures: int = 0  # How often in a row it and those that it replaces have not settled.
    was_seen: bool = False
    ready_s: float | None = None  # Since when it is ready; None: it is not.
    unready_s: float | None = None  # Since when it is not ready any more.
    is_leaving: bool = False  # It is to go, once what it serves is served elsewhere.
    stop_s: float | None = None  # It drains, and is stopped then; None: it has not been told to go.


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """A server that did not settle, to be replaced when its back-off is over."""

    at_s: float
    failures: int
    revision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """The number of servers that is wanted, and why."""

    wanted: int = 0
    peaks: tuple[tuple[float, float], ...] = ()  # (time, the most that was needed from then on); falling.
    reduced_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All of it. An empty one begins a fleet, or adopts the servers that there are.

    ``time_s`` is its own clock, which every other time here is of: a turn moves it on by a minute at most, and never back,
    whatever the caller's clock does, which is another one after the controller has moved to another machine.
    """

    servers: Mapping[int, PlannedServer] = field(default_factory=dict)
    retries: tuple[Retry, ...] = ()
    scaling: Scaling = field(default_factory=Scaling)
    now_s: float | None = None  # The caller's clock at the last turn.
    time_s: float = 0.0
    next_number: int = 1  # Of the next server; none is used twice.
    good: FleetSpec | None = None  # The latest of which a server has settled.
    failed: tuple[str, ...] = ()  # Revisions of servers, and ``MODEL REVISION``, that were given up.
    routed: str = ""  # The servers' revision that requests go to, where updates are consistent.
    asked_s: Mapping[str, float] = field(default_factory=dict)  # When models without own copies were last asked for.
