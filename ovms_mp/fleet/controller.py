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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import ray
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayActorError, RayError
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put

from ovms_mp.defects import contain
from ovms_mp.fleet.actors import Cast, last_line
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
from ovms_mp.fleet.file import Fleet, read_fleet
from ovms_mp.fleet.haproxy import ANY, Place
from ovms_mp.fleet.reports import ServerReport, plain
from ovms_mp.wire.fleet_status import abridged

if TYPE_CHECKING:
    from collections.abc import Mapping

_log = logging.getLogger(__name__)
_TURN_S = 1.0
_OBSERVE_S = 2.0
_FIRST_OBSERVE_S = 10.0
_BALANCE_S = 5.0


class _Kept(msgspec.Struct, kw_only=True):
    """What survives the controller: the file, where its relative paths start, and the plan."""

    text: str
    directory: str
    plan: Plan


class Controller:
    """Turns until it is stopped, in a thread of its own."""

    def __init__(self, name: str, text: str, directory: str) -> None:
        """Begin, or go on where an earlier controller of this fleet ended.

        Args:
            name: The fleet's.
            text: Its file, for the first controller.
            directory: Where its relative paths start.
        """
        self._cast = Cast(name)
        self._key = f"ovms_mp fleet {name}".encode()
        kept = _internal_kv_get(self._key)
        self._kept = (
            msgspec.json.decode(kept, type=_Kept)
            if kept
            else _Kept(text=text, directory=directory, plan=Plan())
        )
        self._fleet = self._read(self._kept.text, self._kept.directory)
        self._handles = {number: handle for number, (_, handle) in self._cast.servers().items()}
        self._revisions = {number: revision for number, (revision, _) in self._cast.servers().items()}
        self._reports: dict[int, ServerReport] = {}
        self._pending: dict[int, Any] = {}
        self._servers: tuple[ObservedServer, ...] = ()
        self._entries: dict[str, dict[str, Any]] = {}
        self._asked: frozenset[str] = frozenset()
        self._told = (b"", 0.0)  # What servers are told of the fleet, and when it was so.
        self._notes: tuple[str, ...] = ()
        self._ends: deque[str] = deque(maxlen=3)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._loop = threading.Thread(target=self._turns, daemon=True)
        self._loop.start()

    def _read(self, text: str, directory: str) -> Fleet:
        return read_fleet(text, Path(directory))

    def _turns(self) -> None:
        while not self._stopping.is_set():
            started_s = time.monotonic()
            contain("fleet.turn", "this turn", self._turn)
            self._stopping.wait(max(0.0, started_s + _TURN_S - time.monotonic()))

    def _turn(self) -> None:
        with self._lock:
            fleet, kept = self._fleet, self._kept
        servers, seen_s = self._observe(), time.monotonic()
        observation = Observation(servers=servers, asked=self._asked)
        decision = decide(fleet.specification, observation, kept.plan, time.monotonic())
        with self._lock:
            self._kept = msgspec.structs.replace(self._kept, plan=decision.plan)
            self._keep()
        is_told = self._balance(fleet, decision)
        with self._lock:
            self._servers, self._notes = servers, decision.notes
        for action in decision.actions:
            if is_told or not isinstance(action, DrainServer | RemoveModel):
                contain("fleet.action", repr(action)[:200], self._act, action)
        self._told = abridged(self.status()), seen_s

    def _keep(self) -> None:
        _internal_kv_put(self._key, msgspec.json.encode(self._kept), overwrite=True)

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
        return tuple(self._observed(number) for number in self._handles)

    def _observed(self, number: int) -> ObservedServer:
        last = self._reports.get(number)
        state = ServerState.PENDING if last is None else ServerState(last.state)
        if state is ServerState.READY:
            state = ServerState.UNREADY
        try:
            given = ray.get(self._pending[number], timeout=0)
            del self._pending[number]
            report = self._reports[number] = msgspec.convert(given, ServerReport)
            if report.exit_code:
                self._note_end(
                    number, f"exit code {report.exit_code}; its log is {report.log} of {report.host}"
                )
            return report.observed(number)
        except GetTimeoutError:
            pass
        except ActorUnavailableError:
            del self._pending[number]
        except RayActorError as error:
            del self._pending[number]
            state = ServerState.ENDED
            self._note_end(number, f"its actor has died: {last_line(error)}")
        if last is None:
            return ObservedServer(number=number, state=state, revision=self._revisions[number])
        quiet = msgspec.structs.replace(
            last, state=state.value, queue_depth=None, utilisation=None, used_bytes=None
        )
        return quiet.observed(number)

    def _note_end(self, number: int, why: str) -> None:
        """For the status, as the server itself is soon forgotten."""
        note = f"server {number} ended: {why}"
        if note not in self._ends:
            self._ends.append(note)
            _log.warning("event=server_ended number=%d %s", number, why)

    def _balance(self, fleet: Fleet, decision: Decision) -> bool:
        """Give the balancers the routes; whether each has them whose machine lives."""
        places = {
            number: plain(Place(host=report.host, port=report.port, rest_port=report.rest_port))
            for number, report in self._reports.items()
            if number in self._handles
        }
        # Models without a server have a backend, too: what it is asked for is counted.
        models = {model.name: () for model in fleet.specification.models}
        wanted: Mapping[str, tuple[int, ...]] = {ANY: decision.routed, **models, **decision.routes}
        routes = {
            name: [number for number in numbers if number in places] for name, numbers in wanted.items()
        }
        nodes = [node for node in self._cast.nodes() if node["is_head"] or fleet.has_many_entries]
        asked: set[str] = set()
        entries: dict[str, dict[str, Any]] = {}
        answers = {
            node["id"]: self._cast.balancer(node["id"]).update.remote(plain(fleet.entry), places, routes)
            for node in nodes
        }
        if answers:
            ray.wait(list(answers.values()), num_returns=len(answers), timeout=_BALANCE_S)
        for node, answer in answers.items():
            try:
                entries[node] = ray.get(answer, timeout=0)
                asked |= set(entries[node]["asked"])
            except (RayError, GetTimeoutError) as error:
                entries[node] = {"error": last_line(error)}
        self._asked = frozenset(name for name in asked if not routes.get(name))
        with self._lock:
            self._entries = entries
        return bool(entries) and not any("error" in entry for entry in entries.values())

    def _act(self, action: Action) -> None:
        match action:
            case StartServer():
                if action.number not in self._handles:
                    models = [(model.name, model.revision, model.settings) for model in action.models]
                    self._revisions[action.number] = action.server.revision
                    self._handles[action.number] = self._cast.start_server(
                        action.number, action.server.revision, action.server.settings, models
                    )
            case DrainServer():
                self._handles[action.number].drain.remote()
            case StopServer():
                self._forget(action.number)
            case PlaceModel():
                model = action.model
                self._handles[action.number].place.remote(model.name, model.revision, model.settings)
            case RemoveModel():
                self._handles[action.number].remove.remote(action.name)

    def _forget(self, number: int) -> None:
        handle = self._handles.pop(number, None)
        for known in (self._reports, self._pending, self._revisions):
            known.pop(number, None)
        if handle is not None:
            ray.wait([handle.stop.remote()], timeout=_OBSERVE_S)
            self._cast.end(handle)

    def update(self, text: str, directory: str) -> None:
        """Have the fleet become what another file says.

        Raises:
            ConfigError: The file is wrong; nothing changes then.
        """
        fleet = self._read(text, directory)
        with self._lock:
            self._fleet = fleet
            self._kept = msgspec.structs.replace(self._kept, text=text, directory=directory)
            self._keep()

    def status(self) -> dict[str, Any]:
        """What the fleet is, in plain values."""
        with self._lock:
            specification = self._fleet.specification
            return {
                "fleet": self._fleet.name,
                "entries": list(self._entries.values()),
                "wanted": self._kept.plan.scaling.wanted,
                "is_settled": self._is_settled(),
                "revision": specification.server.revision,
                "models": {model.name: model.revision for model in specification.models},
                "servers": [self._server_status(server) for server in self._servers],
                "notes": [*self._notes, *self._ends],
            }

    def _server_status(self, server: ObservedServer) -> dict[str, Any]:
        report = self._reports.get(server.number)
        return {**(plain(report) if report else {}), "number": server.number, **plain(server)}

    def _is_settled(self) -> bool:
        """Whether everything is as the file says."""
        specification, servers = self._fleet.specification, self._servers
        is_routed = bool(self._entries) and not any("error" in entry for entry in self._entries.values())
        return (
            is_routed
            and len(servers) == self._kept.plan.scaling.wanted >= specification.servers_min
            and all(
                server.state is ServerState.READY and server.revision == specification.server.revision
                for server in servers
            )
            and all(
                any(
                    (held := server.models.get(model.name)) is not None and held.served == model.revision
                    for server in servers
                )
                and all(
                    (held := server.models.get(model.name)) is None or held.served == model.revision
                    for server in servers
                )
                for model in specification.models
                if model.copies != 0
            )
        )

    def stop(self) -> None:
        """End all servers, in order, and the balancers; the caller ends the controller."""
        self._stopping.set()
        self._loop.join(_OBSERVE_S + _BALANCE_S + _TURN_S)
        drain_s = self._fleet.specification.deadlines.drain_s
        for handle in self._handles.values():
            handle.drain.remote()
        deadline_s = time.monotonic() + drain_s
        while time.monotonic() < deadline_s:
            if all(
                server.state is ServerState.ENDED or server.state is ServerState.PENDING
                for server in self._observe()
            ):
                break
            threading.Event().wait(_TURN_S / 4)
        for number in list(self._handles):
            self._forget(number)
        for node in self._entries:
            balancer = self._cast.balancer(node)
            ray.wait([balancer.stop.remote()], timeout=_BALANCE_S)
            self._cast.end(balancer)
        _internal_kv_del(self._key)
