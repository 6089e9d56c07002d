# SPDX-License-Identifier: Apache-2.0
"""Send 8 shapes in turn to models whose shape is auto, beside OpenVINO called directly.

Eight h2load clients, a shape each, two requests in flight each, over gRPC: 16 in flight, all shapes mixed in one queue.
Beside it the same dynamic model is called directly with the same properties, its requests alternating over the shapes.
``convnet`` takes milliseconds, as models that matter do; ``sizes`` adds one and shows what a request costs by itself.
``binarynet`` has an operation that OpenVINO compiles for known shapes only, so the server compiles it for each shape
(``auto=compiled for each shape`` in the version's detail), and so does its floor.

Many shapes at once are a load for the hint THROUGHPUT, and that is judged. LATENCY gives each request all cores, one
after another: what front and load take of one core stops the engine's threads on both, unlike in the floor.

Answers to all shapes are compared while the load runs. After the first request of each shape nothing may be compiled.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from perf.load.asking import AskFailed, asking
from perf.load.bodies import grpc_frame, predict_request
from perf.load.h2load import LoadPlan, run_loads
from perf.models.declared import ModelFiles
from perf.models.nets import NETS, build_nets, is_right, load_references
from perf.processes.child import module_argv, run_for_figures
from perf.report.console import say, say_environment, say_table, spread
from perf.subjects.server import RunningServer, config_entry, running_config

_IN_FLIGHT_A_SHAPE = 2
_WARM_UP_S = 0.7
_CHECK_S = 3.0
_CHECK_PAUSE_S = 0.01
_FLOOR_GRACE_S = 60.0
_WANTED = 0.8
_LATENCY, _THROUGHPUT = {"PERFORMANCE_HINT": "LATENCY"}, {"PERFORMANCE_HINT": "THROUGHPUT"}
_COMPILED = "event=variant_compiled"
_LOADED = "event=loaded model="


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A model with properties; the floor has the same ones."""

    net: str
    plugin_config: dict[str, str]
    is_judged: bool = True

    @property
    def title(self) -> str:
        """For the table."""
        return f"{self.net} {self.plugin_config['PERFORMANCE_HINT']}"


_CASES = (
    Case(net="convnet", plugin_config=_THROUGHPUT),
    Case(net="convnet", plugin_config=_LATENCY, is_judged=False),
    Case(net="binarynet", plugin_config=_THROUGHPUT, is_judged=False),
    Case(net="binarynet", plugin_config=_LATENCY, is_judged=False),
    Case(net="sizes", plugin_config=_THROUGHPUT, is_judged=False),
)


@dataclass(slots=True)
class Outcome:
    """What came of a case."""

    rates: list[float] = field(default_factory=list)
    floor_rates: list[float] = field(default_factory=list)
    least_shares: list[float] = field(default_factory=list)
    """The rarest shape's share of the answers; 0.125 where all are equal."""
    failed: int = 0
    right: int = 0
    compiled_late: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """Server / floor, of each round."""
        return [ours / floor for ours, floor in zip(self.rates, self.floor_rates, strict=True)]


