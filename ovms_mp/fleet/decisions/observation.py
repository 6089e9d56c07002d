# SPDX-License-Identifier: Apache-2.0
"""What was observed of a fleet, and what may be done about it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from ovms_mp.fleet.decisions.specification import ModelSpec, ServerSpec, Value


class ServerState(enum.Enum):
    """Where a server is. One that nobody knows of any more is left out of the observation."""

    PENDING = "pending"  # No machine has room for it yet.
    STARTING = "starting"
    READY = "ready"
    UNREADY = "unready"  # It has been ready, or it does not answer.
    DRAINING = "draining"  # For whatever reason.
    ENDED = "ended"


class ObservedModel(Value, frozen=True, kw_only=True):
    """A model on a server."""

    revision: str = ""  # What the server was told last.
    served: str = ""  # What answers requests, which is the older one while the new one loads; none: "".
    failure: str = ""  # Why the one that it was told does not load.
    load: float = 0.0  # How much of the server's computing it uses, 0 to 1.


_NO_MODEL = ObservedModel()


class ObservedServer(Value, frozen=True, kw_only=True):
    """A server, from its actor to the controller, each turn. Figures are None where they are not known."""

    number: int
    state: ServerState
    revision: str = ""  # What it was started as; none is known of one that waits for a place.
    queue_depth: float | None = None  # Requests that wait.
    utilisation: float | None = None  # The share of its computing in use, 0 to 1.
    used_bytes: int | None = None  # Memory of all that runs there.
    models: dict[str, ObservedModel] = msgspec.field(default_factory=dict)
    # The rest is for the status and the balancers; of no interest here.
    host: str = ""  # Where it listens.
    port: int = 0
    rest_port: int = 0
    node: str = ""  # The machine's number for Ray.
    pid: int = 0  # Of its parent, whose process group it is in.
    cores: tuple[int, ...] = ()  # Those that it has for itself; empty where it shares them.
    log: str = ""  # Path of its log on its machine.
    exit_code: int | None = None  # Of one that has ended.

    def model(self, name: str) -> ObservedModel:
        """A model; without revision where it is not there."""
        return self.models.get(name, _NO_MODEL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What there is."""

    servers: tuple[ObservedServer, ...] = ()
    asked: frozenset[str] = (
        frozenset()
    )  # Models that were asked for since the last turn when no server had them.


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
