# SPDX-License-Identifier: Apache-2.0
"""One run: for each scenario check answers under load, then let floors and server take turns.

The order within a scenario: floors and server start and all stay up; the checking client compares answers
while h2load loads the server; then ``repeats`` rounds of floor, floor, ..., server, so that a slow minute of
the machine hits all of them. A process that is not being measured waits and costs nothing. What spoils a
scenario becomes a :class:`Problem` and the next one runs.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from perf.load.bodies import GRPC_PREFIX_BYTES, BodyFiles, write_bodies
from perf.load.check_client import Outcome
from perf.load.h2load import GRPC_METHODS, LoadFailed, run_load
from perf.load.scenario import Scenario
from perf.measurements.verdicts import judge
from perf.models.declared import ModelFiles, build_models
from perf.processes.child import ChildFailed, module_argv, run_for_output
from perf.processes.usage import server_kind
from perf.report.console import say
from perf.report.records import SERVER, Check, Measurement, Problem
from perf.report.results import ResultWriter
from perf.subjects.floors import running_floor
from perf.subjects.server import RunningServer, running_server
from perf.subjects.timed import LoadedSubject, Subject, load_plan

_QUICK_SHARE = 0.35
_CLIENT_START_S = 3.0
_CLIENT_GRACE_S = 90.0
_ANSWER_SIZE_TOLERANCE = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is measured.

    Attributes:
        seconds_share: Of each scenario's ``seconds``.
        is_floors_only: Leave the server out.
    """

    repeats: int = 3
    seconds_share: float = 1.0
    check_s: float = 3.0
    is_floors_only: bool = False

    @classmethod
    def quick(cls, *, is_floors_only: bool = False) -> Effort:
        """Enough to see that everything works; the figures wobble."""
        return cls(repeats=2, seconds_share=_QUICK_SHARE, check_s=1.0, is_floors_only=is_floors_only)


def run(scenarios: Sequence[Scenario], effort: Effort, writer: ResultWriter) -> None:
    """Measure all scenarios and write their records.

    Raises:
        ChildFailed: The models cannot be built.
    """
    with tempfile.TemporaryDirectory(prefix="ovms-perf-") as name:
        root = Path(name)
        models: set[str] = {scenario.model for scenario in scenarios}
        say(f"building {', '.join(sorted(models))}")
        build_models(root, models)
        bodies = {model: write_bodies(ModelFiles(root, model)) for model in models}
        for scenario in scenarios:
            _ScenarioRun(scenario, effort, writer, root, bodies).run()


class _ScenarioRun:
    """One scenario's course."""

    def __init__(
        self,
        scenario: Scenario,
        effort: Effort,
        writer: ResultWriter,
        root: Path,
        bodies: Mapping[str, BodyFiles],
    ) -> None:
        self._scenario = scenario
        self._effort = effort
        self._writer = writer
        self._files = ModelFiles(root, scenario.model)
        self._bodies = bodies[scenario.model]
        self._measurements: list[Measurement] = []
        self._scratch = root / "scratch" / scenario.name
        self._scratch.mkdir(parents=True)

    def run(self) -> None:
        """Measure, judge, and turn what goes wrong into a problem."""
        try:
            self._measure_all()
        except (ChildFailed, LoadFailed) as error:
            self._problem(str(error))
        for verdict in judge(self._scenario, self._measurements):
            self._writer.write(verdict)

    def _measure_all(self) -> None:
        scenario = self._scenario
        with contextlib.ExitStack() as stack:
            subjects: list[Subject] = [
                stack.enter_context(running_floor(floor, scenario, self._files, self._bodies, self._scratch))
                for floor in scenario.floors
            ]
            server: RunningServer | None = None
            check: Check | None = None
            if not self._effort.is_floors_only:
                server = stack.enter_context(running_server(self._files, scenario, self._scratch))
                loaded = self._server_subject(server)
                subjects.append(loaded)
                check = self._check(loaded)
            for repeat in range(self._effort.repeats):
                for subject in subjects:
                    self._measure(subject, repeat, check)
            if server is not None:
                self._writer.write(server.footprint(scenario.name))

    def _server_subject(self, server: RunningServer) -> LoadedSubject:
        plan = load_plan(self._scenario, self._bodies, server.port(self._scenario.protocol))
        return LoadedSubject(
            name=SERVER, plan=plan, pid=server.pid, kind_of=server_kind, scratch=self._scratch
        )

    def _measure(self, subject: Subject, repeat: int, check: Check | None) -> None:
        scenario = self._scenario
        found = subject.measure(scenario.name, repeat, scenario.seconds * self._effort.seconds_share)
        self._measurements.append(found)
        self._writer.write(found)
        p50 = "" if found.p50_ms is None else f", p50 {found.p50_ms:.3f} ms"
        say(f"  {scenario.name} {subject.name} #{repeat + 1}: {found.rate_per_s:.1f}/s{p50}")
        if found.unsuccessful:
            self._problem(f"{subject.name}: {found.unsuccessful} of its timed requests failed")
        if subject.name == SERVER and check is not None:
            self._check_answer_bytes(found, check)

    def _check(self, server: LoadedSubject) -> Check:
        """Compare answers while the scenario's load runs."""
        scenario, seconds = self._scenario, self._effort.check_s
        argv = module_argv(
            "perf.load.check_client", "--protocol", scenario.protocol, "--model", scenario.model
        )
        argv += ["--port", str(server.plan.port), "--reference", str(self._files.reference_path)]
        argv += ["--concurrency", str(scenario.concurrency), "--seconds", str(seconds)]
        with concurrent.futures.ThreadPoolExecutor(max_workers=1) as pool:
            client = pool.submit(run_for_output, argv, seconds + _CLIENT_GRACE_S)
            run_load(server.plan, seconds + _CLIENT_START_S, server.scratch / "h2load.log")
            outcome = msgspec.json.decode(client.result(), type=Outcome)
        check = Check(scenario=scenario.name, **msgspec.structs.asdict(outcome))
        self._writer.write(check)
        counts = f"{check.right} right, {check.wrong} wrong, {check.failed} failed"
        say(f"  {scenario.name} answers under load: {counts}")
        if check.wrong or check.failed or not check.right:
            self._problem(f"{check.wrong} wrong and {check.failed} failed answers: {'; '.join(check.notes)}")
        return check

    def _check_answer_bytes(self, found: Measurement, check: Check) -> None:
        """Hold the timed answers' mean size against a right one's: all that h2load shows of a gRPC error."""
        if check.answer_bytes is None or found.answer_bytes is None:
            return
        prefix = GRPC_PREFIX_BYTES if self._scenario.protocol in GRPC_METHODS else 0
        right = check.answer_bytes + prefix
        if abs(found.answer_bytes / right - 1) > _ANSWER_SIZE_TOLERANCE:
            self._problem(f"timed answers have {found.answer_bytes:.1f} bytes on average, right ones {right}")

    def _problem(self, message: str) -> None:
        self._writer.write(Problem(scenario=self._scenario.name, message=message))
        say(f"  {self._scenario.name} PROBLEM: {message}")
