# SPDX-License-Identifier: Apache-2.0
"""How each floor is started; what it does is a program in ``perf/floors/``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from perf.floors import READY_TEXTS
from perf.load.bodies import BodyFiles
from perf.load.scenario import FloorName, Scenario
from perf.models.declared import ModelFiles
from perf.processes.child import free_port, module_argv, running_child
from perf.processes.usage import floor_kind, server_kind
from perf.subjects.server import running_server
from perf.subjects.timed import ComputedSubject, LoadedSubject, Subject, load_plan

_OTHERWISE: Mapping[str, Mapping[str, str]] = {
    "grpcio_front": {"grpc_front": "grpcio"},
    "tfs_grpc": {"protocol": "grpc"},
    "tfs_rest": {"protocol": "rest"},
}
"""Floors that are the server itself: what of the scenario is another for them."""


@contextlib.contextmanager
def running_floor(
    name: FloorName, scenario: Scenario, files: ModelFiles, bodies: BodyFiles, scratch: Path
) -> Iterator[Subject]:
    """Have a floor ready for the length of a block.

    Raises:
        ChildFailed: An echo server did not start or did not end well.
    """
    if name in _OTHERWISE:
        other = msgspec.structs.replace(scenario, **_OTHERWISE[name])
        with running_server(files, other, scratch / name) as server:
            plan = load_plan(other, bodies, server.port(other.protocol))
            yield LoadedSubject(name=name, plan=plan, pid=server.pid, kind_of=server_kind, scratch=scratch)
        return
    if name in READY_TEXTS:
        port = free_port()
        answer_bytes = bodies.rest_answer_bytes if name == "falcon_echo" else bodies.grpc_answer_bytes
        argv = module_argv(f"perf.floors.{name}", "--port", str(port), "--response-bytes", str(answer_bytes))
        with running_child(argv, [READY_TEXTS[name]], scratch / f"{name}.log") as child:
            plan = load_plan(scenario, bodies, port)
            yield LoadedSubject(name=name, plan=plan, pid=child.pid, kind_of=floor_kind, scratch=scratch)
        return
    yield ComputedSubject(name=name, argv=tuple(_program(name, scenario, files, bodies)))


def _program(name: FloorName, scenario: Scenario, files: ModelFiles, bodies: BodyFiles) -> list[str]:
    if name == "json_parse":
        return module_argv("perf.floors.json_parse", "--body", str(bodies.rest_path))
    return module_argv(
        "perf.floors.openvino_direct",
        "--model",
        str(files.version_path),
        "--reference",
        str(files.reference_path),
        "--mode",
        "sync" if name == "openvino_sync" else "async",
        "--plugin-config",
        msgspec.json.encode(scenario.plugin_config).decode(),
    )
