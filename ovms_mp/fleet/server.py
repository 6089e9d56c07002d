# SPDX-License-Identifier: Apache-2.0
"""One server of a fleet: an ``ovms_mp`` as a child process, and what is known of it. A Ray actor, or not.

Its parent, :mod:`ovms_mp.fleet.keeper`, has it end in order when this process dies.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from ovms_mp.defects import contain
from ovms_mp.fleet.asking import Reply, ask, summed
from ovms_mp.fleet.decisions.observation import ObservedModel, ObservedServer, ServerState
from ovms_mp.fleet.keeper import Charge, keep
from ovms_mp.fleet.leases import own_directory, private, take
from ovms_mp.places import module_command, usable_cores
from ovms_mp.wire.fleet_status import write_news

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ovms_mp.fleet.decisions.specification import ModelSpec, ServerSpec

_ASK_S = 1.0
_RELOAD_S = 3600.0
_RETRY_S = 1.0
_NOTICE_S = 1.0
"""Balancers that are not the fleet's look in every half second."""
_BACKLOG = 1024
_OK = 200
_LONGEST_REASON = 500
_DONE = (_OK, 201)
_MOST_ROOMS = 512
_NO_MODEL: Mapping[str, Any] = {"versions": ()}
_NOT_FOR_CHILDREN = ("RAY_", "OMP_NUM_THREADS")


@dataclass(slots=True)
class _Told:
    """What the server was told of a model, whether it has read that, and what came of it."""

    revision: str
    settings: dict[str, Any]
    is_read: bool = False
    served: str = ""
    failure: str = ""
    refusal: str = ""  # What it said to the change, which may be about another model of it.


