# SPDX-License-Identifier: Apache-2.0
"""Hold what ``ovms_mp tune`` finds against the best of an exhaustive grid, for several models.

For each model the search runs as the command runs it. Then every setting of the grid is measured by turns, and the best
few of those run once more by turns beside the one that was found: the best of many noisy figures is too good to be
true, and only runs of the same minutes are compared.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ovms_mp.places import usable_cores
from ovms_mp.tuning.candidates import Candidate, first_candidates, neighbours
from ovms_mp.tuning.sandbox import Sandbox
from ovms_mp.tuning.search import Search
from ovms_mp.tuning.target import Target, parse_target
from ovms_mp.tuning.trials import Sample, Trials
from perf.models.declared import ModelFiles, build_models
from perf.models.nets import build_nets
from perf.report.console import say, say_environment, say_table, spread

_MODELS = ("tiny", "payload", "resnet50")
_NETS = ("convnet",)
_WANTED = 0.97
_MOST_LOADED = 64
_LOAD_TIMEOUT_S = 120.0
_RERUN = 3
"""The best of the grid that are measured once more."""


def grid(cores: int) -> list[Candidate]:
    """All hints, streams to twice the cores, workers and infer requests."""
    hints = [Candidate(hint=hint) for hint in ("", "LATENCY", "THROUGHPUT")]
    found = [
        Candidate(workers=workers, streams=streams, nireq=nireq)
        for workers in range(1, cores + 1)
        for streams in range(1, 2 * cores // workers + 1)
        for nireq in (0, 2 * streams)
    ]
    return [*hints, *found]


def by_turns(
    trials: Trials, candidates: Sequence[Candidate], rounds: int, seconds: float
) -> dict[Candidate, list[float]]:
    """Scores of each, all of them measured in every round."""
    trials.prepare(candidates)
    found: dict[Candidate, list[float]] = {candidate: [] for candidate in candidates}
    for turn in range(rounds):
        for candidate in candidates[::-1] if turn % 2 else candidates:
            found[candidate].append(trials.measure(candidate, seconds))
    return found


def compare(path: Path, name: str, target: Target, given: argparse.Namespace) -> float:
    """The ratio for one model: what was found, relative to the best of the grid."""
    cores = len(usable_cores())
    with Sandbox(str(path), {}, os.environ, _LOAD_TIMEOUT_S) as sandbox:
        trials = Trials(sandbox, target, Sample(given=(), shapes={}), os.environ, _MOST_LOADED)
        search = Search(
            first_candidates(cores, "CPU", {}),
            functools.partial(neighbours, cores=cores, given={}),
            trials,
            budget_s=given.budget,
            clock=time.monotonic,
            least_seconds=target.least_seconds(),
        )
        begun_s = time.monotonic()
        search.run()
        winner = search.best()
        if winner is None:
            say(f"{name}: nothing serves: {trials.failures}")
            return 0.0
        say(f"{name}: found {winner.candidate.text()} in {time.monotonic() - begun_s:.0f} s")
        scores = by_turns(trials, grid(cores), given.rounds, given.seconds)
        ranked = sorted(scores, key=lambda candidate: -statistics.median(scores[candidate]))
        last = list(dict.fromkeys([winner.candidate, *ranked[:_RERUN]]))
        final = by_turns(trials, last, given.final_rounds, given.seconds)
    best = max(last, key=lambda candidate: statistics.median(final[candidate]))
    ratio = statistics.median(final[winner.candidate]) / statistics.median(final[best])
    rows = [("setting", "grid", "once more")]
    rows += [
        (
            candidate.text() + (" (found)" if candidate == winner.candidate else ""),
            target.shown(statistics.median(scores[candidate])) if candidate in scores else "-",
            spread(final[candidate], ".4g") if candidate in final else "-",
        )
        for candidate in dict.fromkeys([*last, *ranked])
    ]
    say_table(rows)
    say(f"{name}: {ratio:.3f} of the best of {len(scores)} settings, {best.text()}; wanted {_WANTED}")
    return ratio


def main(arguments: list[str]) -> int:
    """Run; exit code 1 if a model's ratio is too low."""
    parser = argparse.ArgumentParser(prog="python -m perf tune", description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help=f"of {', '.join((*_MODELS, *_NETS))}")
    parser.add_argument("--target", default="throughput")
    parser.add_argument("--budget", type=float, default=60.0, help="of each search, in seconds")
    parser.add_argument("--rounds", type=int, default=3, help="of the grid")
    parser.add_argument("--final-rounds", type=int, default=5, help="of the best of it")
    parser.add_argument("--seconds", type=float, default=1.5, help="of each run")
    given = parser.parse_args(arguments)
    target = parse_target(given.target, len(usable_cores()))
    say_environment()
    ratios = []
    with tempfile.TemporaryDirectory(prefix="perf-tune-") as directory:
        root = Path(directory)
        for name in given.models or (*_MODELS, *_NETS):
            build = build_nets if name in _NETS else build_models
            build(root, [name])
            ratios.append(compare(ModelFiles(root, name).base_path, name, target, given))
    return 0 if min(ratios) >= _WANTED else 1