class CaseRun:
    """One case's server and floor, taking turns."""

    def __init__(self, case: Case, files: ModelFiles, scratch: Path) -> None:
        self._case = case
        self._net = NETS[case.net]
        self._files = files
        self._scratch = scratch
        self._references = load_references(files.reference_path)
        self.outcome = Outcome()

    def run(self, repeats: int, seconds: float) -> None:
        """Check, then measure.

        Raises:
            ChildFailed: A server or floor did not do its part.
            LoadFailed: h2load did not.
        """
        entry = {**config_entry(self._files, dict(self._case.plugin_config)), "shape": "auto"}
        outcome = self.outcome
        with running_config([entry], self._scratch) as server:
            detail = server.status().models[self._case.net].versions[0].detail
            # The engine's reason against a dynamic model has its whole text.
            say(f"{self._case.title}: {detail.partition(' (as one dynamic model')[0]}")
            plans = self._plans(server)
            self._ask_each_shape(server)
            before = server.count_in_log(_COMPILED) + server.count_in_log(_LOADED)
            say(f"  compiled in the first round: {server.count_in_log(_COMPILED)}")
            self._check(server, plans)
            for repeat in range(repeats):
                outcome.floor_rates.append(self._measure_floor(seconds))
                self._measure(plans, seconds)
                say(
                    f"  #{repeat + 1}: {outcome.rates[-1]:.1f}/s, floor {outcome.floor_rates[-1]:.1f}/s, "
                    f"rarest shape {outcome.least_shares[-1]:.3f} of the answers"
                )
            outcome.compiled_late = server.count_in_log(_COMPILED) + server.count_in_log(_LOADED) - before

    def _plans(self, server: RunningServer) -> list[LoadPlan]:
        plans: list[LoadPlan] = []
        for index, (image, _) in enumerate(self._references):
            path = self._scratch / f"{index}.grpc"
            path.write_bytes(grpc_frame(predict_request(self._net.spec(index), image)))
            plan = LoadPlan(
                protocol="grpc",
                port=server.grpc_port,
                model=self._case.net,
                body_path=path,
                concurrency=_IN_FLIGHT_A_SHAPE,
            )
            plans.append(plan)
        return plans

    def _measure(self, plans: Sequence[LoadPlan], seconds: float) -> None:
        run_loads(plans, _WARM_UP_S, self._scratch)
        results = run_loads(plans, seconds, self._scratch)
        total = sum(result.requests for result in results)
        self.outcome.rates.append(total / seconds)
        self.outcome.least_shares.append(min(result.requests for result in results) / total)
        self.outcome.failed += sum(result.unsuccessful for result in results)
        # gRPC errors have no body, and all right answers to this model are of one size or nearly so.
        if any(result.answer_bytes < max(r.answer_bytes for r in results) / 2 for result in results):
            self.outcome.problems.append("answers without a body: gRPC errors")

    def _measure_floor(self, seconds: float) -> float:
        argv = module_argv("perf.floors.openvino_shapes", "--model", str(self._files.version_path))
        argv += ["--reference", str(self._files.reference_path), "--seconds", str(seconds)]
        argv += ["--mode", "static" if self._case.net == "binarynet" else "dynamic"]
        argv += ["--plugin-config", msgspec.json.encode(self._case.plugin_config).decode()]
        figures = run_for_figures(argv, seconds + _FLOOR_GRACE_S)
        return figures["requests"] / figures["seconds"]

    def _check(self, server: RunningServer, plans: Sequence[LoadPlan]) -> None:
        """Compare answers while the load runs."""
        stopping = threading.Event()

        def check() -> None:
            while not stopping.wait(_CHECK_PAUSE_S):
                self._ask_each_shape(server)

        checker = threading.Thread(target=check)
        checker.start()
        try:
            results = run_loads(plans, _CHECK_S, self._scratch)
        finally:
            stopping.set()
            checker.join()
        self.outcome.failed += sum(result.unsuccessful for result in results)

    def _ask_each_shape(self, server: RunningServer) -> None:
        with asking(server.grpc_port, "grpc") as ask:
            for index, (image, expected) in enumerate(self._references):
                try:
                    output = ask(self._net.spec(index), image).output
                except AskFailed as error:
                    self.outcome.problems.append(str(error))
                    continue
                if is_right(self._net, output, expected):
                    self.outcome.right += 1
                else:
                    text = f"{output.shape} {output.ravel()[:4]}, not {expected.shape} {expected.ravel()[:4]}"
                    self.outcome.problems.append(f"shape {image.shape}: {text}")


def say_result(outcomes: list[tuple[Case, Outcome]]) -> None:
    """Print the table."""
    headings = ("case", "req/s", "floor", "ratio", "wanted", "compiled late", "failed", "checked answers")
    rows: list[Sequence[str]] = [headings]
    for case, outcome in outcomes:
        rows.append(
            (
                case.title,
                spread(outcome.rates, ".1f"),
                spread(outcome.floor_rates, ".1f"),
                spread(outcome.ratios),
                f"{_WANTED:g}" if case.is_judged else "-",
                str(outcome.compiled_late),
                str(outcome.failed),
                f"{outcome.right} right, {len(outcome.problems)} not",
            )
        )
    say("")
    say_table(rows)
    for case, outcome in outcomes:
        for problem in outcome.problems[:3]:
            say(f"PROBLEM {case.title}: {problem}")


def main(arguments: Sequence[str]) -> int:
    """Run; exit code 1 if something failed, was wrong or was compiled late."""
    parser = argparse.ArgumentParser(prog="python -m perf shapes", description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each load")
    parser.add_argument("--only", default="", help="cases whose title has this text")
    parser.add_argument("--quick", action="store_true", help="two loads of 2 seconds; the figures wobble")
    given = parser.parse_args(arguments)
    repeats, seconds = (2, 2.0) if given.quick else (given.repeats, given.seconds)
    cases = [case for case in _CASES if given.only in case.title]
    say_environment()
    outcomes: list[tuple[Case, Outcome]] = []
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="perf-shapes-")))
        build_nets(root, {case.net for case in cases})
        for index, case in enumerate(cases):
            run = CaseRun(case, ModelFiles(root, case.net), root / "scratch" / str(index))
            run.run(repeats, seconds)
            outcomes.append((case, run.outcome))
    say_result(outcomes)
    is_well = all(
        outcome.right and not (outcome.failed or outcome.compiled_late or outcome.problems)
        for _, outcome in outcomes
    )
    return 0 if is_well else 1
