# SPDX-License-Identifier: Apache-2.0
"""What a fleet is to be: the values that its file is read into."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A model of the fleet."""

    name: str
    revision: str  # Names its path, version and settings; a server that has another one is told this one.
    settings: str = "{}"  # Its entry for a server's configuration file, as JSON; of no interest here.
    memory_bytes: int = 0  # What a copy takes, at a guess.
    copies: int | None = (
        None  # Servers to have it at least; None: all with room; 0: one, while it is asked for.
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSpec:
    """A server; all are alike. Where updates are consistent, its revision names the models' revisions, too."""

    revision: str  # Names these settings: servers of another revision are replaced.
    settings: str = "{}"  # How to start it, as JSON; of no interest here.
    memory_bytes: int = 0  # What all that runs there may take; 0: no limit.


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingRule:
    """How the number of servers follows their load."""

    utilisation: float = 0.6  # The share of its time that a server is to compute for.
    queue_depth: float = 8.0  # So many waiting requests count as much as a busy server.
    tolerance: float = 0.1  # Relative difference between needed and wanted servers that changes nothing.
    down_after_s: float = 300.0  # Only what has not been needed for this long is given up.
    cool_down_s: float = 30.0  # Between two reductions.
    down_step: float = 0.1  # The largest part of the servers that is given up at once; one may always be.


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateRule:
    """How another revision replaces the one that runs. Its first server always goes alone.

    A consistent update sends all requests to the old revision until enough servers of the new one are ready, then all
    to those. It takes as many servers again for that time.
    """

    surge: int = 1  # Servers above the wanted number, and servers whose models change at a time.
    is_consistent: bool = False
    give_up_after: int = 3  # Failures of the first server after which the old revision stays.


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """How long something may take."""

    start_s: float = 600.0  # From a server's start until it is ready; waiting for a place does not count.
    load_s: float = 600.0  # From the order to load a model until it is available.
    unready_s: float = 30.0  # That a server which was ready may not be, before it is replaced.
    settle_s: float = 30.0  # That a server or a model's revision is available for before it is called good.
    drain_s: float = 60.0  # For the requests of a server that goes.
    idle_s: float = 600.0  # Since the last request for a model with 0 copies, until it may make room.
    first_retry_s: float = 2.0  # Until a server that did not settle is replaced; doubles each time ...
    last_retry_s: float = 300.0  # ... up to this.


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSpec:
    """All that a fleet's file says."""

    models: tuple[ModelSpec, ...]
    server: ServerSpec
    servers_min: int = 1  # At least 1.
    servers_max: int = 1
    scaling: ScalingRule = field(default_factory=ScalingRule)
    update: UpdateRule = field(default_factory=UpdateRule)
    deadlines: Deadlines = field(default_factory=Deadlines)
