# SPDX-License-Identifier: Apache-2.0
"""A day of many models on few servers: which are loaded where, how often that changes, and who finds no model."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import dataclass, field

from ovms_mp.fleet.decisions.decision import decide
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
from ovms_mp.fleet.decisions.specification import FleetSpec, ModelSpec, ServerSpec
from perf.fleet.day import DAY_S

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
    sizes = {model.name: model.memory_bytes for model in specification.models}
    phases = {model.name: rng.random() for model in specification.models}
    bursts = {
        model.name: sorted(rng.uniform(0, DAY_S) for _ in range(_BURSTS))
        for model in specification.models
        if model.copies == 0
    }
    servers: dict[int, _Server] = {}
    crowd, plan, asked_since = Crowd(), Plan(), dict[str, float]()
    routes: dict[str, tuple[int, ...]] = {}
    time_s = 0.0
    while time_s < hours * 3600.0:
        _age(servers, crowd, time_s)
        demands = {name: _demand(name, phases[name], bursts.get(name), time_s) for name in sizes}
        loads: Counter[int] = Counter()
        shares: dict[tuple[int, str], float] = {}
        asked = set()
        for name, demand in demands.items():
            hosts = [number for number in routes.get(name, ()) if _serves(servers.get(number), name, time_s)]
            crowd.demand_s += demand * turn_s
            if not hosts:
                crowd.without_model_s += demand * turn_s
                if demand:
                    asked.add(name)
                    asked_since.setdefault(name, time_s)
                continue
            if name in asked_since:
                crowd.waits_s.append(time_s - asked_since.pop(name))
            # The same for each; balancers would send less to those that are busy with other models.
            for number in hosts:
                shares[number, name] = demand / len(hosts)
                loads[number] += demand / len(hosts)  # type: ignore[assignment]  # a Counter of floats
        crowd.over_s += turn_s * sum(max(0.0, load - 1.0) for load in loads.values())
        crowd.server_h += turn_s * len(servers) / 3600.0
        crowd.over_memory += sum(
            sum(sizes[name] for name in server.models) > memory_gb * GB for server in servers.values()
        )
        observation = Observation(
            servers=tuple(
                _observed(number, server, loads, shares, time_s) for number, server in servers.items()
            ),
            asked=frozenset(asked),
        )
        decision = decide(specification, observation, plan, time_s)
        plan, routes = decision.plan, dict(decision.routes)
        for note in decision.notes:
            crowd.notes[note.partition(":")[0]] += 1
        for action in decision.actions:
            match action:
                case StartServer(number=number, server=settings, models=models):
                    if number not in servers:
                        servers[number] = _Server(
                            settings.revision,
                            time_s + _START_S,
                            time_s + rng.expovariate(_DEATHS_PER_DAY / DAY_S),
                            models={model.name: (model.revision, time_s + _START_S) for model in models},
                        )
                        crowd.placed += len(models)
                case DrainServer(number=number):
                    servers[number].gone_s = min(servers[number].gone_s, time_s + _DRAIN_S)
                case StopServer(number=number):
                    del servers[number]
                case PlaceModel(number=number, model=model):
                    servers[number].models[model.name] = model.revision, time_s + _LOAD_S
                    crowd.placed += 1
                case RemoveModel(number=number, name=name):
                    del servers[number].models[name]
                    crowd.removed += 1
        time_s += turn_s
    return crowd


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


def _age(servers: dict[int, _Server], crowd: Crowd, time_s: float) -> None:
    for number, server in list(servers.items()):
        if server.gone_s <= time_s:
            del servers[number]
        elif server.dies_s <= time_s:
            del servers[number]
            crowd.deaths += 1


def _observed(
    number: int, server: _Server, loads: Counter[int], shares: dict[tuple[int, str], float], time_s: float
) -> ObservedServer:
    state = ServerState.READY if server.ready_s <= time_s else ServerState.STARTING
    if server.gone_s < math.inf:
        state = ServerState.DRAINING
    return ObservedServer(
        number=number,
        state=state,
        revision=server.revision,
        utilisation=min(1.0, loads[number]) if state is ServerState.READY else None,
        queue_depth=max(0.0, loads[number] - 1.0) * 32 if state is ServerState.READY else None,
        models={
            name: ObservedModel(
                revision=revision,
                served=revision if served_s <= time_s else "",
                load=shares.get((number, name), 0.0),
            )
            for name, (revision, served_s) in server.models.items()
        },
    )
