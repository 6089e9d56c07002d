# SPDX-License-Identifier: Apache-2.0
"""Measure the server beside its floors, check its answers under load, and keep the results.

Exit code 0 unless answers were wrong or something failed (1) or the command line is wrong (2). A missed
target is a figure in the table, not a failure: figures of a busy machine must not stop anything.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from perf import CHECKOUT
from perf.load.scenario import ScenarioError, read_scenarios, select_scenarios
from perf.measurements.scenario_run import Effort, run
from perf.processes.child import ChildFailed
from perf.report.console import say
from perf.report.environment import describe_environment
from perf.report.records import Environment, Problem
from perf.report.results import ResultRefused, ResultWriter, read_results
from perf.report.table import format_table

_EXIT_PROBLEM = 1
_EXIT_USAGE = 2


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    given = _parser().parse_args(arguments)
    try:
        if given.report is not None:
            say(format_table(read_results(given.report)))
            return 0
        scenarios = select_scenarios(read_scenarios(), given.only)
    except (OSError, ResultRefused, ScenarioError) as error:
        sys.stderr.write(f"perf: {error}\n")
        return _EXIT_USAGE
    if given.list:
        say("\n".join(scenario.name for scenario in scenarios))
        return 0
    effort = Effort.quick(is_floors_only=given.floors_only)
    if not given.quick:
        effort = Effort(is_floors_only=given.floors_only)
    try:
        environment = describe_environment()
        path = given.output or _default_output(environment)
        path.parent.mkdir(parents=True, exist_ok=True)
        with ResultWriter(path, environment) as writer:
            run(scenarios, effort, writer)
    except (ChildFailed, OSError) as error:
        sys.stderr.write(f"perf: {error}\n")
        return _EXIT_PROBLEM
    say("\n" + format_table(writer.records))
    say(f"written to {path}")
    return _EXIT_PROBLEM if any(isinstance(record, Problem) for record in writer.records) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m perf scenarios", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two short repeats instead of three long ones")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        help="scenarios of perf/scenarios; 'tiny*' fits a prefix",
    )
    parser.add_argument("--output", type=Path, help="result file; perf/results/TIME-COMMIT.jsonl without it")
    parser.add_argument("--floors-only", action="store_true", help="leave the server out")
    parser.add_argument("--list", action="store_true", help="print the scenarios' names and end")
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="print the table of a result file and end"
    )
    return parser


def _default_output(environment: Environment) -> Path:
    moment = environment.taken_at.partition("+")[0].replace(":", "").replace("-", "")
    return CHECKOUT / "perf" / "results" / f"{moment}-{environment.commit[:12]}.jsonl"
