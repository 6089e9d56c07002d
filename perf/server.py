# SPDX-License-Identifier: Apache-2.0
"""The server under test, as its users start it: ``ovms_mp config``, a configuration file, two ports."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from perf.child import free_port, module_argv, running_child
from perf.models import ModelFiles
from perf.records import Footprint
from perf.scenario import Scenario
from perf.usage import memory_bytes, server_kind

_READY_TEXTS = ("gRPC server listens on port", "REST server listens on port")
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningServer:
    """A server that is ready; ``start_s`` is how long that took."""

    pid: int
    grpc_port: int
    rest_port: int
    start_s: float

    def footprint(self, scenario: str) -> Footprint:
        """Its processes and memory now."""
        counts, rss, pss = memory_bytes(self.pid, server_kind)
        return Footprint(
            scenario=scenario, start_s=self.start_s, processes=counts, rss_bytes=rss, pss_bytes=pss
        )


def write_config(files: ModelFiles, scenario: Scenario, path: Path) -> None:
    """Write the configuration file with the scenario's model."""
    config: dict[str, object] = {"name": files.name, "base_path": str(files.base_path)}
    if scenario.plugin_config:
        config["plugin_config"] = scenario.plugin_config
    path.write_bytes(msgspec.json.encode({"model_config_list": [{"config": config}]}))


@contextlib.contextmanager
def running_server(files: ModelFiles, scenario: Scenario, scratch: Path) -> Iterator[RunningServer]:
    """Run the server for the length of a block.

    Args:
        files: The model that it serves.
        scenario: Worker counts and properties.
        scratch: Directory for its configuration and its output.

    Raises:
        ChildFailed: It did not become ready; or SIGTERM did not end it in time, with exit code 0.
    """
    config_path, log_path = scratch / "config.json", scratch / "server.log"
    write_config(files, scenario, config_path)
    grpc_port, rest_port = free_port(), free_port()
    argv = module_argv("ovms_mp", "config", "--config_path", str(config_path))
    argv += ["--port", str(grpc_port), "--rest_port", str(rest_port)]
    argv += ["--grpc_workers", str(scenario.grpc_workers), "--rest_workers", str(scenario.rest_workers)]
    timeouts = {"start_s": _START_TIMEOUT_S, "stop_s": _STOP_TIMEOUT_S}
    with running_child(argv, _READY_TEXTS, log_path, **timeouts) as child:
        yield RunningServer(pid=child.pid, grpc_port=grpc_port, rest_port=rest_port, start_s=child.ready_s)
