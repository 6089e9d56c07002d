# SPDX-License-Identifier: Apache-2.0
"""What became of each server since the last turn, and which revisions have proved to run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from ovms_mp.fleet.decisions.observation import ServerState

if TYPE_CHECKING:
    from collections import Counter

    from ovms_mp.fleet.decisions.observation import ObservedServer
    from ovms_mp.fleet.decisions.plan import PlannedServer
    from ovms_mp.fleet.decisions.specification import ModelSpec
    from ovms_mp.fleet.decisions.turn import Turn

REPLACED_AT_ONCE = 0.1
"""The part of the servers that may be replaced at a time because they are not ready any more."""


def follow(turn: Turn) -> None:
    """Bring the plan up to what was observed."""
    plan = turn.plan
    plan.next_number = max(plan.next_number, 1 + max(turn.seen, default=0))
    availability = turn.availability()
    for number, server in list(plan.servers.items()):
        observed = turn.seen.get(number)
        is_ordered = observed is None and not server.was_seen  # Its start is given again.
        if is_ordered and (server.is_leaving or turn.server_of(server.revision) is None):
            del plan.servers[number]
            continue
        if not is_ordered and (observed is None or observed.state is ServerState.ENDED):
            _lose(turn, server)
            del plan.servers[number]
            continue
        if observed is not None:
            _follow_server(turn, server, observed, availability)
        if not server.is_leaving and _is_overdue(turn, server, turn.look(number), availability):
            _lose(turn, server)
            server.is_leaving, server.stop_s = True, plan.time_s
    _replace_unready(turn)
    _prove(turn)
    current = {turn.specification.server.revision, *(f"{m.name} {m.revision}" for m in turn.models.values())}
    plan.failed = {revision: why for revision, why in plan.failed.items() if revision in current}


def _follow_server(
    turn: Turn, server: PlannedServer, seen: ObservedServer, availability: Counter[str]
) -> None:
    time_s = turn.plan.time_s
    server.was_seen = True
    for name, model in server.models.items():
        if seen.model(name).served == model.revision and model.served_s is None:
            model.served_s = time_s
    if seen.state is ServerState.READY:
        if server.unready_s is not None:
            server.unready_s = None
            server.is_leaving = server.stop_s is not None  # It may stay, if it has not been told to go.
        if server.ready_s is None and _has_models(server, seen, availability):
            server.ready_s = time_s
        if turn.has_settled(server):
            server.failures = 0
    elif seen.state is ServerState.PENDING:
        server.started_s = time_s
    elif seen.state is ServerState.DRAINING and server.stop_s is None:
        server.is_leaving, server.stop_s = True, time_s + turn.specification.deadlines.drain_s
    elif server.ready_s is not None and server.unready_s is None:
        server.unready_s = time_s


def _has_models(server: PlannedServer, seen: ObservedServer, availability: Counter[str]) -> bool:
    """Whether it serves all that it is to; what no server can load is not held against one."""
    there = {name: seen.model(name) for name in server.models}
    return all(model.served or (model.failure and not availability[name]) for name, model in there.items())


def _is_overdue(turn: Turn, server: PlannedServer, seen: ObservedServer, availability: Counter[str]) -> bool:
    cannot = any(
        model.failure and not model.served and availability[name] for name, model in seen.models.items()
    )
    is_late = turn.plan.time_s - server.started_s > turn.specification.deadlines.start_s
    return server.ready_s is None and (cannot or is_late)


def _replace_unready(turn: Turn) -> None:
    """Have servers leave that have not been ready for too long: some at a time, and each once its successor is ready.

    That they do not answer the controller does not prove that they answer nobody.
    """
    plan = turn.plan
    latest_s = plan.time_s - turn.specification.deadlines.unready_s
    overdue = [s for s in plan.servers.values() if s.unready_s is not None and s.unready_s < latest_s]
    leaving = sum(server.is_leaving for server in overdue)
    most = max(1, int(plan.scaling.wanted * REPLACED_AT_ONCE))
    for server in [server for server in overdue if not server.is_leaving][: max(0, most - leaving)]:
        _lose(turn, server)
        server.is_leaving = True
    if overdue:
        turn.notes.append(f"{len(overdue)} servers are not ready any more; {most} are replaced at a time")


def _lose(turn: Turn, server: PlannedServer) -> None:
    """A server that was not to go is lost; one that did not settle is followed by another after a back-off."""
    if server.is_leaving or turn.has_settled(server):
        return
    plan, deadlines = turn.plan, turn.specification.deadlines
    failures = server.failures + 1
    delay_s = min(deadlines.first_retry_s * 2.0 ** min(failures - 1, 30), deadlines.last_retry_s)
    plan.start(server.revision, 1, delay_s, failures)
    is_first = server.revision not in (turn.good.server.revision, *plan.failed)
    if is_first and failures >= turn.specification.update.give_up_after:
        plan.failed[server.revision] = f"{failures} servers of it in a row were not ready for long enough"


def _prove(turn: Turn) -> None:
    """Note what has settled, to be what the fleet falls back to."""
    plan, wanted = turn.plan, turn.specification.server
    live = turn.live().values()
    is_routed = not turn.is_consistent or plan.routed in ("", wanted.revision)
    server = turn.good.server
    if is_routed and any(
        each.revision == wanted.revision and each.is_ready and turn.has_settled(each) for each in live
    ):
        server = wanted
    elif plan.good is None:
        return
    models: tuple[ModelSpec, ...] = turn.specification.models
    if turn.is_consistent and server is not wanted:
        models = turn.good.models
    elif not turn.is_consistent:
        earlier = turn.good_models
        proven = [model if _has_proved(turn, model) else earlier.get(model.name) for model in models]
        models = tuple(model for model in proven if model is not None)
    plan.good = replace(turn.specification, server=server, models=models)


def _has_proved(turn: Turn, model: ModelSpec) -> bool:
    latest_s = turn.plan.time_s - turn.specification.deadlines.settle_s
    return any(
        (there := server.models.get(model.name)) is not None
        and there.revision == model.revision
        and there.served_s is not None
        and there.served_s <= latest_s
        for server in turn.live().values()
    )
