# SPDX-License-Identifier: Apache-2.0
"""Models: which servers have them, and how another revision of one comes to all of them."""

from __future__ import annotations

from msgspec.structs import replace

from ovms_mp.fleet.decisions.observation import Action, ObservedModel, PlaceModel, RemoveModel
from ovms_mp.fleet.decisions.specification import Deadlines, FleetSpec, ModelSpec, ServerSpec
from tests.support.tiny_fleet import TinyFleet

GB = 10**9


def model(name: str, gigabytes: int = 1, copies: int | None = None, revision: str = "1") -> ModelSpec:
    return ModelSpec(name=name, revision=revision, memory_bytes=gigabytes * GB, copies=copies)


def fleet_of(*models: ModelSpec, servers: int = 3, gigabytes: int = 8) -> FleetSpec:
    return FleetSpec(
        models=models,
        server=ServerSpec(revision="A", memory_bytes=gigabytes * GB),
        servers_min=servers,
        servers_max=servers,
    )


def running(specification: FleetSpec, *broken: str) -> TinyFleet:
    fleet = TinyFleet(specification, broken=frozenset(broken))
    fleet.turn(10)
    return fleet


def test_every_server_has_what_has_no_number_of_copies() -> None:
    fleet = running(fleet_of(model("a"), model("b")))

    assert set(fleet.served("a")) == set(fleet.served("b")) == {1, 2, 3}


def test_copies_go_where_there_is_most_room_and_stay() -> None:
    fleet = running(fleet_of(model("a", 5, 1), model("b", 5, 1), model("c", 2, 1)))

    places = [set(fleet.served(name)) for name in "abc"]
    assert len(set.union(*places)) == 3
    fleet.specification = fleet_of(model("a", 5, 1), model("b", 5, 1), model("c", 2, 1), model("d", 1, 2))
    fleet.turn(5)
    assert [set(fleet.served(name)) for name in "abc"] == places
    assert len(fleet.served("d")) == 2


def test_a_model_whose_load_grows_has_more_copies() -> None:
    fleet = running(fleet_of(model("a", copies=1)))
    (holder,) = fleet.served("a")
    fleet.servers[holder].models["a"] = ObservedModel(revision="1", served="1", load=1.0)

    fleet.turn(2)

    assert len(fleet.served("a")) == 2


def test_first_copies_come_before_second_ones() -> None:
    fleet = running(fleet_of(model("a", 4), model("b", 4), model("c", 4), servers=2, gigabytes=8))

    assert all(fleet.served(name) for name in "abc")


def test_a_model_that_is_asked_for_is_loaded_where_there_is_room() -> None:
    fleet = running(fleet_of(model("big", 5), model("a", 2, 0)))
    assert not fleet.served("a")

    fleet.asked = frozenset({"a"})
    fleet.turn()
    fleet.asked = frozenset()
    fleet.turn(2)

    assert len(fleet.served("a")) == 1


def test_what_nobody_asked_for_makes_room() -> None:
    specification = fleet_of(model("a", 5, 0), model("b", 5, 0), servers=1)
    specification = replace(specification, deadlines=Deadlines(idle_s=60.0))
    fleet = running(specification)
    fleet.asked = frozenset({"a"})
    fleet.turn(3)
    assert fleet.served("a")

    fleet.asked = frozenset({"b"})
    decision = fleet.turn()
    assert decision.actions == ()
    assert decision.notes == (
        "model b is on no server: it takes 5.00 GB, and the most room is 3.00 of 8.00 GB, on server 1",
    )
    actions: list[Action] = []
    for _ in range(10):
        actions += fleet.turn().actions

    assert actions == [RemoveModel(number=1, name="a"), PlaceModel(number=1, model=specification.models[1])]
    assert fleet.served("b")
    assert not fleet.served("a")


def test_a_model_that_is_only_loaded_when_asked_for_makes_room_for_one_that_always_is() -> None:
    rare, always = model("rare", 5, 0), model("always", 5, 1)
    fleet = running(fleet_of(rare, servers=1))
    fleet.asked = frozenset({"rare"})
    fleet.turn(3)
    assert fleet.served("rare")

    fleet.specification = fleet_of(rare, always, servers=1)
    fleet.turn(4)

    assert fleet.served("always")
    assert not fleet.served("rare")


def test_a_large_model_on_a_crowded_server_has_another_copy_but_not_more_while_that_loads() -> None:
    fleet = running(fleet_of(model("a", copies=1), model("b", copies=1), gigabytes=2, servers=1))
    fleet.specification = fleet_of(model("a", copies=1), model("b", copies=1), gigabytes=2, servers=3)
    fleet.turn(5)
    assert fleet.served("a") == fleet.served("b") == {1: "1"}
    fleet.demand = 3.0
    for name in "ab":
        fleet.servers[1].models[name] = ObservedModel(revision="1", served="1", load=0.5)

    fleet.turn(2)

    assert len(fleet.served("a")) == len(fleet.served("b")) == 2


def test_a_model_that_is_not_of_the_fleet_any_more_goes() -> None:
    fleet = running(fleet_of(model("a"), model("b")))
    fleet.specification = fleet_of(model("a"))

    decision = fleet.turn()

    assert "b" not in decision.routes
    assert {action.name for action in decision.actions if isinstance(action, RemoveModel)} == {"b"}


def test_another_revision_comes_to_one_server_and_then_to_the_others() -> None:
    fleet = running(fleet_of(model("a")))
    fleet.specification = fleet_of(model("a", revision="2"))
    seen = []
    for _ in range(30):
        assert len(fleet.turn().routes["a"]) == 3
        seen.append(sorted(fleet.served("a").values()))

    assert seen[3] == ["1", "1", "2"]
    assert seen[-1] == ["2", "2", "2"]
    assert fleet.turn().actions == ()


def test_a_revision_that_does_not_load_is_given_up_and_the_old_one_serves() -> None:
    fleet = running(fleet_of(model("a")), "2")
    fleet.specification = fleet_of(model("a", revision="2"))
    for _ in range(10):
        decision = fleet.turn()
        assert len(decision.routes["a"]) == 3

    assert set(fleet.served("a").values()) == {"1"}
    assert {server.models["a"].revision for server in fleet.servers.values()} == {"1"}
    assert decision.notes == ("revision a 2 was given up: server 1: it is broken",)
    fleet.specification = fleet_of(model("a", revision="3"))
    fleet.turn(20)
    assert set(fleet.served("a").values()) == {"3"}


def test_a_model_that_never_loads_holds_up_nothing_else() -> None:
    fleet = running(fleet_of(model("a"), model("b", revision="2")), "2")
    assert len(fleet.turn().routes["a"]) == 3

    fleet.specification = replace(fleet.specification, server=ServerSpec(revision="B", memory_bytes=8 * GB))
    fleet.turn(60)

    assert fleet.revisions() == ["B", "B", "B"]
