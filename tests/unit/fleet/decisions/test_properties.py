# SPDX-License-Identifier: Apache-2.0
"""What holds whatever happens to a fleet: a random course of events, and a time without any at its end."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ovms_mp.fleet.decisions.observation import ServerState, StartServer
from ovms_mp.fleet.decisions.specification import (
    Deadlines,
    FleetSpec,
    ModelSpec,
    ScalingRule,
    ServerSpec,
    UpdateRule,
)
from tests.support.tiny_fleet import TinyFleet

GB = 10**9
MOST, SURGE = 8, 2
DEADLINES = Deadlines(start_s=60.0, load_s=60.0, settle_s=20.0, last_retry_s=40.0, idle_s=60.0)
FALLS = {
    "die": ServerState.ENDED,
    "drain": ServerState.DRAINING,
    "unready": ServerState.UNREADY,
    "wait": ServerState.READY,
}
EVENTS = st.one_of(
    st.tuples(st.just("die"), st.integers(0, 9)),
    st.tuples(st.just("vanish"), st.integers(0, 9)),
    st.tuples(st.just("drain"), st.integers(0, 9)),
    st.tuples(st.just("unready"), st.integers(0, 9)),
    st.tuples(st.just("demand"), st.sampled_from([0.0, 0.3, 1.0, 2.5, 4.0, 9.0])),
    st.tuples(st.just("server"), st.sampled_from(["A", "B", "bad"])),
    st.tuples(st.just("model"), st.sampled_from(["1", "2", "bad"])),
    st.tuples(st.just("least"), st.integers(1, 4)),
    st.tuples(st.just("asked"), st.sampled_from(["a", "rare", "often"])),
    st.tuples(st.just("slow"), st.integers(1, 4)),
    st.tuples(st.just("wait"), st.integers(1, 8)),
)


def specification(*, is_consistent: bool) -> FleetSpec:
    return FleetSpec(
        models=(
            ModelSpec(name="a", revision="1", memory_bytes=2 * GB),
            ModelSpec(name="often", revision="1", memory_bytes=3 * GB, copies=2),
            ModelSpec(name="rare", revision="1", memory_bytes=3 * GB, copies=0),
        ),
        server=ServerSpec(revision="A", memory_bytes=8 * GB),
        servers_min=2,
        servers_max=MOST,
        deadlines=DEADLINES,
        update=UpdateRule(surge=SURGE, is_consistent=is_consistent),
        scaling=ScalingRule(down_after_s=60.0, cool_down_s=10.0),
    )


def fall(fleet: TinyFleet, what: str, value: object) -> None:
    """Something befalls a server that is ready."""
    ready = fleet.ready()
    if not ready or not isinstance(value, int):
        return
    server = fleet.servers[ready[value % len(ready)]]
    if what == "vanish":
        del fleet.servers[server.number]
    else:
        server.state = FALLS[what]


def happen(fleet: TinyFleet, what: str, value: object) -> None:
    wanted = fleet.specification
    match what, value:
        case "demand", float(demand):
            fleet.demand = demand
        case "server", str(revision):
            if wanted.update.is_consistent:
                revision = f"{revision} {wanted.models[0].revision}"
            fleet.specification = replace(wanted, server=replace(wanted.server, revision=revision))
        case "model", str(revision):
            models = (replace(wanted.models[0], revision=revision), *wanted.models[1:])
            server = wanted.server
            if wanted.update.is_consistent:
                # As whoever reads a fleet's file does it: servers' revisions name the models'.
                server = replace(server, revision=f"{server.revision.partition(' ')[0]} {revision}")
            fleet.specification = replace(wanted, models=models, server=server)
        case "least", int(least):
            fleet.specification = replace(wanted, servers_min=least)
        case "asked", str(name):
            fleet.asked = frozenset({name})
        case "slow", int(turns):
            fleet.start_turns = turns
        case _:
            fall(fleet, what, value)


def checked_turn(fleet: TinyFleet) -> None:
    """A turn after which what always holds still does; that actions have targets is checked where they are done."""
    serving = set(fleet.ready())
    leaving = {n for n, s in fleet.plan.servers.items() if s.stop_s is not None}
    before = len(serving - leaving)
    decision = fleet.turn()
    wanted = fleet.specification
    after = len(set(decision.routed))
    if not wanted.update.is_consistent:
        stopped = sum(s.unready_s is not None for s in decision.plan.servers.values())
        assert after >= min(before - stopped, wanted.servers_min), (
            "less than the least number by its own choice"
        )
        live = [s for s in decision.plan.servers.values() if not s.is_leaving]
        assert len(live) <= max(MOST, before) + SURGE
    routed_revisions = {decision.plan.servers[number].revision for number in decision.routed}
    assert not wanted.update.is_consistent or len(routed_revisions) <= 1
    for number, server in decision.plan.servers.items():
        sizes = {model.name: model.memory_bytes for model in wanted.models}
        assert sum(sizes.get(name, 0) for name in server.models) <= wanted.server.memory_bytes, number
    for name, numbers in decision.routes.items():
        assert set(numbers) <= set(decision.routed), name


@settings(max_examples=30, deadline=None)
@given(st.booleans(), st.lists(EVENTS, max_size=25))
def test_whatever_happens(is_consistent: bool, events: list[tuple[str, object]]) -> None:
    fleet = TinyFleet(
        specification(is_consistent=is_consistent), broken=frozenset({"bad", "bad 1", "bad 2", "bad bad"})
    )
    fleet.turn(6)
    for what, value in events:
        happen(fleet, what, value)
        for _ in range(value if what == "wait" and isinstance(value, int) else 1):
            checked_turn(fleet)
        fleet.asked = frozenset()
    for server in fleet.servers.values():
        if server.state is ServerState.UNREADY:
            server.state = ServerState.READY
    is_bad = "bad" in fleet.specification.server.revision or "bad" in fleet.specification.models[0].revision
    for _ in range(150):
        checked_turn(fleet)
    # So is one whose servers have fallen one after the other before they had settled.
    is_bad = is_bad or bool(fleet.plan.failed)

    wanted = fleet.plan.scaling.wanted
    assert len(fleet.ready()) == wanted or is_bad
    if not is_bad:
        decision = fleet.turn()
        assert decision.actions == ()
        assert decision.notes == ()
        assert decision.is_settled
        assert set(fleet.revisions()) == {fleet.specification.server.revision}
        assert set(fleet.served("a").values()) == {fleet.specification.models[0].revision}
        assert len(fleet.served("often")) >= min(2, wanted)
    for _ in range(20):
        checked_turn(fleet)
    assert fleet.plan.scaling.wanted == wanted, "it changes its mind under constant load"
    if fleet.ready():
        assert not any(isinstance(action, StartServer) for action in fleet.turn().actions) or is_bad
