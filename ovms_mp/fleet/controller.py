# SPDX-License-Identifier: Apache-2.0
"""The controller of a fleet: a Ray actor that observes, has :mod:`ovms_mp.fleet.decisions` decide, and carries out.

Nothing depends on it for the moment: servers and balancers go on without it. Ray starts it again where it dies, and it
finds its file and its plan in Ray's store of values and its actors by their names.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import Any

import msgspec
import ray
from msgspec.structs import replace
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayActorError, RayError
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put

from ovms_mp.defects import contain
from ovms_mp.fleet.cluster import Cast, last_line, nodes
from ovms_mp.fleet.decisions.decision import Decision, decide
from ovms_mp.fleet.decisions.observation import (
    Action,
    DrainServer,
    Observation,
    ObservedServer,
    PlaceModel,
    RemoveModel,
    ServerState,
    StartServer,
    StopServer,
)
from ovms_mp.fleet.decisions.plan import Plan
from ovms_mp.fleet.file import Fleet
from ovms_mp.fleet.haproxy import ANY, Place
from ovms_mp.wire.fleet_status import abridged

_log = logging.getLogger(__name__)
_TURN_S = 1.0
_OBSERVE_S = 2.0
_FIRST_OBSERVE_S = 10.0
_BALANCE_S = 5.0


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What survives the controller."""

    fleet: Fleet
    plan: Plan


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What a fleet is, for people and programs."""

    fleet: str
    entries: tuple[dict[str, Any], ...] = ()  # Addresses, and what went wrong where there is none.
    wanted: int = 0
    is_settled: bool = False  # Everything is as the file says.
    revision: str = ""  # That servers are to have.
    models: dict[str, str] = {}  # Revisions that models are to have.
    servers: tuple[ObservedServer, ...] = ()
    notes: tuple[str, ...] = ()


class Controller:
    """Turns until it is stopped, in a thread of its own."""

    def __init__(self, fleet: Fleet) -> None:
        """Begin, or go on where an earlier controller of this fleet ended, as it was to be then."""
        self._cast = Cast(fleet.name)
        self._key = f"ovms_mp fleet {fleet.name}".encode()
        kept = _internal_kv_get(self._key)
        self._kept = msgspec.json.decode(kept, type=_Kept) if kept else _Kept(fleet=fleet, plan=Plan())
        self._handles = self._cast.servers()
        self._reports: dict[int, ObservedServer] = {}
        self._pending: dict[int, Any] = {}
        self._asked: frozenset[str] = frozenset()
        self._told = (b"", 0.0)  # What servers are told of the fleet, and when it was so.
        self._ends: deque[tuple[str, str]] = deque(maxlen=3)
        self._entries: dict[str, dict[str, Any]] = {}
        self._status = Status(fleet=fleet.name)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._loop = threading.Thread(target=self._turns, daemon=True)
        self._loop.start()

    def _turns(self) -> None:
        while not self._stopping.is_set():
            started_s = time.monotonic()
            contain("fleet.turn", "this turn", self._turn)
            self._stopping.wait(max(0.0, started_s + _TURN_S - time.monotonic()))

    def _turn(self) -> None:
        with self._lock:
            fleet, plan = self._kept.fleet, self._kept.plan
        servers, seen_s = self._observe(), time.monotonic()
        observation = Observation(servers=servers, asked=self._asked)
        decision = decide(fleet.specification, observation, plan, time.monotonic())
        with self._lock:
            self._keep(replace(self._kept, plan=decision.plan))
        self._entries = self._balance(fleet, decision)
        are_told = bool(self._entries) and not any("error" in entry for entry in self._entries.values())
        with self._lock:
            self._status = Status(
                fleet=fleet.name,
                entries=tuple(self._entries.values()),
                wanted=decision.plan.scaling.wanted,
                is_settled=are_told and decision.is_settled and fleet is self._kept.fleet,
                revision=fleet.specification.server.revision,
                models={model.name: model.revision for model in fleet.specification.models},
                servers=servers,
                notes=(*decision.notes, *map("".join, self._ends)),
            )
        for action in decision.actions:
            if are_told or not isinstance(action, DrainServer | RemoveModel):
                contain("fleet.action", repr(action)[:200], self._act, action)
        # Whoever sees the page need not know paths.
        notes = [*decision.notes, *(end for end, _ in self._ends)]
        self._told = abridged({**self.status(), "notes": notes}), seen_s

    def _keep(self, kept: _Kept) -> None:
        _internal_kv_put(self._key, msgspec.json.encode(kept), overwrite=True)
        self._kept = kept

    def _observe(self) -> tuple[ObservedServer, ...]:
        """Ask all servers at once; what does not answer in time is asked no second time meanwhile."""
        told, seen_s = self._told
        for number, handle in self._handles.items():
            if number not in self._pending:
                self._pending[number] = handle.observe.remote(told, time.monotonic() - seen_s)
        if self._pending:
            # A controller that has just begun knows nothing of those that do not answer in time.
            within_s = _OBSERVE_S if self._reports else _FIRST_OBSERVE_S
            ray.wait(list(self._pending.values()), num_returns=len(self._pending), timeout=within_s)
        return tuple(map(self._observed, self._handles))

    def _observed(self, number: int) -> ObservedServer:
        last = self._reports.get(number, ObservedServer(number=number, state=ServerState.PENDING))
        state = ServerState.UNREADY if last.state is ServerState.READY else last.state
        try:
            seen: ObservedServer = ray.get(self._pending[number], timeout=0)
            self._reports[number] = seen
        except GetTimeoutError:
            return _silent(last, state)
        except ActorUnavailableError:
            seen = _silent(last, state)
        except RayActorError as error:
            seen = _silent(last, ServerState.ENDED)
            self._note_end(number, f"its actor has died: {last_line(error)}")
        del self._pending[number]
        if seen.exit_code:
            self._note_end(number, f"exit code {seen.exit_code}", f"; its log is {seen.log} of {seen.host}")
        return seen

    def _note_end(self, number: int, why: str, where: str = "") -> None:
        """For the status, as the server itself is soon forgotten."""
        end = (f"server {number} ended: {why}", where)
        if end not in self._ends:
            self._ends.append(end)
            _log.warning("event=server_ended number=%d %s%s", number, why, where)

    def _balance(self, fleet: Fleet, decision: Decision) -> dict[str, dict[str, Any]]:
        """Give the balancers the routes; the address of each machine that lives, or what went wrong there."""
        places = {
            number: Place(host=seen.host, port=seen.port, rest_port=seen.rest_port)
            for number, seen in self._reports.items()
            if number in self._handles
        }
        # Models without a server have a backend, too: what it is asked for is counted.
        models = {model.name: () for model in fleet.specification.models}
        wanted: dict[str, tuple[int, ...]] = {ANY: decision.routed, **models, **decision.routes}
        routes = {name: [each for each in numbers if each in places] for name, numbers in wanted.items()}
        answers = {
            node: self._cast.balancer(node).update.remote(fleet.entry, fleet.slots, places, routes)
            for node in nodes(fleet.entry.machines)
        }
        if answers:
            ray.wait(list(answers.values()), num_returns=len(answers), timeout=_BALANCE_S)
        entries: dict[str, dict[str, Any]] = {}
        for node, answer in answers.items():
            try:
                entries[node] = ray.get(answer, timeout=0)
            except (RayError, GetTimeoutError) as error:
                entries[node] = {"error": last_line(error)}
        if entries.keys() != self._entries.keys():
            self._end_balancers(set(entries))
        asked = {name for entry in entries.values() for name in entry.get("asked", ())}
        self._asked = frozenset(name for name in asked if not routes.get(name))
        return entries

    def _end_balancers(self, kept: set[str]) -> None:
        """End those of machines that are to have no address any more, or that are gone."""
        there = nodes("all")
        for node, balancer in self._cast.balancers().items():
            if node not in kept:
                if node in there:
                    ray.wait([balancer.stop.remote()], timeout=_BALANCE_S)
                self._cast.end(balancer)

    def _act(self, action: Action) -> None:
        match action:
            case StartServer():
                if action.number not in self._handles:
                    handle = self._cast.start_server(action.number, action.server, action.models)
                    self._handles[action.number] = handle
            case DrainServer():
                self._handles[action.number].drain.remote()
            case StopServer():
                self._forget(action.number)
            case PlaceModel():
                self._handles[action.number].place.remote(action.model)
            case RemoveModel():
                self._handles[action.number].remove.remote(action.name)

    def _forget(self, number: int) -> None:
        handle = self._handles.pop(number)
        self._reports.pop(number, None)
        self._pending.pop(number, None)
        ray.wait([handle.stop.remote()], timeout=_OBSERVE_S)
        self._cast.end(handle)

    def update(self, fleet: Fleet) -> None:
        """Have the fleet become what another file says."""
        with self._lock:
            self._keep(replace(self._kept, fleet=fleet))
            self._status = replace(self._status, is_settled=False)

    def status(self) -> dict[str, Any]:
        """A :class:`Status`, in plain values."""
        found: dict[str, Any] = msgspec.to_builtins(self._status)
        return found

    def stop(self) -> None:
        """End all servers, in order, and the balancers; the caller ends the controller."""
        self._stopping.set()
        self._loop.join(_OBSERVE_S + _BALANCE_S + _TURN_S)
        drain_s = self._kept.fleet.specification.deadlines.drain_s
        # One that has never answered waits for a place.
        ends = [self._handles[number].stop.remote(drain_s) for number in self._reports]
        if ends:
            ray.wait(ends, num_returns=len(ends), timeout=drain_s + _OBSERVE_S)
        for number in list(self._handles):
            self._forget(number)
        self._end_balancers(set())
        _internal_kv_del(self._key)


def _silent(last: ObservedServer, state: ServerState) -> ObservedServer:
    """A server that has not answered."""
    return replace(last, state=state, queue_depth=None, utilisation=None, used_bytes=None)
