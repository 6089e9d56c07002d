# SPDX-License-Identifier: Apache-2.0
"""What is timed: the server and its floors, all through one call, so that they can take turns."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from perf.bodies import BodyFiles
from perf.child import free_port, module_argv, run_for_figures, running_child
from perf.floors import READY_TEXTS
from perf.load import LoadPlan, LoadResult, percentile, run_load
from perf.models import ModelFiles
from perf.records import Measurement
from perf.scenario import FloorName, Scenario
from perf.server import running_server
from perf.usage import KindOf, cpu_seconds, floor_kind, server_kind

_COMPUTE_GRACE_S = 60.0
WARM_UP_S = 0.7


class Subject(Protocol):
    """Something that can be measured again and again."""

    @property
    def name(self) -> str:
        """As in :attr:`perf.records.Measurement.subject`."""

    def measure(self, scenario: str, repeat: int, seconds: float) -> Measurement:
        """Take one measurement, warm-up included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedSubject:
    """A server, ours or an echo, that h2load loads.

    Attributes:
        pid: Root of its process tree.
        scratch: Directory for h2load's log.
    """

    name: str
    plan: LoadPlan
    pid: int
    kind_of: KindOf
    scratch: Path

    def measure(self, scenario: str, repeat: int, seconds: float) -> Measurement:
        """Warm up, load, count.

        Raises:
            LoadFailed: As :func:`perf.load.run_load`.
        """
        log_path = self.scratch / "h2load.log"
        run_load(self.plan, WARM_UP_S, log_path)
        before = cpu_seconds(self.pid, self.kind_of)
        result = run_load(self.plan, seconds, log_path)
        after = cpu_seconds(self.pid, self.kind_of)
        used = {kind: max(after[kind] - before.get(kind, 0.0), 0.0) for kind in after}
        return self._measurement(scenario, repeat, result, used | {"load": result.cpu_s})

    def _measurement(
        self, scenario: str, repeat: int, result: LoadResult, cpu_s: dict[str, float]
    ) -> Measurement:
        latencies_ms = result.latencies_ms
        return Measurement(
            scenario=scenario,
            subject=self.name,
            repeat=repeat,
            seconds=result.seconds,
            requests=result.requests,
            unsuccessful=result.unsuccessful,
            rate_per_s=result.rate_per_s,
            mean_ms=sum(latencies_ms) / len(latencies_ms) if latencies_ms else None,
            p50_ms=percentile(latencies_ms, 0.5),
            p99_ms=percentile(latencies_ms, 0.99),
            p999_ms=percentile(latencies_ms, 0.999),
            cpu_us={kind: seconds / max(result.requests, 1) * 1e6 for kind, seconds in sorted(cpu_s.items())},
            answer_bytes=result.answer_bytes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputedSubject:
    """A floor without a client: a program that works for some seconds and prints its figures."""

    name: str
    argv: tuple[str, ...]

    def measure(self, scenario: str, repeat: int, seconds: float) -> Measurement:
        """Run the program once.

        Raises:
            ChildFailed: It failed.
        """
        argv = [*self.argv, "--seconds", str(seconds)]
        figures = run_for_figures(argv, seconds + _COMPUTE_GRACE_S)
        return Measurement(
            scenario=scenario,
            subject=self.name,
            repeat=repeat,
            seconds=figures["seconds"],
            requests=int(figures["requests"]),
            rate_per_s=figures["requests"] / figures["seconds"],
            mean_ms=figures.get("mean_ms"),
            p50_ms=figures.get("p50_ms"),
            p99_ms=figures.get("p99_ms"),
        )


def load_plan(scenario: Scenario, bodies: BodyFiles, port: int) -> LoadPlan:
    """The scenario's load on a port."""
    return LoadPlan(
        protocol=scenario.protocol,
        port=port,
        model=scenario.model,
        body_path=bodies.grpc_path if scenario.protocol == "grpc" else bodies.rest_path,
        concurrency=scenario.concurrency,
        connections=scenario.connections,
    )


@contextlib.contextmanager
def running_floor(
    name: FloorName, scenario: Scenario, files: ModelFiles, bodies: BodyFiles, scratch: Path
) -> Iterator[Subject]:
    """Have a floor ready for the length of a block.

    Raises:
        ChildFailed: An echo server did not start or did not end well.
    """
    if name == "grpcio_front":
        other = msgspec.structs.replace(scenario, grpc_front="grpcio")
        with running_server(files, other, scratch / name) as server:
            plan = load_plan(scenario, bodies, server.grpc_port)
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
