# SPDX-License-Identifier: Apache-2.0
"""Who may be there, and who leaves when there are too many."""

from __future__ import annotations

import pytest

from ovms_mp.front.grpc.http2.connections import Connections

MS_NS = 1_000_000
NOW_NS = 10**12


class Client:
    """A connection that notes what it is told. It goes as soon as that is said to the keeper by a test."""

    def __init__(self, name: str, rank: tuple[bool, int] | None) -> None:
        self.name = name
        self.rank = rank
        self.told: list[str] = []
        self.is_idle = rank is not None

    def idle_rank(self, now_ns: int) -> tuple[bool, int] | None:
        return None if self.told else self.rank

    def leave(self) -> None:
        self.told.append("leave")

    def abort(self) -> None:
        self.told.append("abort")

    def drain(self) -> None:
        self.told.append("drain")

    def stop(self) -> None:
        self.told.append("stop")

    def tick(self) -> None:
        self.told.append("tick")


def full(*ranks: tuple[bool, int] | None) -> tuple[Connections, list[Client]]:
    connections = Connections(len(ranks))
    clients = [Client(str(index), rank) for index, rank in enumerate(ranks)]
    for client in clients:
        connections.add(client)
    return connections, clients


def test_while_there_is_room_nobody_goes() -> None:
    connections, clients = full((True, 5), (True, 6))
    connections.remove(clients[0])

    assert connections.make_room(NOW_NS)
    assert not clients[1].told


def test_who_never_greeted_goes_first_then_who_is_idle_for_longest() -> None:
    connections, clients = full((True, 5), None, (False, 9), (True, 4))

    for expected in (clients[2], clients[3]):
        assert connections.make_room(NOW_NS)
        assert expected.told[0] == "leave"
        connections.add(Client("new", None))

    assert not clients[0].told
    assert not clients[1].told


def test_one_that_does_not_leave_is_aborted_for_the_next() -> None:
    connections, clients = full((True, 5), (True, 6))
    for _ in range(2):
        assert connections.make_room(NOW_NS)
        connections.add(Client("new", None))

    assert clients[0].told == ["leave", "abort"]
    assert clients[1].told == ["leave"]
    assert clients[0] not in connections.members


def test_when_all_are_busy_there_is_no_room_and_no_look_at_all_of_them_for_a_while() -> None:
    connections, clients = full(None, None)
    assert not connections.make_room(NOW_NS)
    clients[0].rank = (True, 1)

    assert not connections.make_room(NOW_NS + MS_NS)
    assert connections.make_room(NOW_NS + 51 * MS_NS)


@pytest.mark.parametrize(("faults", "calm_ms"), [(1, 20), (3, 60), (100, 1000)])
def test_each_fault_delays_new_connections_up_to_a_second(faults: int, calm_ms: int) -> None:
    connections = Connections(1)

    for _ in range(faults):
        connections.calm_down(NOW_NS)

    assert connections.calm_ns == NOW_NS + calm_ms * MS_NS
