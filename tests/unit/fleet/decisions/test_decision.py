# SPDX-License-Identifier: Apache-2.0
"""Servers: their number, deaths and updates, turn by turn, with servers that do what the controller says."""

from __future__ import annotations

import itertools

from msgspec.structs import replace

from ovms_mp.fleet.decisions.observation import Action, DrainServer, ServerState, StartServer, StopServer
from ovms_mp.fleet.decisions.specification import Deadlines, FleetSpec, ModelSpec, ServerSpec, UpdateRule
from tests.support.tiny_fleet import TURN_S, TinyFleet, TinyServer

MODEL = ModelSpec(name="m", revision="1")
SPEC = FleetSpec(models=(MODEL,), server=ServerSpec(revision="A"), servers_min=3, servers_max=6)
UPDATED = replace(SPEC, server=ServerSpec(revision="B"))
CONSISTENT = UpdateRule(is_consistent=True)


def running(specification: FleetSpec = SPEC, **settings: object) -> TinyFleet:
    """A fleet whose servers have settled."""
    fleet = TinyFleet(specification, **settings)  # type: ignore[arg-type]
    fleet.turn(10)
    return fleet


def starts(fleet: TinyFleet) -> list[int]:
    assert fleet.decided is not None
    return [action.number for action in fleet.decided.actions if isinstance(action, StartServer)]


def test_a_fleet_begins_with_its_least_number_and_then_rests() -> None:
    fleet = TinyFleet(SPEC)

    assert [type(action) for action in fleet.turn().actions] == [StartServer] * 3
    fleet.turn(5)
    assert fleet.ready() == [1, 2, 3]
    assert fleet.turn().routes == {"m": (1, 2, 3)}
    assert fleet.turn().actions == ()


def test_a_start_is_given_again_until_the_server_is_seen() -> None:
    fleet = TinyFleet(SPEC)
    fleet.turn()
    first = starts(fleet)
    fleet.servers.clear()

    fleet.turn()

    assert starts(fleet) == first


def test_load_starts_servers_at_once_and_ends_them_later() -> None:
    fleet = running()
    fleet.demand = 3.0
    fleet.turn(4)
    assert len(fleet.ready()) == 5

    fleet.demand = 0.5
    fleet.turn(20)
    assert len(fleet.ready()) == 5
    fleet.turn(40)
    assert len(fleet.ready()) == 3


def test_a_dead_server_is_replaced_at_once() -> None:
    fleet = running()
    fleet.servers[2].state = ServerState.ENDED

    decision = fleet.turn()

    assert starts(fleet) == [4]
    assert StopServer(number=2) in decision.actions
    assert decision.routed == (1, 3)


def test_servers_that_die_again_and_again_are_replaced_ever_later() -> None:
    fleet = running()
    at: list[float] = []
    del fleet.servers[3]
    for _ in range(120):
        fleet.turn()
        if new := starts(fleet):
            at.append(fleet.now_s)
            fleet.turn()
            fleet.servers[new[0]].state = ServerState.ENDED

    pauses = [later - earlier for earlier, later in itertools.pairwise(at)]
    assert pauses == sorted(pauses)
    assert pauses[0] <= 3 * TURN_S
    assert pauses[-1] >= 20 * TURN_S
    assert fleet.ready() == [1, 2]


def test_a_server_that_somebody_else_drains_is_replaced_before_it_is_gone() -> None:
    fleet = running()
    fleet.servers[1].state = ServerState.DRAINING
    fleet.servers[1].models = {}

    # Seen to drain for one turn, it is gone with the next.
    fleet._age = lambda: None  # type: ignore[method-assign]
    decision = fleet.turn()

    assert starts(fleet) == [4]
    assert decision.routed == (2, 3)


def test_a_server_that_is_not_ready_any_more_is_replaced_after_a_while_and_new_first() -> None:
    fleet = running(start_turns=3)
    fleet.servers[2].state = ServerState.UNREADY
    for _ in range(4):
        # Whether it answers requests is for the balancers to see.
        assert fleet.turn().routed == (1, 2, 3)
    assert not starts(fleet)

    fleet.turn()
    assert starts(fleet) == [4]
    fleet.turn(3)
    assert 2 in fleet.servers
    fleet.turn(3)
    assert fleet.ready() == [1, 3, 4]
    assert 2 not in fleet.servers


def test_a_server_that_is_ready_again_stays_and_its_successor_is_not_needed() -> None:
    fleet = running(start_turns=5)
    fleet.servers[2].state = ServerState.UNREADY
    fleet.turn(6)
    assert 4 in fleet.servers
    fleet.servers[2].state = ServerState.READY

    fleet.turn(3)

    assert sorted(fleet.servers) == [1, 2, 3]


def test_a_controller_that_hears_of_no_server_leaves_the_balancers_theirs() -> None:
    fleet = running()
    for server in fleet.servers.values():
        server.state = ServerState.UNREADY

    for _ in range(20):
        decision = fleet.turn()
        assert {1, 2, 3} <= set(decision.routed) | {4}
    assert len(fleet.servers) <= 4
    assert decision.notes == ("3 servers are not ready any more; 1 are replaced at a time",)


