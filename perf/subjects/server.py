# SPDX-License-Identifier: Apache-2.0
"""The server under test, as its users start it: ``ovms_mp config``, a configuration file, two ports."""

from __future__ import annotations

import contextlib
import os
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from perf.load.h2load import REST_PATHS, Protocol
from perf.load.scenario import Scenario
from perf.models.declared import ModelFiles
from perf.processes.child import free_port, module_argv, running_child
from perf.processes.usage import memory_bytes, server_kind
from perf.report.records import Footprint

_READY_TEXTS = ("gRPC server listens on port", "REST server listens on port")
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0
_CALL_TIMEOUT_S = 60.0

Entry = Mapping[str, object]
"""A model's keys in the configuration file."""


class Worker(msgspec.Struct, frozen=True):
    """An inference worker, as ``GET /v1/status`` has it."""

    name: str
    pid: int


class Version(msgspec.Struct, frozen=True):
    """A model version, as ``GET /v1/status`` has it; ``detail`` is the plan that it runs by."""

    version: int
    state: str
    detail: str


class Model(msgspec.Struct, frozen=True):
    """A model, as ``GET /v1/status`` has it."""

    versions: tuple[Version, ...]


class Status(msgspec.Struct, frozen=True):
    """What the measurements need of ``GET /v1/status``."""

    plan: tuple[str, ...]
    workers: tuple[Worker, ...]
    models: dict[str, Model]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningServer:
    """A server that is ready; ``start_s`` is how long that took."""

    pid: int
    grpc_port: int
    rest_port: int
    start_s: float
    config_path: Path
    log_path: Path

    def port(self, protocol: Protocol) -> int:
        """The port of a protocol."""
        return self.rest_port if protocol in REST_PATHS else self.grpc_port

    def footprint(self, scenario: str) -> Footprint:
        """Its processes and memory now."""
        counts, rss, pss = memory_bytes(self.pid, server_kind)
        return Footprint(
            scenario=scenario, start_s=self.start_s, processes=counts, rss_bytes=rss, pss_bytes=pss
        )

    def status(self) -> Status:
        """What it says of itself."""
        with urllib.request.urlopen(self._url("status"), timeout=_CALL_TIMEOUT_S) as answer:  # noqa: S310  # our own
            return msgspec.json.decode(answer.read(), type=Status)

    def reconfigure(self, models: Sequence[Entry]) -> None:
        """Give it another configuration file and wait until all that follows from it is done.

        Raises:
            urllib.error.HTTPError: It refuses.
        """
        write_entries(models, self.config_path)
        request = urllib.request.Request(self._url("config/reload"), method="POST")  # noqa: S310  # our own
        with urllib.request.urlopen(request, timeout=_CALL_TIMEOUT_S) as answer:  # noqa: S310  # our own
            answer.read()

    def count_in_log(self, text: str) -> int:
        """How often a text stands in its log."""
        return self.log_path.read_text(errors="replace").count(text)

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.rest_port}/v1/{path}"


def write_entries(models: Sequence[Entry], path: Path) -> None:
    """Write a configuration file as editors do, by a rename: the server watches it."""
    new = path.with_suffix(".new")
    new.write_bytes(msgspec.json.encode({"model_config_list": [{"config": model} for model in models]}))
    os.replace(new, path)


def config_entry(files: ModelFiles, plugin_config: Mapping[str, str | int | float | bool]) -> Entry:
    """A model's keys in the configuration file."""
    entry: dict[str, object] = {"name": files.name, "base_path": str(files.base_path)}
    if plugin_config:
        entry["plugin_config"] = plugin_config
    return entry


@contextlib.contextmanager
def running_config(
    models: Sequence[Entry], scratch: Path, *flags: str, python: str = ""
) -> Iterator[RunningServer]:
    """Run the server on a configuration file for the length of a block.

    Args:
        models: What the file says at first.
        scratch: Directory for the file and the server's output.
        flags: Further ones of ``ovms_mp config``.
        python: Interpreter that has another version installed; empty for this checkout.

    Raises:
        ChildFailed: It did not become ready; or SIGTERM did not end it in time, with exit code 0.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    config_path, log_path = scratch / "config.json", scratch / "server.log"
    write_entries(models, config_path)
    grpc_port, rest_port = free_port(), free_port()
    argv = module_argv("ovms_mp", "config", "--config_path", str(config_path))
    if python:
        # Not from the working directory, which is this checkout.
        argv = [python, "-P", *argv[1:]]
    argv += ["--port", str(grpc_port), "--rest_port", str(rest_port), *flags]
    timeouts = {"start_s": _START_TIMEOUT_S, "stop_s": _STOP_TIMEOUT_S}
    with running_child(argv, _READY_TEXTS, log_path, **timeouts) as child:
        yield RunningServer(
            pid=child.pid,
            grpc_port=grpc_port,
            rest_port=rest_port,
            start_s=child.ready_s,
            config_path=config_path,
            log_path=log_path,
        )


@contextlib.contextmanager
def running_server(files: ModelFiles, scenario: Scenario, scratch: Path) -> Iterator[RunningServer]:
    """Run the server for the length of a block.

    Args:
        files: The model that it serves.
        scenario: Worker counts and properties.
        scratch: Directory for its configuration and its output.

    Raises:
        ChildFailed: As :func:`running_config`.
    """
    flags = ["--grpc_workers", str(scenario.grpc_workers), "--rest_workers", str(scenario.rest_workers)]
    flags += ["--grpc_front", scenario.grpc_front]
    with running_config([config_entry(files, scenario.plugin_config)], scratch, *flags) as server:
        yield server
