# SPDX-License-Identifier: Apache-2.0
"""Which servers start and which leave, for their number and for updates: new ones first, old ones afterwards."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ovms_mp.fleet.decisions.observation import ServerState
from ovms_mp.fleet.decisions.plan import PlannedServer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ovms_mp.fleet.decisions.specification import ServerSpec
    from ovms_mp.fleet.decisions.turn import Turn


def resize(turn: Turn) -> None:
    """Have as many servers of the right revision as are wanted."""
    plan, aim, base = turn.plan, turn.aim, turn.good.server
    wanted = plan.scaling.wanted
    live = turn.live()
    number_of = Counter(server.revision for server in live.values())
    old = number_of.total() - number_of[aim.revision]
    is_proven = aim.revision == base.revision or any(
        server.revision == aim.revision and turn.has_settled(server) for server in live.values()
    )
    _route(turn, live)
    waiting = Counter(retry.revision for retry in plan.retries if retry.at_s > plan.time_s)
    serving = number_of[plan.routed] if turn.is_consistent else number_of.total()
    shortage = wanted - serving - waiting[base.revision]
    _start(turn, base, shortage - _take_back(turn, base, shortage))
    if old:
        surge = turn.specification.update.surge if is_proven else 1
        room = min(old, wanted + surge - len(plan.servers))
        if turn.is_consistent:
            room = wanted - number_of[aim.revision]
        if not is_proven:
            room = min(room, 1 - number_of[aim.revision])
        _start(turn, aim, room - waiting[aim.revision])
    plan.retries = [retry for retry in plan.retries if retry.at_s > plan.time_s]
    live = turn.live()
    if not turn.is_consistent:
        surge = (turn.specification.update.surge if is_proven else 1) if old else 0
        _let_go(turn, live, wanted, surge, is_proven)
        return
    for revision in number_of:
        quota = wanted if revision in (plan.routed, aim.revision) else 0
        group = {number: server for number, server in live.items() if server.revision == revision}
        _let_go(turn, group, quota, 0, is_proven)


def _route(turn: Turn, live: Mapping[int, PlannedServer]) -> None:
    """Choose the revision that requests go to, where updates are consistent."""
    plan = turn.plan
    ready = Counter(server.revision for server in live.values() if server.is_ready)
    if not turn.is_consistent:
        plan.routed = ""
    elif ready[turn.aim.revision] >= plan.scaling.wanted:
        plan.routed = turn.aim.revision
    elif not plan.routed:
        plan.routed = ready.most_common(1)[0][0] if ready else turn.good.server.revision


def _take_back(turn: Turn, base: ServerSpec, most: int) -> int:
    """Let servers stay that have been told nothing yet."""
    leaving = [
        server
        for server in turn.plan.servers.values()
        if server.is_leaving
        and server.stop_s is None
        and server.is_ready
        and server.revision == base.revision == turn.aim.revision
    ]
    kept = leaving[: max(0, most)]
    for server in kept:
        server.is_leaving = False
    return len(kept)


def _start(turn: Turn, settings: ServerSpec, count: int) -> None:
    plan = turn.plan
    due = [
        retry for retry in plan.retries if retry.at_s <= plan.time_s and retry.revision == settings.revision
    ]
    for _ in range(count):
        retry = due.pop(0) if due else None
        if retry is not None:
            plan.retries.remove(retry)
        plan.servers[plan.next_number] = PlannedServer(
            revision=settings.revision, started_s=plan.time_s, failures=retry.failures if retry else 0
        )
        plan.next_number += 1


def _let_go(turn: Turn, group: Mapping[int, PlannedServer], quota: int, surge: int, is_proven: bool) -> None:
    """Choose servers that are too many: those that serve nothing first, then those of an old revision."""
    aim = turn.aim.revision

    def serves(server: PlannedServer) -> bool:
        return server.is_ready and (is_proven or server.revision != aim or turn.has_settled(server))

    total, serving = len(group), sum(map(serves, group.values()))
    keep = quota
    pending = [
        number
        for number, server in group.items()
        if number in turn.seen and turn.seen[number].state is ServerState.PENDING
    ]
    if pending:
        turn.notes.append(f"{len(pending)} servers wait for machines with room, the first is {pending[0]}")
        is_waiting = any(group[number].revision == aim for number in pending)
        if surge and is_waiting and not any(server.is_leaving for server in turn.plan.servers.values()):
            # There is room for a new one when an old one goes.
            keep = max(turn.specification.servers_min, min(quota, serving) - 1)
    order = sorted(group, key=lambda number: (group[number].is_ready, group[number].revision == aim, -number))
    for number in order:
        server = group[number]
        allowed = quota + (surge if server.revision == aim else 0)
        goes = serving > keep if serves(server) else total > allowed
        if goes:
            server.is_leaving = True
            total -= 1
            serving -= serves(server)


def drain(turn: Turn) -> None:
    """Tell those that are to leave to do so, once what they serve is served elsewhere."""
    plan, deadlines = turn.plan, turn.specification.deadlines
    availability = turn.availability()
    routed = {server.number: server for server in turn.routed()}
    ready = sum(server.is_ready for server in turn.live().values())
    has_enough, has_least = ready >= plan.scaling.wanted, ready >= turn.specification.servers_min
    for number, server in plan.servers.items():
        if not server.is_leaving or server.stop_s is not None:
            continue
        if server.unready_s is not None and not has_enough:
            continue
        if server.is_ready and not has_least:
            continue  # More are wanted than when it was chosen.
        seen = routed.get(number)
        held = [name for name, model in seen.models.items() if model.served] if seen is not None else []
        for name in held:
            if availability[name] <= turn.copies_to_keep(name):
                turn.notes.append(f"server {number} stays until model {name} is served elsewhere")
                break
        else:
            availability.subtract(held)
            server.stop_s = plan.time_s + (deadlines.drain_s if server.ready_s is not None else 0.0)