def test_a_server_that_is_never_ready_is_stopped_after_its_deadline() -> None:
    fleet = TinyFleet(replace(SPEC, deadlines=Deadlines(start_s=60.0)), start_turns=1000)
    fleet.turn(6)
    assert sorted(fleet.servers) == [1, 2, 3]

    fleet.turn(4)

    assert not {1, 2, 3} & set(fleet.servers)


def test_a_server_without_a_place_waits_and_the_status_says_so() -> None:
    fleet = TinyFleet(replace(SPEC, deadlines=Deadlines(start_s=60.0)), places=2)

    decision = fleet.turn(30)

    assert fleet.servers[3].state is ServerState.PENDING
    assert any("wait for machines with room" in note for note in decision.notes)


def test_another_clock_changes_nothing() -> None:
    fleet = running()
    fleet.servers[2].state = ServerState.UNREADY
    fleet.turn(2)
    fleet.now_s = 5.0
    fleet.turn(2)
    assert not starts(fleet)

    fleet.now_s += 1e6
    fleet.turn()

    assert starts(fleet) == [4]


def test_an_update_starts_new_servers_before_old_ones_go() -> None:
    fleet = running()
    fleet.specification = UPDATED
    seen = set()
    for _ in range(60):
        decision = fleet.turn()
        assert len(decision.routed) >= 3
        assert len(fleet.servers) <= 4
        seen.add(tuple(sorted(fleet.revisions())))

    assert fleet.revisions() == ["B", "B", "B"]
    assert ("A", "A", "B") in seen
    assert fleet.turn().actions == ()


def test_an_update_needs_no_room_where_fewer_servers_may_do() -> None:
    fleet = running(replace(SPEC, servers_min=2), demand=1.7, places=3)
    assert len(fleet.ready()) == 3

    fleet.specification = replace(UPDATED, servers_min=2)
    for _ in range(60):
        assert len(fleet.turn().routed) >= 2

    assert fleet.revisions() == ["B", "B", "B"]


def test_a_revision_whose_servers_are_never_ready_is_given_up() -> None:
    deadlines = Deadlines(start_s=60.0)
    fleet = running(replace(SPEC, deadlines=deadlines), broken=frozenset({"B"}))
    fleet.specification = replace(UPDATED, deadlines=deadlines)
    fleet.turn(20)
    fleet.servers[1].state = ServerState.ENDED  # Its successor is what is known to run.

    for _ in range(40):
        decision = fleet.turn()
        assert len(decision.routed) >= 2

    assert fleet.revisions() == ["A", "A", "A"]
    assert any("revision B was given up: 3 servers" in note for note in decision.notes)
    assert len(fleet.servers) == 3
    fleet.specification = replace(UPDATED, server=ServerSpec(revision="C"))
    fleet.turn(60)
    assert fleet.revisions() == ["C", "C", "C"]


def test_a_consistent_update_never_mixes_revisions() -> None:
    fleet = running(replace(SPEC, update=CONSISTENT))
    fleet.specification = replace(UPDATED, update=CONSISTENT, models=(replace(MODEL, revision="2"),))
    for _ in range(40):
        decision = fleet.turn()
        assert len(decision.routed) == 3
        assert len({fleet.servers[number].revision for number in decision.routed}) == 1
        assert len({fleet.servers[number].models["m"].served for number in decision.routed}) == 1

    assert fleet.revisions() == ["B", "B", "B"]
    assert set(fleet.served("m").values()) == {"2"}


def test_a_server_keeps_the_last_copy_of_a_model_until_another_one_has_it() -> None:
    one = replace(MODEL, copies=1)
    fleet = running(replace(SPEC, models=(one,), servers_min=1, servers_max=2))
    holder = fleet.turn().routes["m"]
    fleet.specification = replace(UPDATED, models=(one,), servers_min=1, servers_max=2)

    for _ in range(40):
        assert fleet.turn().routes["m"]

    assert fleet.revisions() == ["B"]
    assert fleet.turn().routes["m"] != holder


def test_what_nobody_planned_and_has_ended_is_forgotten() -> None:
    fleet = running()
    fleet.servers[9] = TinyServer(number=9, revision="A", state=ServerState.ENDED)

    assert fleet.turn().actions == (StopServer(number=9),)
    assert fleet.plan.next_number == 10


def test_a_server_that_leaves_is_told_to_drain_before_it_is_stopped() -> None:
    fleet = running(replace(SPEC, servers_min=4))
    fleet.specification = SPEC
    fleet.plan.scaling.peaks.clear()
    actions: list[Action] = []
    for _ in range(40):
        actions += fleet.turn().actions

    assert actions == [DrainServer(number=4)]


def test_a_server_that_dies_while_an_update_is_to_be_tried_again_is_replaced_at_once() -> None:
    later = Deadlines(first_retry_s=100.0)
    fleet = running(replace(SPEC, deadlines=later), broken=frozenset({"B"}))
    fleet.specification = replace(UPDATED, deadlines=later)
    fleet.turn()
    (trial,) = starts(fleet)
    fleet.turn()
    del fleet.servers[trial]
    fleet.turn()
    fleet.servers[1].state = ServerState.ENDED

    fleet.turn()

    assert [fleet.servers[number].revision for number in starts(fleet)] == ["A"]
