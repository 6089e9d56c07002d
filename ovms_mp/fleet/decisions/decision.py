# SPDX-License-Identifier: Apache-2.0
"""One turn of a fleet's controller: from what is wanted, observed and planned to a new plan, routes and actions."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.fleet.decisions.lifecycle import follow
from ovms_mp.fleet.decisions.observation import (
    Action,
    DrainServer,
    Observation,
    PlaceModel,
    RemoveModel,
    ServerState,
    StartServer,
    StopServer,
)
from ovms_mp.fleet.decisions.placement import Placement
from ovms_mp.fleet.decisions.plan import Plan, PlannedServer
from ovms_mp.fleet.decisions.scaling import rescale
from ovms_mp.fleet.decisions.sizing import drain, resize
from ovms_mp.fleet.decisions.turn import Turn

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ovms_mp.fleet.decisions.observation import ObservedServer
    from ovms_mp.fleet.decisions.specification import FleetSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What follows from a turn."""

    plan: Plan  # To be kept, before anything else is done.
    routed: tuple[int, ...]  # Servers that requests go to.
    routes: Mapping[str, tuple[int, ...]]  # Of each model, those of them that serve it.
    actions: tuple[Action, ...]  # To be carried out when the balancers have the routes.
    notes: tuple[str, ...]  # Sentences on what does not go as wanted, for the fleet's status.
    is_settled: bool  # Everything was as it is to be.


def decide(specification: FleetSpec, observation: Observation, plan: Plan, now_s: float) -> Decision:
    """Decide what the fleet does next.

    Args:
        specification: What it is to be.
        observation: What it is; servers that are not in it do not exist.
        plan: The last turn's, which stays as it is; an empty one at the beginning.
        now_s: The caller's monotonic clock.
    """
    turn = Turn(specification, observation, plan.next_turn(now_s))
    follow(turn)
    scaling = turn.plan.scaling
    # One whose load is not known yet as it has just become ready has none.
    sharing = [
        server
        for server in turn.routed()
        if server.utilisation is not None or turn.has_settled(turn.plan.servers[server.number])
    ]
    rescale(scaling, specification, sharing, turn.plan.time_s)
    resize(turn)
    Placement(turn).place()
    drain(turn)
    turn.notes += [f"revision {name} was given up: {why}" for name, why in turn.plan.failed.items()]
    routed = turn.routed()
    routes = defaultdict[str, list[int]](list)
    for server in routed:
        for name in turn.plan.servers[server.number].models:
            if server.model(name).served:
                routes[name].append(server.number)
    return Decision(
        plan=turn.plan,
        routed=tuple(server.number for server in routed),
        routes={name: tuple(numbers) for name, numbers in routes.items()},
        actions=tuple(_actions(turn)),
        notes=tuple(turn.notes),
        is_settled=_is_settled(turn),
    )


def _is_settled(turn: Turn) -> bool:
    servers = turn.observation.servers
    served = {(name, model.served) for server in servers for name, model in server.models.items()}
    wanted = {(model.name, model.revision) for model in turn.models.values()}
    needed = {(model.name, model.revision) for model in turn.models.values() if model.copies != 0}
    return (
        len(servers) == turn.plan.scaling.wanted
        and all(each.state is ServerState.READY for each in servers)
        and {each.revision for each in servers} == {turn.specification.server.revision}
        and needed <= served <= wanted
    )


def _actions(turn: Turn) -> Iterator[Action]:
    """The difference between what is planned and what was observed."""
    for number, server in turn.plan.servers.items():
        seen = turn.seen.get(number)
        if server.stop_s is not None:
            if seen is not None and turn.plan.time_s >= server.stop_s:
                yield StopServer(number=number)
            elif seen is not None and seen.state is not ServerState.DRAINING:
                yield DrainServer(number=number)
        elif seen is not None:
            yield from _model_actions(turn, server, seen)
        elif (
            server.started_s <= turn.plan.time_s and (settings := turn.server_of(server.revision)) is not None
        ):
            models = [turn.model_of(name, model.revision) for name, model in server.models.items()]
            known = tuple(model for model in models if model is not None)
            yield StartServer(number=number, server=settings, models=known)
    for number in turn.seen.keys() - turn.plan.servers.keys():
        yield StopServer(number=number)


def _model_actions(turn: Turn, server: PlannedServer, seen: ObservedServer) -> Iterator[Action]:
    if seen.state is not ServerState.READY:
        return
    surplus = seen.models.keys() - server.models.keys()
    for name in sorted(surplus):
        yield RemoveModel(number=seen.number, name=name)
    if surplus:
        return  # Their memory may be what the others need.
    for name, planned in server.models.items():
        model = turn.model_of(name, planned.revision)
        if model is not None and seen.model(name).revision != planned.revision:
            yield PlaceModel(number=seen.number, model=model)
