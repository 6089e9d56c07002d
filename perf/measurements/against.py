# SPDX-License-Identifier: Apache-2.0
"""Compare this checkout's server with another version's, by turns.

PYTHON is the interpreter of an environment in which the other version is installed. Both servers are up during all
rounds of a scenario, and take turns at being first. Ratios are of one round each: this one's rate by the other's.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from perf.load.bodies import write_bodies
from perf.load.scenario import Scenario, read_scenarios, select_scenarios
from perf.models.declared import ModelFiles, build_models
from perf.processes.usage import server_kind
from perf.report.console import say, say_environment, say_table, spread
from perf.report.records import Measurement
from perf.subjects.server import config_entry, running_config
from perf.subjects.timed import LoadedSubject, load_plan

_THIS, _OTHER = "this", "other"
_USUAL = ["tiny*", "payload*"]


def compare(scenario: Scenario, root: Path, other: str, rounds: int) -> dict[str, list[Measurement]]:
    """Load both servers in turns; what each did in each round.

    Args:
        scenario: Model, protocol and load.
        root: Where the model was built.
        other: Interpreter that runs the other version.
        rounds: How often both are loaded.
    """
    files = ModelFiles(root, scenario.model)
    bodies = write_bodies(files)
    flags = ["--grpc_workers", str(scenario.grpc_workers), "--rest_workers", str(scenario.rest_workers)]
    found: dict[str, list[Measurement]] = {_THIS: [], _OTHER: []}
    with contextlib.ExitStack() as stack:
        subjects: list[LoadedSubject] = []
        for name, python in ((_THIS, ""), (_OTHER, other)):
            scratch = root / "scratch" / scenario.name / name
            entry = config_entry(files, scenario.plugin_config)
            server = stack.enter_context(running_config([entry], scratch, *flags, python=python))
            plan = load_plan(scenario, bodies, server.port(scenario.protocol))
            subjects.append(
                LoadedSubject(name=name, plan=plan, pid=server.pid, kind_of=server_kind, scratch=scratch)
            )
        for round_ in range(rounds):
            for subject in subjects[:: -1 if round_ % 2 else 1]:
                found[subject.name].append(subject.measure(scenario.name, round_, scenario.seconds))
    return found


def say_result(scenario: Scenario, found: dict[str, list[Measurement]]) -> int:
    """Print what both did; how many requests failed."""
    rows = [("server", "req/s", "p50 ms", "p99 ms", "failed", "processor time a request, us")]
    for name, figures in found.items():
        rows.append(
            (
                name,
                spread([figure.rate_per_s for figure in figures], ".0f"),
                spread([figure.p50_ms for figure in figures if figure.p50_ms is not None], ".3f"),
                spread([figure.p99_ms for figure in figures if figure.p99_ms is not None], ".2f"),
                str(sum(figure.unsuccessful for figure in figures)),
                ", ".join(
                    f"{kind} {statistics.median(figure.cpu_us[kind] for figure in figures):.1f}"
                    for kind in figures[0].cpu_us
                ),
            )
        )
    pairs = list(zip(found[_THIS], found[_OTHER], strict=True))
    say(f"\n{scenario.name}")
    say_table(rows)
    say(f"this / other: {spread([mine.rate_per_s / theirs.rate_per_s for mine, theirs in pairs], '.3f')}")
    return sum(figure.unsuccessful for figures in found.values() for figure in figures)


def main(arguments: Sequence[str]) -> int:
    """Run; exit code 1 if requests failed, 2 for a wrong command line."""
    parser = argparse.ArgumentParser(prog="python -m perf against", description=__doc__.splitlines()[0])
    parser.add_argument("other", metavar="PYTHON", help="interpreter that runs the other version")
    parser.add_argument("--only", nargs="+", default=_USUAL, metavar="NAME", help="scenarios")
    parser.add_argument("--rounds", type=int, default=5, help="how often both are loaded")
    given = parser.parse_args(arguments)
    other = shutil.which(given.other)
    if other is None:
        parser.error(f"{given.other}: there is no such program")
    say_environment()
    failed = 0
    with tempfile.TemporaryDirectory(prefix="perf-against-") as directory:
        root = Path(directory)
        scenarios = select_scenarios(read_scenarios(), given.only)
        build_models(root, {scenario.model for scenario in scenarios})
        for scenario in scenarios:
            failed += say_result(scenario, compare(scenario, root, other, given.rounds))
    return 1 if failed else 0
