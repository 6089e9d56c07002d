# SPDX-License-Identifier: Apache-2.0
"""Which servers start and which leave, for their number and for updates: new ones first, old ones afterwards."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ovms_mp.fleet.decisions.observation import ServerState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ovms_mp.fleet.decisions.plan import PlannedServer
    from ovms_mp.fleet.decisions.turn import Turn


def resize(turn: Turn) -> None:
    """Have as many servers of the right revision as are wanted."""
    plan, aim, base = turn.plan, turn.aim, turn.good.server.revision
    wanted = plan.scaling.wanted
    live = turn.live()
    number_of = Counter(server.revision for server in live.values())
    old = number_of.total() - number_of[aim]
    is_proven = aim == base or any(
        server.revision == aim and turn.has_settled(server) for server in live.values()
    )
    _route(turn, live)
    # What is tried again later does not stand in for what runs now.
    later = {n for n, server in live.items() if server.started_s > plan.time_s and server.revision != base}
    serving = number_of[plan.routed] if turn.is_consistent else number_of.total() - len(later)
    plan.start(base, wanted - serving)
    if old:
        surge = turn.specification.update.surge if is_proven else 1
        room = min(old, wanted + surge - len(plan.servers))
        if turn.is_consistent:
            room = wanted - number_of[aim]
        if not is_proven:
            room = min(room, 1 - number_of[aim])
        plan.start(aim, room)
    plan.servers = {n: s for n, s in plan.servers.items() if n not in later or s.revision == aim}
    live = {number: server for number, server in turn.live().items() if number not in later}
    if not turn.is_consistent:
        surge = (turn.specification.update.surge if is_proven else 1) if old else 0
        _let_go(turn, live, wanted, surge, is_proven)
        return
    for revision in number_of:
        quota = wanted if revision in (plan.routed, aim) else 0
        group = {number: server for number, server in live.items() if server.revision == revision}
        _let_go(turn, group, quota, 0, is_proven)


def _route(turn: Turn, live: Mapping[int, PlannedServer]) -> None:
    """Choose the revision that requests go to, where updates are consistent."""
    plan = turn.plan
    ready = Counter(server.revision for server in live.values() if server.is_ready)
    if not turn.is_consistent:
        plan.routed = ""
    elif ready[turn.aim] >= plan.scaling.wanted:
        plan.routed = turn.aim
    elif not plan.routed:
        plan.routed = ready.most_common(1)[0][0] if ready else turn.good.server.revision


def _let_go(turn: Turn, group: Mapping[int, PlannedServer], quota: int, surge: int, is_proven: bool) -> None:
    """Choose servers that are too many: those that serve nothing first, then those of an old revision."""
    aim = turn.aim

    def serves(server: PlannedServer) -> bool:
        return server.is_ready and (is_proven or server.revision != aim or turn.has_settled(server))

    total, serving = len(group), sum(map(serves, group.values()))
    keep = quota
    pending = [number for number in group if turn.look(number).state is ServerState.PENDING]
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
