# SPDX-License-Identifier: Apache-2.0
"""Compare two inference workers with one that has two streams, on ResNet-50.

Three servers take turns, all of them up: ``--cpu_workers 2``, one worker with ``NUM_STREAMS`` 2, and one worker with
nothing set; with them OpenVINO called directly with two streams. Ratios are of one round each. The cores that each
thread of each worker may run on are read from /proc after the first answers; two workers must have none in common.

All are started several times, in turned order: the same server, started anew, is up to 3 % slower or quicker for as
long as it lives, and it is a percent that is to be told here. The two that are judged are loaded most, the others once
a start.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from perf.load.bodies import BodyFiles, write_bodies
from perf.load.check_client import Outcome
from perf.load.scenario import Scenario
from perf.models.declared import ModelFiles, build_models
from perf.processes.child import module_argv, run_for_output
from perf.processes.usage import allowed_cores, core_numbers, server_kind
from perf.report.console import say, say_environment, say_table, spread
from perf.report.records import Measurement
from perf.subjects.floors import running_floor
from perf.subjects.server import RunningServer, config_entry, running_config
from perf.subjects.timed import LoadedSubject, Subject, load_plan

Rounds = dict[int, Measurement]
"""What one server did, by round."""

_MODEL = "resnet50"
_CONCURRENCY = 16
_TWO, _STREAMS, _DEFAULT, _FLOOR = (
    "--cpu_workers 2",
    "one worker, NUM_STREAMS 2",
    "one worker",
    "openvino_async",
)
_CHECK_S = 5.0
_CLIENT_GRACE_S = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One of the servers."""

    name: str
    plugin_config: dict[str, str | int | float | bool]
    flags: tuple[str, ...]


_JUDGED = (_TWO, _STREAMS)
_SETTINGS = (
    Setting(name=_TWO, plugin_config={}, flags=("--cpu_workers", "2")),
    Setting(name=_STREAMS, plugin_config={"NUM_STREAMS": 2}, flags=()),
    Setting(name=_DEFAULT, plugin_config={}, flags=()),
)


def say_affinities(server: RunningServer) -> bool:
    """Print the cores of each worker's threads; whether no core belongs to two workers."""
    cores: list[frozenset[int]] = []
    for worker in server.status().workers:
        allowed = allowed_cores(worker.pid)
        cores.append(frozenset().union(*(core_numbers(text) for text in allowed)))
        threads = ", ".join(f"{count} threads on {text}" for text, count in sorted(allowed.items()))
        say(f"  {worker.name} pid {worker.pid}: {threads}")
    return all(first.isdisjoint(second) for first, second in itertools.combinations(cores, 2))


def check_answers(server: RunningServer, files: ModelFiles) -> Outcome:
    """Compare answers with 16 requests in flight."""
    argv = module_argv("perf.load.check_client", "--protocol", "grpc", "--model", _MODEL)
    argv += ["--port", str(server.grpc_port), "--reference", str(files.reference_path)]
    argv += ["--concurrency", str(_CONCURRENCY), "--seconds", str(_CHECK_S)]
    return msgspec.json.decode(run_for_output(argv, _CHECK_S + _CLIENT_GRACE_S), type=Outcome)


def check_server(name: str, server: RunningServer, files: ModelFiles) -> bool:
    """Print plan, answers and affinities; whether all is well."""
    status, outcome = server.status(), check_answers(server, files)
    say(f"{name}: {'; '.join(status.plan)}")
    say(f"  {status.models[_MODEL].versions[0].detail}")
    say(f"  {outcome.right} answers right, {outcome.wrong} wrong, {outcome.failed} failed {outcome.notes}")
    is_disjoint = say_affinities(server)
    if len(status.workers) > 1:
        say(f"  workers' cores are {'disjoint' if is_disjoint else 'NOT DISJOINT'}")
    return is_disjoint and outcome.right > 0 and not outcome.wrong and not outcome.failed


