# SPDX-License-Identifier: Apache-2.0
"""How the server and its floors are timed: all through one call, so that they can take turns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from perf.load.bodies import BodyFiles
from perf.load.h2load import LoadPlan, LoadResult, percentile, run_load
from perf.load.scenario import Scenario
from perf.processes.child import run_for_figures
from perf.processes.usage import KindOf, cpu_seconds
from perf.report.records import Measurement

_COMPUTE_GRACE_S = 60.0
WARM_UP_S = 0.7


class Subject(Protocol):
    """Something that can be measured again and again."""

    @property
    def name(self) -> str:
        """As in :attr:`perf.report.records.Measurement.subject`."""

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
            LoadFailed: As :func:`perf.load.h2load.run_load`.
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
        body_path=bodies.of(scenario.protocol),
        headers=bodies.headers.get(scenario.protocol, {}),
        concurrency=scenario.concurrency,
        connections=scenario.connections,
    )
