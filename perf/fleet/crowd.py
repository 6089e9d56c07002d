# SPDX-License-Identifier: Apache-2.0
"""A day of many models on few servers: which are loaded where, how often that changes, and who finds no model."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ovms_mp.fleet.decisions.decision import decide
from ovms_mp.fleet.decisions.observation import (
    Action,
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
from ovms_mp.fleet.decisions.specification import FleetSpec, ModelSpec, ServerSpec
from perf.fleet.day import DAY_S

if TYPE_CHECKING:
    from collections.abc import Mapping

SERVERS, GB = 40, 10**9
COMMON, RARE = 60, 140
"""Models with a copy of their own, and those that are loaded when they are asked for."""
_START_S, _LOAD_S, _DRAIN_S = 40.0, 20.0, 10.0
_DEATHS_PER_DAY = 1.0
_BUSY = 16.0
"""Servers' worth of computing of all common models at the peak."""
_BURSTS, _BURST_S = 4, 1200.0
_BURST_LOAD = 0.1


@dataclass(slots=True)
class _Server:
    revision: str
    ready_s: float
    dies_s: float
    gone_s: float = math.inf
    models: dict[str, tuple[str, float]] = field(default_factory=dict)  # Revision, and when it is served.


@dataclass(slots=True)
class Crowd:
    """What came of it. Demand is in servers' worth of computing, in seconds."""

    placed: int = 0
    removed: int = 0
    deaths: int = 0
    demand_s: float = 0.0
    without_model_s: float = 0.0  # Nobody served the model.
    over_s: float = 0.0  # Its servers were busy beyond what they can do.
    server_h: float = 0.0
    waits_s: list[float] = field(
        default_factory=list
    )  # From the first request for a rare model until it was served.
    over_memory: int = 0  # Turns of servers that had more than their memory.
    notes: Counter[str] = field(default_factory=Counter)


def simulate_crowd(*, turn_s: float, seed: int, hours: float = 24.0, memory_gb: int = 32) -> Crowd:
    """Run the first hours of a day."""
    rng = random.Random(seed)
    specification = _specification(rng, memory_gb)
    world = _World(specification, rng)
    plan, routes = Plan(), dict[str, tuple[int, ...]]()
    for turn in range(int(hours * 3600.0 / turn_s)):
        time_s = turn * turn_s
        world.age(time_s)
        decision = decide(specification, world.serve(routes, time_s, turn_s), plan, time_s)
        plan, routes = decision.plan, dict(decision.routes)
        for note in decision.notes:
            world.crowd.notes[note.partition(":")[0]] += 1
        for action in decision.actions:
            world.carry_out(action, time_s)
    return world.crowd


