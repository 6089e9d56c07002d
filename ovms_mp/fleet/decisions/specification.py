# SPDX-License-Identifier: Apache-2.0
"""What a fleet is to be: the values that its file is read into. The rules are sections of the file as they stand."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

Count = Annotated[int, msgspec.Meta(ge=1)]
Whole = Annotated[int, msgspec.Meta(ge=0)]
Number = Annotated[float, msgspec.Meta(ge=0)]


class Value(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all of them have in common; msgspec checks types and bounds where one is read."""


class ModelSpec(Value, frozen=True, kw_only=True):
    """A model of the fleet."""

    name: str
    revision: str  # Names its path, version and settings; a server that has another one is told this one.
    settings: dict[str, Any] = {}  # Its entry for a server's configuration file; of no interest here.
    memory_bytes: int = 0  # What a copy takes, at a guess.
    copies: int | None = None  # Servers to have it; None: all with room; 0: one, while it is asked for.


class ServerSettings(Value, frozen=True, kw_only=True):
    """How a server is started; of no interest to the decisions."""

    flags: tuple[str, ...] = ()  # Of its command line.
    cores: Count = 1  # For it alone, where the machine has as many to spare.
    resources: dict[str, Number] = {}  # Further ones that Ray knows, e.g. of a device: how much of each.
    directory: str = ""  # On its machine, for logs, configuration and models from object stores.


class ServerSpec(Value, frozen=True, kw_only=True):
    """A server; all are alike. Where updates are consistent, its revision names the models' revisions, too."""

    revision: str  # Names these settings: servers of another revision are replaced.
    settings: ServerSettings = ServerSettings()
    drain_s: float = 60.0  # For requests that are under way when it stops.
    memory_bytes: int = 0  # What all that runs there may take; 0: no limit.


class ScalingRule(Value, frozen=True, kw_only=True):
    """How the number of servers follows their load."""

    utilisation: Annotated[float, msgspec.Meta(gt=0)] = (
        0.6  # The share of its time that one is to compute for.
    )
    queue_depth: Annotated[float, msgspec.Meta(gt=0)] = (
        8.0  # So many that wait count as much as a busy server.
    )
    tolerance: Number = 0.1  # Relative difference between needed and wanted servers that changes nothing.
    down_after_s: Number = 300.0  # Only what has not been needed for this long is given up.
    cool_down_s: Number = 30.0  # Between two reductions.
    down_step: Number = 0.1  # The largest part of the servers that is given up at once; one may always be.


class UpdateRule(Value, frozen=True, kw_only=True):
    """How another revision replaces the one that runs. Its first server always goes alone.

    A consistent update sends all requests to the old revision until enough servers of the new one are ready, then all
    to those. It takes as many servers again for that time.
    """

    surge: Whole = 1  # Servers above the wanted number, and servers whose models change at a time.
    is_consistent: bool = False
    give_up_after: Whole = 3  # Failures of the first server after which the old revision stays.


class Deadlines(Value, frozen=True, kw_only=True):
    """How long something may take."""

    start_s: Number = 600.0  # From a server's start until it is ready; waiting for a place does not count.
    load_s: Number = 600.0  # From the order to load a model until it is available.
    unready_s: Number = 30.0  # That a server which was ready may not be, before it is replaced.
    settle_s: Number = 30.0  # That a server or a model's revision is available for before it is called good.
    drain_s: Number = 60.0  # For the requests of a server that goes.
    idle_s: Number = 600.0  # Since the last request for a model with 0 copies, until it may make room.
    first_retry_s: Number = 2.0  # Until a server that did not settle is replaced; doubles each time ...
    last_retry_s: Number = 300.0  # ... up to this.


class FleetSpec(Value, frozen=True, kw_only=True):
    """All that a fleet's file says."""

    models: tuple[ModelSpec, ...]
    server: ServerSpec
    servers_min: int = 1  # At least 1.
    servers_max: int = 1
    scaling: ScalingRule = ScalingRule()
    update: UpdateRule = UpdateRule()
    deadlines: Deadlines = Deadlines()
