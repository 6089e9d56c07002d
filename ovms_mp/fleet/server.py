# SPDX-License-Identifier: Apache-2.0
"""One server of a fleet: an ``ovms_mp`` as a child process, and what is known of it. A Ray actor, or not.

Its parent, :mod:`ovms_mp.fleet.launch`, has it end in order when this process dies.
"""

from __future__ import annotations

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

import msgspec

from ovms_mp.defects import contain
from ovms_mp.fleet.asking import Reply, ask, summed
from ovms_mp.fleet.decisions.observation import ServerState
from ovms_mp.fleet.launch import Launch
from ovms_mp.fleet.leases import own_directory, private, take
from ovms_mp.fleet.reports import ServerReport, ServerSettings, plain
from ovms_mp.places import module_command, module_environment, usable_cores
from ovms_mp.wire.fleet_status import write_news

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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
_NOT_FOR_CHILDREN = ("RAY_", "OMP_NUM_THREADS")


@dataclass(slots=True)
class _Told:
    """What the server was told of a model, with which change, and what came of it."""

    revision: str
    settings: dict[str, Any]
    change: int = 0
    served: str = ""
    failure: str = ""
    refusal: str = ""


class Server:
    """Owns the child. Methods may be called by several threads, and again."""

    def __init__(
        self,
        revision: str,
        settings: str,
        models: Iterable[tuple[str, str, str]],
        *,
        host: str,
        node: str,
        environment: Mapping[str, str],
    ) -> None:
        """Start the child.

        Args:
            revision: What it is started as.
            settings: :class:`ServerSettings` as JSON.
            models: Name, revision and settings of each, the latter as JSON.
            host: The machine's address.
            node: The machine's name for Ray.
            environment: This process's.
        """
        self._settings = msgspec.json.decode(settings, type=ServerSettings)
        given = self._settings.directory
        root = private(Path(given)) if given else own_directory()
        self._lock = threading.Lock()
        self._models = {model: _Told(revision, json.loads(text)) for model, revision, text in models}
        self._is_draining = self._was_ready = False
        self._changed = threading.Event()
        self._change = 0
        self._read = -1  # The latest change that the server has done.
        self._infer_us: dict[str, float] = {}
        self._report = ServerReport(
            state="starting", revision=revision, host=host, port=0, rest_port=0, node=node
        )
        self._child = self._start(root, environment)
        threading.Thread(target=self._apply_changes, daemon=True).start()

    def _start(self, root: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        report, settings = self._report, self._settings
        with ExitStack() as stack:
            sockets = [
                stack.enter_context(socket.create_server((report.host, 0), backlog=_BACKLOG))
                for _ in range(2)
            ]
            report.port, report.rest_port = (each.getsockname()[1] for each in sockets)
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
            report.log = str(self._directory / "server.log")
            report.cores = tuple(cores) if len(cores) == settings.cores else ()
            command = [
                *module_command("ovms_mp", "config", "--config_path", str(self._directory / "config.json")),
                *("--port", str(report.port), "--grpc_bind_address", report.host),
                *("--rest_port", str(report.rest_port), "--rest_bind_address", report.host),
                *("--store_dir", str(self._directory / "store"), "--fleet_file", str(self._fleet_file)),
                *("--stop_notice_s", str(_NOTICE_S), "--stop_grace_s", str(settings.drain_s + 2 * _NOTICE_S)),
                *("--metrics_enable", *settings.flags),
            ]
            launch = Launch(
                command=tuple(command),
                sockets=tuple(each.fileno() for each in sockets),
                leases=(*cores.values(), *rooms.values()),
                cores=report.cores,
                parent=os.getpid(),
            )
            # It needs no secret of Ray's, and has threads of its own.
            kept = {key: value for key, value in environment.items() if not key.startswith(_NOT_FOR_CHILDREN)}
            log = stack.enter_context(open(report.log, "ab"))
            child = subprocess.Popen(
                module_command("ovms_mp.fleet.launch", msgspec.json.encode(launch).decode()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=module_environment(kept),
                pass_fds=launch.descriptors,
                start_new_session=True,
            )
            report.pid = child.pid
        # From now on nobody but the child has the sockets: once it is dead, connections are refused.
        return child

    def observe(self, fleet: bytes = b"", age_s: float = 0.0) -> dict[str, Any]:
        """A :class:`ServerReport` in plain values.

        Args:
            fleet: :class:`~ovms_mp.wire.fleet_status.FleetStatus` as JSON, for the live page.
            age_s: Since when that is so.
        """
        report = self._report
        if fleet:
            own = (report.host, report.port)
            contain("fleet.tell", "the live page", write_news, self._fleet_file, fleet, age_s, own)
        report.exit_code = self._child.poll()
        ready = self._ask("/v2/health/ready", {"endpoint-load-metrics-format": "json"})
        report.state = self._state(is_ready=ready.status == _OK).value
        load = ready.headers.get("endpoint-load-metrics", "").partition(" ")[2]
        report.utilisation = float(json.loads(load)["cpu_utilization"]) if load else None
        report.queue_depth = report.used_bytes = None
        # Who does not answer at all is not waited for again.
        page = self._ask("/metrics") if ready.status else ready
        shares: Mapping[str, float] = {}
        if page.status == _OK:
            under_way = sum(summed(page.body, "ovms_current_requests").values())
            report.queue_depth = max(0.0, under_way - self._settings.cores)
            report.used_bytes = int(sum(summed(page.body, "process_resident_memory_bytes").values()))
            shares = self._shares(summed(page.body, "ovms_inference_time_us_sum"))
        status = self._ask("/v1/status") if ready.status else ready
        served = json.loads(status.body)["models"] if status.status == _OK else None
        with self._lock:
            if served is not None:
                self._note_served(served)
            busy = report.utilisation or 0.0
            report.models = {
                name: (told.revision, told.served, told.failure, shares.get(name, 0.0) * busy)
                for name, told in self._models.items()
            }
        return plain(report)

    def _ask(self, path: str, headers: Mapping[str, str] | None = None) -> Reply:
        return ask(self._report.host, self._report.rest_port, path, _ASK_S, headers=headers)

    def _note_served(self, served: Mapping[str, Any]) -> None:
        """What the server says of its models."""
        for name, told in self._models.items():
            model = served.get(name)
            if not _newest(model):
                told.served = ""
            if told.change <= self._read and not told.refusal:
                is_there = _newest(model) > 0 and not _is_coming(model)
                told.served = told.revision if is_there else told.served
                told.failure = "" if is_there else _failure(model)

    def _state(self, *, is_ready: bool) -> ServerState:
        if self._child.returncode is not None:
            return ServerState.ENDED
        if self._is_draining:
            return ServerState.DRAINING
        if is_ready:
            self._was_ready = True
            self._read = max(self._read, 0)
            return ServerState.READY
        return ServerState.UNREADY if self._was_ready else ServerState.STARTING

    def _shares(self, infer_us: dict[str, float]) -> dict[str, float]:
        """Each model's part of the inference since the last look."""
        spent = {name: max(0.0, now - self._infer_us.get(name, 0.0)) for name, now in infer_us.items()}
        self._infer_us = infer_us
        total = sum(spent.values())
        return {name: each / total for name, each in spent.items()} if total else {}

    def place(self, name: str, revision: str, settings: str) -> None:
        """Have the server load a model, or another revision of it."""
        with self._lock:
            told = self._models.get(name)
            if told is not None and told.revision == revision:
                return
            self._note_change()
            served = told.served if told is not None else ""
            self._models[name] = _Told(revision, json.loads(settings), self._change, served)
            self._write_configuration()

    def remove(self, name: str) -> None:
        """Have the server unload a model."""
        with self._lock:
            if self._models.pop(name, None) is not None:
                self._note_change()
                self._write_configuration()

    def _note_change(self) -> None:
        self._change += 1
        self._changed.set()

    def drain(self) -> None:
        """Have the server answer what it has, then end."""
        self._is_draining = True
        if self._child.poll() is None:
            self._child.terminate()

    def stop(self) -> None:
        """End the server at once."""
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
                change, told = self._change, tuple(self._models.values())
            reply = ask(self._report.host, self._report.rest_port, "/v1/config/reload", _RELOAD_S, "POST")
            if not reply.status:
                self._changed.set()
                pause.wait(_RETRY_S)
                continue
            with self._lock:
                for each in told:
                    text = reply.body.decode(errors="replace")
                    each.failure = each.refusal = "" if reply.status in _DONE else text[:_LONGEST_REASON]
                self._read = change


def _newest(model: dict[str, Any] | None) -> int:
    """The newest version that is available; 0 without one."""
    versions = model["versions"] if model else ()
    return max((each["version"] for each in versions if each["state"] == "AVAILABLE"), default=0)


def _is_coming(model: dict[str, Any] | None) -> bool:
    """Whether a newer version is being loaded, or cannot be."""
    newest = _newest(model)
    versions = model["versions"] if model else ()
    return any(
        each["version"] > newest and (each["is_failed"] or each["is_being_loaded"]) for each in versions
    )


def _failure(model: dict[str, Any] | None) -> str:
    """Why a version is not there."""
    versions = model["versions"] if model else ()
    return next((str(each["error_message"]) for each in reversed(versions) if each["is_failed"]), "")
