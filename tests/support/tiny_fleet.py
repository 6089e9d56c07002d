# SPDX-License-Identifier: Apache-2.0
"""Servers that do what a fleet's controller says, without a process: for tests of its decisions."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from ovms_mp.fleet.decisions.decision import Decision, decide
from ovms_mp.fleet.decisions.observation import (
    DrainServer,
    Observation,
    ObservedModel,
    ObservedServer,
    PlaceModel,
    RemoveModel,
    ServerState,
    StartServer,
    StopServer,
)
from ovms_mp.fleet.decisions.plan import Plan
from ovms_mp.fleet.decisions.specification import FleetSpec

TURN_S = 10.0


@dataclass
class TinyServer:
    """One of them."""

    number: int
    revision: str
    state: ServerState = ServerState.STARTING
    models: dict[str, ObservedModel] = field(default_factory=dict)
    turns: int = 0
    utilisation: float | None = None


@dataclass
class TinyFleet:
    """A fleet whose controller is asked turn by turn.

    Attributes:
        demand: Servers' worth of computing that clients want; shared by those that requests go to.
        start_turns: From a start until the server is ready.
        broken: Revisions of servers that are never ready, and of models that do not load.
        places: Servers that machines have room for.
        decided: The last decision.
    """

    specification: FleetSpec
    demand: float = 0.0
    start_turns: int = 1
    broken: frozenset[str] = frozenset()
    places: int = 1000
    asked: frozenset[str] = frozenset()
    servers: dict[int, TinyServer] = field(default_factory=dict)
    plan: Plan = field(default_factory=Plan)
    now_s: float = 1000.0
    decided: Decision | None = None

    def turn(self, turns: int = 1) -> Decision:
        """Observe, decide, carry out; so many times."""
        for _ in range(turns):
            self._age()
            before = msgspec.json.encode(self.plan)
            self.decided = decide(self.specification, self._observation(), self.plan, self.now_s)
            assert msgspec.json.encode(self.plan) == before, "the plan that was given has changed"
            written = msgspec.json.encode(self.decided.plan)
            self.plan = msgspec.json.decode(written, type=Plan)
            assert self.plan == self.decided.plan, "what a controller keeps is not all that there is"
            self._carry_out(self.decided)
            self.now_s += TURN_S
        assert self.decided is not None
        return self.decided

    def ready(self) -> list[int]:
        """Servers that are ready."""
        return [number for number, server in self.servers.items() if server.state is ServerState.READY]

    def revisions(self) -> list[str]:
        """Those of the servers that are ready."""
        return [self.servers[number].revision for number in self.ready()]

    def served(self, name: str) -> dict[int, str]:
        """The revision of a model that each server answers with."""
        return {
            number: model.served
            for number, server in self.servers.items()
            if (model := server.models.get(name)) is not None and model.served
        }

    def _age(self) -> None:
        running = sum(server.state is not ServerState.PENDING for server in self.servers.values())
        for server in list(self.servers.values()):
            if server.state is ServerState.PENDING and running < self.places:
                server.state, running = ServerState.STARTING, running + 1
            elif server.state is ServerState.STARTING and server.revision not in self.broken:
                server.turns += 1
                if server.turns >= self.start_turns:
                    server.state = ServerState.READY
            elif server.state is ServerState.DRAINING:
                del self.servers[server.number]
                continue
            if server.state is ServerState.READY:
                server.models = {name: self._loaded(model) for name, model in server.models.items()}
        serving = [number for number in self.ready() if self.decided and number in self.decided.routed]
        for server in self.servers.values():
            server.utilisation = min(1.0, self.demand / len(serving)) if server.number in serving else None

    def _loaded(self, model: ObservedModel) -> ObservedModel:
        if model.revision in self.broken:
            return ObservedModel(revision=model.revision, served=model.served, failure="it is broken")
        return ObservedModel(revision=model.revision, served=model.revision, load=model.load)

    def _observation(self) -> Observation:
        return Observation(
            servers=tuple(
                ObservedServer(
                    number=server.number,
                    state=server.state,
                    revision=server.revision,
                    utilisation=server.utilisation,
                    queue_depth=0.0 if server.utilisation is not None else None,
                    models=dict(server.models),
                )
                for server in self.servers.values()
            ),
            asked=self.asked,
        )

    def _carry_out(self, decision: Decision) -> None:
        known = set(self.servers)
        for action in decision.actions:
            assert (action.number in known) != isinstance(action, StartServer), f"{action}: what for?"
            match action:
                case StartServer():
                    running = sum(server.state is not ServerState.PENDING for server in self.servers.values())
                    self.servers[action.number] = TinyServer(
                        number=action.number,
                        revision=action.server.revision,
                        state=ServerState.STARTING if running < self.places else ServerState.PENDING,
                        models={m.name: ObservedModel(revision=m.revision) for m in action.models},
                    )
                case DrainServer():
                    self.servers[action.number].state = ServerState.DRAINING
                case StopServer():
                    del self.servers[action.number]
                case PlaceModel(model=model):
                    models = self.servers[action.number].models
                    before = models.get(model.name)
                    models[model.name] = ObservedModel(
                        revision=model.revision, served=before.served if before is not None else ""
                    )
                case RemoveModel():
                    del self.servers[action.number].models[action.name]