class _World:
    """Servers, and who asks for which model."""

    def __init__(self, specification: FleetSpec, rng: random.Random) -> None:
        models = specification.models
        self._rng = rng
        self._sizes = {model.name: model.memory_bytes for model in models}
        self._limit = specification.server.memory_bytes
        self._phases = {model.name: rng.random() for model in models}
        self._bursts = {
            model.name: sorted(rng.uniform(0, DAY_S) for _ in range(_BURSTS))
            for model in models
            if model.copies == 0
        }
        self._servers: dict[int, _Server] = {}
        self._asked_since: dict[str, float] = {}
        self.crowd = Crowd()

    def age(self, time_s: float) -> None:
        """Let servers end."""
        for number, server in list(self._servers.items()):
            if server.gone_s <= time_s:
                del self._servers[number]
            elif server.dies_s <= time_s:
                del self._servers[number]
                self.crowd.deaths += 1

    def serve(self, routes: Mapping[str, tuple[int, ...]], time_s: float, turn_s: float) -> Observation:
        """Serve for a turn; what the controller sees of it."""
        crowd = self.crowd
        loads: defaultdict[int, float] = defaultdict(float)
        shares: dict[tuple[int, str], float] = {}
        asked = set()
        for name, phase in self._phases.items():
            demand = _demand(name, phase, self._bursts.get(name), time_s)
            hosts = [n for n in routes.get(name, ()) if _serves(self._servers.get(n), name, time_s)]
            crowd.demand_s += demand * turn_s
            if hosts and name in self._asked_since:
                crowd.waits_s.append(time_s - self._asked_since.pop(name))
            elif demand and not hosts:
                crowd.without_model_s += demand * turn_s
                asked.add(name)
                self._asked_since.setdefault(name, time_s)
            # The same for each; balancers would send less to those that are busy with other models.
            for number in hosts:
                shares[number, name] = demand / len(hosts)
                loads[number] += demand / len(hosts)
        crowd.over_s += turn_s * sum(max(0.0, load - 1.0) for load in loads.values())
        crowd.server_h += turn_s * len(self._servers) / 3600.0
        crowd.over_memory += sum(
            sum(self._sizes[name] for name in server.models) > self._limit
            for server in self._servers.values()
        )
        seen = (_observed(n, server, loads[n], shares, time_s) for n, server in self._servers.items())
        return Observation(servers=tuple(seen), asked=frozenset(asked))

    def carry_out(self, action: Action, time_s: float) -> None:
        """Do what the controller wants."""
        server = self._servers.get(action.number)
        if server is None:
            if isinstance(action, StartServer):
                self._start(action, time_s)
            return
        match action:
            case DrainServer():
                server.gone_s = min(server.gone_s, time_s + _DRAIN_S)
            case StopServer():
                del self._servers[action.number]
            case PlaceModel(model=model):
                server.models[model.name] = model.revision, time_s + _LOAD_S
                self.crowd.placed += 1
            case RemoveModel(name=name):
                del server.models[name]
                self.crowd.removed += 1
            case _:
                pass  # Started already.

    def _start(self, action: StartServer, time_s: float) -> None:
        ready_s = time_s + _START_S
        self._servers[action.number] = _Server(
            action.server.revision,
            ready_s,
            time_s + self._rng.expovariate(_DEATHS_PER_DAY / DAY_S),
            models={model.name: (model.revision, ready_s) for model in action.models},
        )
        self.crowd.placed += len(action.models)


def _specification(rng: random.Random, memory_gb: int) -> FleetSpec:
    models = [
        ModelSpec(name=f"common-{index}", revision="1", copies=1, memory_bytes=rng.randint(1, 8) * GB)
        for index in range(COMMON)
    ]
    models += [
        ModelSpec(name=f"rare-{index}", revision="1", copies=0, memory_bytes=rng.randint(2, 12) * GB)
        for index in range(RARE)
    ]
    return FleetSpec(
        models=tuple(models),
        server=ServerSpec(revision="A", memory_bytes=memory_gb * GB),
        servers_min=SERVERS // 2,
        servers_max=SERVERS,
    )


def _demand(name: str, phase: float, bursts: list[float] | None, time_s: float) -> float:
    """Common models' follow Zipf's law and have their peaks at different times; rare ones' come in bursts."""
    if bursts is not None:
        return _BURST_LOAD if any(begin <= time_s < begin + _BURST_S for begin in bursts) else 0.0
    rank = 1 + int(name.rpartition("-")[2])
    weights = sum(1.0 / (1 + index) for index in range(COMMON))
    return _BUSY / weights / rank * (0.6 + 0.4 * math.cos(2 * math.pi * (time_s / DAY_S + phase)))


def _serves(server: _Server | None, name: str, time_s: float) -> bool:
    return (
        server is not None
        and server.ready_s <= time_s
        and name in server.models
        and server.models[name][1] <= time_s
    )


def _observed(
    number: int, server: _Server, load: float, shares: dict[tuple[int, str], float], time_s: float
) -> ObservedServer:
    state = ServerState.READY if server.ready_s <= time_s else ServerState.STARTING
    if server.gone_s < math.inf:
        state = ServerState.DRAINING
    return ObservedServer(
        number=number,
        state=state,
        revision=server.revision,
        utilisation=min(1.0, load) if state is ServerState.READY else None,
        queue_depth=max(0.0, load - 1.0) * 32 if state is ServerState.READY else None,
        models={
            name: ObservedModel(
                revision=revision,
                served=revision if served_s <= time_s else "",
                load=shares.get((number, name), 0.0),
            )
            for name, (revision, served_s) in server.models.items()
        },
    )