class Server:
    """Owns the child. Methods may be called by several threads, and again."""

    def __init__(
        self,
        number: int,
        specification: ServerSpec,
        models: Iterable[ModelSpec],
        *,
        host: str,
        node: str,
        environment: Mapping[str, str],
    ) -> None:
        """Start the child.

        Args:
            number: The fleet's for it.
            specification: What it is started as.
            models: That it begins with.
            host: The machine's address.
            node: The machine's number for Ray.
            environment: This process's.
        """
        self._settings, self._drain_s = specification.settings, specification.drain_s
        self._lock = threading.Lock()
        self._models = {model.name: _Told(model.revision, model.settings) for model in models}
        self._is_draining = self._was_ready = False
        self._changed = threading.Event()
        self._infer_us: dict[str, float] = {}
        self._report = ObservedServer(
            number=number, state=ServerState.STARTING, revision=specification.revision, host=host, node=node
        )
        self._child = self._start(environment)
        threading.Thread(target=self._apply_changes, daemon=True).start()

    def _start(self, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        settings, host = self._settings, self._report.host
        root = private(Path(settings.directory)) if settings.directory else own_directory()
        with ExitStack() as stack:
            sockets = [
                stack.enter_context(socket.create_server((host, 0), backlog=_BACKLOG)) for _ in range(2)
            ]
            port, rest_port = (each.getsockname()[1] for each in sockets)
            cores = take(own_directory() / "cores", sorted(usable_cores()), settings.cores)
            rooms = take(root, range(_MOST_ROOMS), 1)
            for descriptor in (*cores.values(), *rooms.values()):
                stack.callback(os.close, descriptor)
            # The next server here has what this one has downloaded, and goes on with its log.
            self._directory = root / str(next(iter(rooms), _MOST_ROOMS))
            self._directory.mkdir(exist_ok=True)
            self._write_configuration()
            self._fleet_file = self._directory / "fleet.json"
            self._fleet_file.unlink(missing_ok=True)  # What the last server here was told.
            command = [
                *module_command("ovms_mp", "config", "--config_path", str(self._directory / "config.json")),
                *("--port", str(port), "--grpc_bind_address", host),
                *("--rest_port", str(rest_port), "--rest_bind_address", host),
                *("--store_dir", str(self._directory / "store"), "--fleet_file", str(self._fleet_file)),
                *("--stop_notice_s", str(_NOTICE_S), "--stop_grace_s", str(self._drain_s + 2 * _NOTICE_S)),
                *("--metrics_enable", *settings.flags),
            ]
            charge = Charge(
                command=tuple(command),
                lives_with=os.getpid(),
                sockets=tuple(each.fileno() for each in sockets),
                leases=(*cores.values(), *rooms.values()),
                cores=tuple(cores) if len(cores) == settings.cores else (),
            )
            # It needs no secret of Ray's, and has threads of its own.
            kept = {key: value for key, value in environment.items() if not key.startswith(_NOT_FOR_CHILDREN)}
            log = self._directory / "server.log"
            child = keep(charge, log, kept)
        # From now on nobody but the child has the sockets: once it is dead, connections are refused.
        self._report = replace(
            self._report, port=port, rest_port=rest_port, pid=child.pid, cores=charge.cores, log=str(log)
        )
        return child

    def observe(self, fleet: bytes = b"", age_s: float = 0.0) -> ObservedServer:
        """What there is to be said of it.

        Args:
            fleet: :class:`~ovms_mp.wire.fleet_status.FleetStatus` as JSON, for the live page.
            age_s: Since when that is so.
        """
        if fleet:
            own = (self._report.host, self._report.port)
            contain("fleet.tell", "the live page", write_news, self._fleet_file, fleet, age_s, own)
        exit_code = self._child.poll()
        ready = self._ask("/v2/health/ready", {"endpoint-load-metrics-format": "json"})
        load = ready.headers.get("endpoint-load-metrics", "").partition(" ")[2]
        utilisation = float(json.loads(load)["cpu_utilization"]) if load else None
        queue_depth = used_bytes = None
        # Who does not answer at all is not waited for again.
        page = self._ask("/metrics") if ready.status else ready
        shares: Mapping[str, float] = {}
        if page.status == _OK:
            under_way = sum(summed(page.body, "ovms_current_requests").values())
            queue_depth = max(0.0, under_way - self._settings.cores)
            used_bytes = int(sum(summed(page.body, "process_resident_memory_bytes").values()))
            shares = self._shares(summed(page.body, "ovms_inference_time_us_sum"))
        status = self._ask("/v1/status") if ready.status else ready
        with self._lock:
            state = self._state(is_ready=ready.status == _OK)
            if status.status == _OK:
                self._note_served(json.loads(status.body)["models"])
            models = {
                name: ObservedModel(
                    revision=told.revision,
                    served=told.served,
                    failure=told.failure,
                    load=shares.get(name, 0.0) * (utilisation or 0.0),
                )
                for name, told in self._models.items()
            }
        return replace(
            self._report,
            state=state,
            exit_code=exit_code,
            utilisation=utilisation,
            queue_depth=queue_depth,
            used_bytes=used_bytes,
            models=models,
        )

    def _ask(self, path: str, headers: Mapping[str, str] | None = None) -> Reply:
        return ask(self._report.host, self._report.rest_port, path, _ASK_S, headers=headers)

    def _note_served(self, served: Mapping[str, Any]) -> None:
        """What the server says of its models."""
        for name, told in self._models.items():
            versions = served.get(name, _NO_MODEL)["versions"]
            answers, is_newest, failure = _outcome(versions, is_refused=bool(told.refusal))
            if not answers:
                told.served = ""
            if told.is_read:
                told.served = told.revision if is_newest else told.served
                told.failure = "" if is_newest else failure or told.refusal

    def _state(self, *, is_ready: bool) -> ServerState:
        if self._child.returncode is not None:
            return ServerState.ENDED
        if self._is_draining:
            return ServerState.DRAINING
        if is_ready:
            if not self._was_ready:
                self._was_ready = True
                # It has begun with the file as it was.
                for told in self._models.values():
                    told.is_read = True
            return ServerState.READY
        return ServerState.UNREADY if self._was_ready else ServerState.STARTING

    def _shares(self, infer_us: dict[str, float]) -> dict[str, float]:
        """Each model's part of the inference since the last look."""
        spent = {name: max(0.0, now - self._infer_us.get(name, 0.0)) for name, now in infer_us.items()}
        self._infer_us = infer_us
        total = sum(spent.values())
        return {name: each / total for name, each in spent.items()} if total else {}

    def place(self, model: ModelSpec) -> None:
        """Have the server load a model, or another revision of it."""
        with self._lock:
            told = self._models.get(model.name)
            if told is None or told.revision != model.revision:
                served = told.served if told is not None else ""
                self._models[model.name] = _Told(model.revision, model.settings, served=served)
                self._write_configuration()
                self._changed.set()

    def remove(self, name: str) -> None:
        """Have the server unload a model."""
        with self._lock:
            if self._models.pop(name, None) is not None:
                self._write_configuration()
                self._changed.set()

    def drain(self) -> None:
        """Have the server answer what it has, then end."""
        self._is_draining = True
        if self._child.poll() is None:
            self._child.terminate()

    def stop(self, within_s: float = 0.0) -> None:
        """End the server: at once, or in order if it can be done in time."""
        if within_s:
            self.drain()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(within_s)
        if self._child.poll() is None:
            os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait(_ASK_S)

    def _write_configuration(self) -> None:
        """By a rename: the server watches the file."""
        entries = [{"config": {**told.settings, "name": name}} for name, told in self._models.items()]
        fresh = self._directory / "config.new"
        fresh.write_text(json.dumps({"model_config_list": entries}))
        fresh.replace(self._directory / "config.json")

    def _apply_changes(self) -> None:
        """Tell the server of changed files, and learn when it has done what they say. Runs in a thread of its own."""
        pause = threading.Event()
        while self._child.poll() is None:
            self._changed.wait()
            if not self._was_ready:
                pause.wait(_RETRY_S)  # It reads the file when it starts; it may just have done so.
                continue
            with self._lock:
                self._changed.clear()
                told = tuple(self._models.values())
            reply = ask(self._report.host, self._report.rest_port, "/v1/config/reload", _RELOAD_S, "POST")
            if not reply.status:
                self._changed.set()
                pause.wait(_RETRY_S)
                continue
            with self._lock:
                for each in told:
                    text = reply.body.decode(errors="replace")
                    each.is_read, each.refusal = True, "" if reply.status in _DONE else text[:_LONGEST_REASON]


def _outcome(versions: Sequence[Mapping[str, Any]], *, is_refused: bool) -> tuple[bool, bool, str]:
    """Whether a version answers, whether the newest that is wanted does, and why it does not.

    One that could not be loaded again, as something of the model has changed, still answers: it has a message, then,
    and what was asked for was refused.
    """
    newest = max((each["version"] for each in versions if each["state"] == "AVAILABLE"), default=0)
    coming = [each["version"] for each in versions if each["is_failed"] or each["is_being_loaded"]]
    failures = [
        str(each["error_message"])
        for each in versions
        if each["is_failed"] or (is_refused and each["error_message"])
    ]
    is_newest = newest >= max(coming, default=1) and not (is_refused and failures)
    return newest > 0, is_newest, failures[-1] if failures else ""
