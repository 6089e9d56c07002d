# SPDX-License-Identifier: Apache-2.0
"""Servers, machines, balancers and clients of a simulated fleet, as far as a controller's decisions touch them.

The balancers choose the server with the fewest requests, so all servers have about equal queues: the load is a fluid in
one pool. A server that dies takes the requests with it that it computes and that wait there; one that is cut off also
what is sent to it until the balancers' checks have failed. What finds every queue full is refused.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from perf.fleet.day import Day

OLD, NEW = "old", "new"
"""Revisions of servers."""
ANSWERS_PER_S = 100.0
"""Of a server that is busy all the time."""
AT_ONCE = 4
"""Requests that a server computes."""
QUEUE = 64
"""Requests that wait at a server at most."""
ZONES = 3
START_S = 40.0
LOAD_S = 20.0
DRAIN_S = 5.0
CHECKS_S = 3.0
"""Until balancers take a server out that does not answer any more."""
BAD_LIFE_S = 15.0
NODE_GONE_S = 60.0
"""Until a machine that is cut off is taken to be gone, with its servers."""


@dataclass(slots=True)
class SimulatedServer:
    """A server. ``ready_s`` is when it is or was ready, ``dies_s`` when it dies; infinite for never."""

    number: int
    revision: str
    machine: int
    ready_s: float
    dies_s: float
    load: float = 0.0
    is_placed: bool = True
    drained_s: float | None = None
    has_ended: bool = False
    models: dict[str, tuple[str, float]] = field(default_factory=dict)  # Revision, and when it is served.


@dataclass(slots=True)
class Lost:
    """Requests without an answer, by why."""

    refused: float = 0.0  # Queues were full.
    died: float = 0.0  # With the server that computed them.
    cut: float = 0.0  # Sent to servers that were cut off.
    stopped: float = 0.0  # With a server that the controller ended.
    nobody: float = 0.0  # There was no server.

    def total(self) -> float:
        """All of them."""
        return self.refused + self.died + self.cut + self.stopped + self.nobody


class World:
    """All that a controller has to do with. ``advance``, ``observe`` and ``carry_out`` make a turn."""

    def __init__(self, day: Day, most_servers: int, peak_per_s: float, seed: int) -> None:
        self._day = day
        self._random = random.Random(seed)
        self._peak_per_s = peak_per_s
        machines = int(most_servers * day.room) // ZONES * ZONES
        self._free = list(range(machines))
        self._random.shuffle(self._free)
        self._bad = set(self._random.sample(range(machines), round(machines * day.bad_share)))
        self._waiting = 0.0
        self._cut_s = float("-inf")
        self._utilisation = 0.0
        self.servers: dict[int, SimulatedServer] = {}
        self.routed: frozenset[int] = frozenset()
        self.lost = Lost()
        self.sent = 0.0
        self.server_s = 0.0
        self.started = 0
        self.time_s = 0.0

    def advance(self, time_s: float) -> float:
        """Let time pass; how many requests a second were sent."""
        lapse_s = time_s - self.time_s
        self.time_s = time_s
        is_first_cut = self._is_cut_now() and self._cut_s == float("-inf")
        if is_first_cut:
            self._cut_s = time_s
        self._age()
        serving = self._serving()
        if is_first_cut:
            cut = sum(self._is_cut(server) for server in serving)
            share = cut / len(serving) if serving else 0.0
            self.lost.cut += (
                share * (self._rate() * CHECKS_S + self._waiting) + cut * AT_ONCE * self._utilisation
            )
            self._waiting *= 1.0 - share
        able = [server for server in serving if not self._is_cut(server)]
        rate = self._rate() * max(0.0, self._random.gauss(1.0, self._day.noise))
        sent = rate * lapse_s
        self.sent += sent
        self._serve(sent, len(able), lapse_s)
        for server in self.servers.values():
            server.load = self._utilisation if server.number in self.routed else 0.0
        self.server_s += lapse_s * sum(
            server.is_placed and not server.has_ended for server in self.servers.values()
        )
        return rate

    def reset(self) -> None:
        """Count from now on."""
        self.lost, self.sent, self.server_s, self.started = Lost(), 0.0, 0.0, 0

    def serving(self) -> int:
        """Servers that requests go to and that answer."""
        return sum(not self._is_cut(server) for server in self._serving())

    def new_part(self) -> float:
        """The part of those that are of the new revision."""
        serving = self._serving()
        return sum(server.revision == NEW for server in serving) / len(serving) if serving else 0.0

    def _rate(self) -> float:
        return self._peak_per_s * self._day.load(self.time_s)

    def _serve(self, sent: float, able: int, lapse_s: float) -> None:
        capacity = able * ANSWERS_PER_S * lapse_s
        work = self._waiting + sent
        if not able:
            self.lost.nobody += work
            self._waiting = self._utilisation = 0.0
            return
        left = max(0.0, work - capacity)
        refused = max(0.0, left - able * QUEUE)
        self.lost.refused += refused
        self._waiting = left - refused
        self._utilisation = min(1.0, work / capacity)

    def _is_cut_now(self) -> bool:
        return self._day.lost_zone is not None and self.time_s in self._day.lost_zone

    def _is_cut(self, server: SimulatedServer) -> bool:
        return server.machine % ZONES == 0 and self._is_cut_now()

    def _serving(self) -> list[SimulatedServer]:
        return [
            server
            for number in self.routed
            if (server := self.servers.get(number)) is not None
            and not server.has_ended
            and server.ready_s <= self.time_s
        ]

    def _age(self) -> None:
        for server in list(self.servers.values()):
            if not server.is_placed:
                self._find_place(server)
            is_gone = self._is_cut(server) and self.time_s - self._cut_s > NODE_GONE_S
            if is_gone or (server.drained_s is not None and server.drained_s <= self.time_s):
                self._remove(server)
            elif server.dies_s <= self.time_s and not server.has_ended:
                self._end(server, "died")

    def _end(self, server: SimulatedServer, why: str) -> None:
        """A server ends with what it has to do."""
        serving = self._serving()
        if server in serving and not self._is_cut(server):
            waiting = self._waiting / len(serving)
            self._waiting -= waiting
            lost = waiting + AT_ONCE * self._utilisation
            setattr(self.lost, why, getattr(self.lost, why) + lost)
        server.has_ended = True

    def _remove(self, server: SimulatedServer) -> None:
        del self.servers[server.number]
        if server.is_placed:
            self._free.append(server.machine)

    def observe(self) -> Observation:
        """What the controller sees."""
        is_blind = self._day.blind is not None and self.time_s in self._day.blind
        found = []
        depth = self._waiting / max(1, len(self._serving()))
        for server in self.servers.values():
            state = self._state(server)
            is_heard = not self._is_cut(server) and not (
                is_blind and (server.number * 7919 % 1000) / 1000 < self._day.blind_share
            )
            if not is_heard and state in (ServerState.READY, ServerState.STARTING):
                state = ServerState.UNREADY
            knows = is_heard and state is ServerState.READY
            noise = max(0.0, self._random.gauss(1.0, self._day.noise)) if knows else 0.0
            found.append(
                ObservedServer(
                    number=server.number,
                    state=state,
                    revision=server.revision,
                    utilisation=min(1.0, server.load * noise) if knows else None,
                    queue_depth=depth * noise if knows else None,
                    models={
                        name: ObservedModel(
                            revision=revision,
                            served=revision if served_s <= self.time_s else "",
                            load=server.load,
                        )
                        for name, (revision, served_s) in server.models.items()
                    },
                )
            )
        return Observation(servers=tuple(found))

    def _state(self, server: SimulatedServer) -> ServerState:
        if server.has_ended:
            return ServerState.ENDED
        if server.drained_s is not None:
            return ServerState.DRAINING
        if not server.is_placed:
            return ServerState.PENDING
        return ServerState.READY if server.ready_s <= self.time_s else ServerState.STARTING

    def carry_out(self, actions: tuple[Action, ...]) -> None:
        """Do what the controller wants."""
        for action in actions:
            server = self.servers.get(action.number)
            if server is not None:
                self._change(server, action)
            elif isinstance(action, StartServer):
                self._start(action)

    def _change(self, server: SimulatedServer, action: Action) -> None:
        match action:
            case DrainServer():
                if server.drained_s is None:
                    server.drained_s = self.time_s + DRAIN_S
            case StopServer():
                if not server.has_ended and server.drained_s is None:
                    self._end(server, "stopped")
                self._remove(server)
            case PlaceModel(model=model):
                server.models[model.name] = model.revision, self.time_s + LOAD_S
            case RemoveModel():
                del server.models[action.name]
            case _:
                pass  # Started already.

    def _start(self, action: StartServer) -> None:
        self.started += 1
        server = SimulatedServer(
            number=action.number,
            revision=action.server.revision,
            machine=-1,
            ready_s=float("inf"),
            dies_s=float("inf"),
            is_placed=False,
            models={model.name: (model.revision, 0.0) for model in action.models},
        )
        self.servers[action.number] = server
        self._find_place(server)

    def _find_place(self, server: SimulatedServer) -> None:
        places = [
            index
            for index, machine in enumerate(self._free)
            if not (self._is_cut_now() and machine % ZONES == 0)
        ]
        if not places:
            return
        index = self._random.choice(places)
        self._free[index], self._free[-1] = self._free[-1], self._free[index]
        server.machine = self._free.pop()
        server.is_placed = True
        slow = self._day.slow_factor if self._day.slow is not None and self.time_s in self._day.slow else 1.0
        is_broken = self._day.is_bad_update and server.revision == NEW
        if not is_broken:
            server.ready_s = self.time_s + START_S * slow * self._random.uniform(0.8, 1.5)
        if server.machine in self._bad:
            server.dies_s = server.ready_s + BAD_LIFE_S
        elif self._day.deaths_per_day:
            server.dies_s = self.time_s + self._random.expovariate(self._day.deaths_per_day / 86400.0)