def measure(
    files: ModelFiles,
    bodies: BodyFiles,
    scratch: Path,
    repeats: int,
    seconds: float,
    found: dict[str, Rounds],
    settings: tuple[Setting, ...],
) -> bool:
    """Start all servers in this order and add what they do to ``found``.

    Returns:
        Whether all answers were right and all cores disjoint.
    """
    scenario = Scenario(
        name="cpu_workers",
        model="resnet50",
        protocol="grpc",
        concurrency=_CONCURRENCY,
        plugin_config={"NUM_STREAMS": 2},
    )
    scratch.mkdir()
    with contextlib.ExitStack() as stack:
        subjects: list[Subject] = [
            stack.enter_context(running_floor("openvino_async", scenario, files, bodies, scratch))
        ]
        is_well = True
        for index, setting in enumerate(settings):
            own = scratch / str(index)
            entry = config_entry(files, setting.plugin_config)
            server = stack.enter_context(running_config([entry], own, *setting.flags))
            is_well &= check_server(setting.name, server, files)
            plan = load_plan(scenario, bodies, server.grpc_port)
            subjects.append(
                LoadedSubject(name=setting.name, plan=plan, pid=server.pid, kind_of=server_kind, scratch=own)
            )
        for repeat in range(repeats):
            round_ = len(found[_TWO])
            loaded = [subject for subject in subjects if subject.name in _JUDGED or not repeat]
            # Another begins each time: what runs after a pause of the machine is not always the same.
            shift = round_ % len(loaded)
            for subject in loaded[shift:] + loaded[:shift]:
                figures = found[subject.name][round_] = subject.measure(scenario.name, repeat, seconds)
                is_well &= not figures.unsuccessful
                say(f"  #{round_ + 1} {subject.name}: {figures.rate_per_s:.1f}/s")
    return is_well


def say_result(found: dict[str, Rounds]) -> None:
    """Print the table and the ratios, each of one round."""
    rows = [("server", "req/s", "p50 ms", "p99 ms", "failed")]
    for name in (_FLOOR, _TWO, _STREAMS, _DEFAULT):
        figures = found[name].values()
        rows.append(
            (
                name,
                spread([figure.rate_per_s for figure in figures], ".1f"),
                spread([figure.p50_ms for figure in figures if figure.p50_ms is not None], ".0f"),
                spread([figure.p99_ms for figure in figures if figure.p99_ms is not None], ".0f"),
                str(sum(figure.unsuccessful for figure in figures)),
            )
        )
    say("")
    say_table(rows)
    for other, wanted in ((_STREAMS, ", wanted 1.00"), (_DEFAULT, ""), (_FLOOR, "")):
        ratios = [found[_TWO][n].rate_per_s / theirs.rate_per_s for n, theirs in found[other].items()]
        say(f"{_TWO} / {other}, {len(ratios)} rounds: {spread(ratios, '.3f')}{wanted}")


def main(arguments: Sequence[str]) -> int:
    """Run; exit code 1 if answers were wrong or missing, or cores shared."""
    parser = argparse.ArgumentParser(prog="python -m perf cpu_workers", description=__doc__.splitlines()[0])
    parser.add_argument("--starts", type=int, default=6, help="how often all servers are started")
    parser.add_argument("--repeats", type=int, default=4, help="loads of the judged servers after each start")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of each load")
    parser.add_argument(
        "--quick", action="store_true", help="one start, two loads of 4 s; the figures wobble"
    )
    given = parser.parse_args(arguments)
    starts, repeats, seconds = (1, 2, 4.0) if given.quick else (given.starts, given.repeats, given.seconds)
    say_environment()
    with tempfile.TemporaryDirectory(prefix="perf-cpu-workers-") as directory:
        scratch = Path(directory)
        build_models(scratch, [_MODEL])
        files = ModelFiles(scratch, _MODEL)
        bodies = write_bodies(files)
        found: dict[str, Rounds] = defaultdict(dict)
        is_well = True
        for start in range(starts):
            say(f"start {start + 1} of {starts}")
            settings = _SETTINGS[::-1] if start % 2 else _SETTINGS
            is_well &= measure(files, bodies, scratch / str(start), repeats, seconds, found, settings)
        say_result(found)
    return 0 if is_well else 1
