# SPDX-License-Identifier: Apache-2.0
"""Add and remove a model of 100 MB 200 times, and look at memory.

Each cycle writes a configuration file with the model, reloads, compares one answer, writes one without and reloads.
A small model stays, and is asked too. Printed is each process kind's own resident memory (RssAnon and RssFile, so
without the arenas) after the 10th and after the last cycle, model unloaded, and the seconds of a cycle.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from perf.load.asking import Ask, AskFailed, asking
from perf.models.declared import MODELS, ModelFiles, build_models, is_expected
from perf.models.nets import NETS, build_nets, is_right, load_references
from perf.processes.usage import own_memory_bytes, process_kinds, server_kind
from perf.report.console import say, say_environment, say_table
from perf.subjects.server import Entry, RunningServer, config_entry, running_config

_FIRST = 10
"""By then allocators and caches have taken what they keep."""
_GROWTH_LIMIT = 1.10
_SETTLED_S = 1.0
"""What a worker lets go in threads of its own is gone by then."""
_WORKER = "worker"


@dataclass(slots=True)
class Course:
    """What happened so far."""

    load_s: list[float] = field(default_factory=list)
    unload_s: list[float] = field(default_factory=list)
    memory: dict[int, dict[str, int]] = field(default_factory=dict)
    """Own memory by process kind, by cycle."""
    loaded: list[int] = field(default_factory=list)
    """The worker's with the model loaded."""
    pids: set[int] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


def own_memory_by_kind(server: RunningServer) -> dict[str, int]:
    """Own resident memory of the server's processes."""
    total: dict[str, int] = defaultdict(int)
    for pid, (kind, _) in process_kinds(server.pid, server_kind).items():
        total[kind] += own_memory_bytes(pid)
    return dict(total)


class Cycles:
    """Loads and unloads the model, and looks."""

    def __init__(self, server: RunningServer, ask: Ask, files: ModelFiles, always: Entry) -> None:
        self._server = server
        self._ask = ask
        self._net = NETS[files.name]
        self._image, self._expected = load_references(files.reference_path)[0]
        self._always = always
        self._sometimes = config_entry(files, {})
        self.course = Course()

    def run(self, number: int, *, is_looking: bool) -> None:
        """Run one cycle; look at memory at its end."""
        course = self.course
        started_s = time.monotonic()
        self._server.reconfigure([self._always, self._sometimes])
        course.load_s.append(time.monotonic() - started_s)
        try:
            output = self._ask(self._net.spec(0), self._image).output
            if not is_right(self._net, output, self._expected):
                course.problems.append(
                    f"cycle {number}: {output.ravel()[:4]}, not {self._expected.ravel()[:4]}"
                )
            self._ask_the_other(number)
        except AskFailed as error:
            course.problems.append(f"cycle {number}: {error}")
        course.loaded.append(self._worker_bytes())
        started_s = time.monotonic()
        self._server.reconfigure([self._always])
        course.unload_s.append(time.monotonic() - started_s)
        if is_looking:
            # Not a wait for something: the figure is wanted as it is after a moment of rest.
            time.sleep(_SETTLED_S)
            course.memory[number] = own_memory_by_kind(self._server)

    def _ask_the_other(self, number: int) -> None:
        spec = MODELS["tiny"]
        image = np.full(spec.input_shape, number, np.float32)
        output = self._ask(spec, image).output
        if not is_expected(spec, output, image + np.float32(1)):
            self.course.problems.append(f"cycle {number}: tiny answers {output.ravel()[:4]}")

    def _worker_bytes(self) -> int:
        pids = [worker.pid for worker in self._server.status().workers]
        self.course.pids.update(pids)
        return sum(own_memory_bytes(pid) for pid in pids)


def say_result(course: Course, first: int, last: int) -> bool:
    """Print the table; whether the worker stayed within the limit and nothing failed."""
    rows = [("own memory, MiB", "before", f"after {first}", f"after {last}", "ratio")]
    for kind in sorted(course.memory[last]):
        before, early, late = (course.memory[number].get(kind, 0) for number in (0, first, last))
        ratio = f"{late / early:.3f}" if early else "-"
        rows.append((kind, f"{before / 2**20:.1f}", f"{early / 2**20:.1f}", f"{late / 2**20:.1f}", ratio))
    say("")
    say_table(rows)
    say(
        f"worker with the model: {course.loaded[0] >> 20} MiB in the first cycle, {course.loaded[-1] >> 20} in the last"
    )
    looks = ", ".join(
        f"{number}: {kinds[_WORKER] / 2**20:.1f}" for number, kinds in sorted(course.memory.items())
    )
    say(f"worker without it, MiB after cycle: {looks}")
    for name, times in (("load", course.load_s), ("unload", course.unload_s)):
        say(f"{name}: median {statistics.median(times):.2f} s, longest {max(times):.2f} s")
    say(f"worker processes seen: {len(course.pids)}")
    for problem in course.problems[:5]:
        say(f"PROBLEM {problem}")
    growth = course.memory[last][_WORKER] / course.memory[first][_WORKER]
    say(f"worker after {last} / after {first}: {growth:.3f}, wanted at most {_GROWTH_LIMIT:.2f}")
    return growth <= _GROWTH_LIMIT and not course.problems


def main(arguments: Sequence[str]) -> int:
    """Run; exit code 1 if memory grew or an answer was missing or wrong."""
    parser = argparse.ArgumentParser(prog="python -m perf cycles", description=__doc__.splitlines()[0])
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="25 cycles")
    given = parser.parse_args(arguments)
    count = 25 if given.quick else given.cycles
    if count <= _FIRST:
        parser.error(f"--cycles: more than {_FIRST}, as memory is compared with that after {_FIRST}")
    say_environment()
    with tempfile.TemporaryDirectory(prefix="perf-cycles-") as directory:
        scratch = Path(directory)
        build_models(scratch, ["tiny"])
        build_nets(scratch, ["ballast"])
        always = config_entry(ModelFiles(scratch, "tiny"), {})
        with running_config([always], scratch) as server, asking(server.grpc_port, "grpc") as ask:
            cycles = Cycles(server, ask, ModelFiles(scratch, "ballast"), always)
            cycles.course.memory[0] = own_memory_by_kind(server)
            for number in range(1, count + 1):
                cycles.run(number, is_looking=number in (_FIRST, count) or number % 25 == 0)
        return 0 if say_result(cycles.course, _FIRST, count) else 1
