# SPDX-License-Identifier: Apache-2.0
"""What was observed of a fleet, and what may be done about it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from ovms_mp.fleet.decisions.specification import ModelSpec, ServerSpec


class ServerState(enum.Enum):
    """Where a server is. One that nobody knows of any more is left out of the observation."""

    PENDING = "pending"  # No machine has room for it yet.
    STARTING = "starting"
    READY = "ready"
    UNREADY = "unready"  # It has been ready, or it does not answer.
    DRAINING = "draining"  # For whatever reason.
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedModel:
    """A model on a server."""

    revision: str  # What the server was told last.
    served: str = (
        ""  # The revision that answers requests, which is the older one while the new one loads; none: "".
    )
    failure: str = ""  # Why the one that it was told does not load.
    load: float = 0.0  # How much of the server's computing it uses, 0 to 1.


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedServer:
    """A server. Figures are None where they are not known, e.g. for want of an answer."""

    number: int
    state: ServerState
    revision: str  # What it was started as.
    queue_depth: float | None = None  # Requests that wait.
    utilisation: float | None = None  # The share of its computing in use, 0 to 1.
    used_bytes: int | None = None  # Memory of all that runs there.
    models: Mapping[str, ObservedModel] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What there is."""

    servers: tuple[ObservedServer, ...] = ()
    asked: frozenset[str] = (
        frozenset()
    )  # Models that no server had when they were asked for since the last turn.


@dataclass(frozen=True, slots=True, kw_only=True)
class StartServer:
    """Start a server with these models, unless one of this number has been started before."""

    number: int
    server: ServerSpec
    models: tuple[ModelSpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainServer:
    """Let it answer what it has, then end. The balancers have been told to send it nothing more."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StopServer:
    """End it at once, and forget it."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceModel:
    """Have a server load a model, or another revision of one that it has: the old one serves until the new one can."""

    number: int
    model: ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveModel:
    """Have a server unload a model. The balancers have been told to send it no more requests for it."""

    number: int
    name: str


Action: TypeAlias = StartServer | DrainServer | StopServer | PlaceModel | RemoveModel
