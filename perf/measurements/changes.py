# SPDX-License-Identifier: Apache-2.0
"""Change one of two models under load, and time what clients of the other notice.

Sixteen requests are in flight all the time, each on a connection of its own: 4 over gRPC and 4 over REST to ``steady``
and as many to ``moving``, by four h2load processes. Quiet phases and phases with changes of ``moving`` take turns until
all changes are done: new versions, other settings in the configuration file, versions that vanish and come back. What
counts is the latency of ``steady`` in a phase with changes beside that in the quiet phase before it.

Without ``--rate`` every client asks again at once, so the machine is full; a change then takes its time from the
requests. With it, requests are begun at that rate in all, which leaves the machine room to spare.

A slow client compares the answers of both models over both protocols throughout, between the phases too; a version N
answers x + N. A failed request is one that h2load saw fail, a gRPC answer of h2load's without a body, or one that the
slow client got no right answer to.

At last, without load: from the rename that completes a new version to its first answer.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import random
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perf.load.asking import Ask, asking
from perf.load.bodies import GRPC_PREFIX_BYTES, grpc_frame, predict_request, rest_body
from perf.load.h2load import LoadPlan, LoadResult, percentile, run_loads
from perf.measurements.version_changes import PROTOCOLS, Changes, Checker, Failures, entries
from perf.models.adders import Adder
from perf.models.declared import ModelFiles, build_models
from perf.report.console import say, say_environment, say_table, spread
from perf.subjects.server import RunningServer, running_config

_CLIENTS_EACH = 4
_MOST_VERSIONS = 127
"""Above it a version takes another byte in a gRPC answer, and those without a body could not be told by mean size."""
_FIRST_ANSWERS = 10
_WANTED_P99 = 1.5
_WANTED_FIRST_ANSWER_S = 3.0
_SERIES = (*PROTOCOLS, "both")
_SEED = 3
_QUICK_S = 6.0


@dataclass(frozen=True, slots=True)
class Phase:
    """Latencies of ``steady`` in one phase by protocol, in ms, sorted; answers of both models a second."""

    latencies_ms: dict[str, tuple[float, ...]]
    rate_per_s: float

    def percentile_ms(self, series: str, share: float) -> float:
        """Of one protocol, or of "both"."""
        return percentile(self.latencies_ms[series], share) or float("nan")


class Load:
    """The four h2load processes."""

    def __init__(
        self, server: RunningServer, adders: Sequence[Adder], ask: Ask, scratch: Path, rate_per_s: float
    ) -> None:
        self._scratch = scratch
        self._steady = adders[0].spec.name
        self._plans: list[LoadPlan] = []
        self._grpc_answer_bytes: dict[str, int] = {}
        image = np.arange(10, dtype=np.float32).reshape(1, 10)
        for adder in adders:
            name = adder.spec.name
            self._grpc_answer_bytes[name] = ask(adder.spec, image).nbytes + GRPC_PREFIX_BYTES
            for protocol in PROTOCOLS:
                path = scratch / f"{name}.{protocol}"
                body, headers = rest_body(image)
                if protocol == "grpc":
                    body, headers = grpc_frame(predict_request(adder.spec, image)), {}
                path.write_bytes(body)
                plan = LoadPlan(
                    protocol=protocol,
                    port=server.port(protocol),
                    model=name,
                    body_path=path,
                    headers=headers,
                    concurrency=_CLIENTS_EACH,
                    connections=_CLIENTS_EACH,
                    rate_per_s=rate_per_s / len(adders) / len(PROTOCOLS),
                )
                self._plans.append(plan)

    def run(self, seconds: float, failures: Failures) -> Phase:
        """Apply it and count.

        Raises:
            LoadFailed: As :func:`perf.load.h2load.run_load`.
        """
        results = run_loads(self._plans, seconds, self._scratch)
        latencies: dict[str, tuple[float, ...]] = {}
        for plan, result in zip(self._plans, results, strict=True):
            failed = result.unsuccessful + self._without_body(plan, result)
            if failed:
                failures.add(f"{plan.model} {plan.protocol}: {failed} requests of h2load", failed)
            if plan.model == self._steady:
                latencies[plan.protocol] = result.latencies_ms
        latencies["both"] = tuple(sorted(value for values in latencies.values() for value in values))
        return Phase(latencies, sum(result.requests for result in results) / seconds)

    def _without_body(self, plan: LoadPlan, result: LoadResult) -> int:
        """Answers over gRPC without a body, which is how h2load sees an error there; what it left may hide four."""
        if plan.protocol != "grpc":
            return 0
        with_body = result.answer_bytes * result.requests / self._grpc_answer_bytes[plan.model]
        return max(0, round(result.requests - with_body))


def run_phases(
    load: Load, changes: Changes, waiting: deque[str], seconds: float, failures: Failures
) -> list[tuple[Phase, Phase]]:
    """Quiet and changing phases by turns, until nothing waits, and twice at least.

    Raises:
        ChangeFailed: A change had no effect.
        LoadFailed: h2load did not do its part.
    """
    pairs: list[tuple[Phase, Phase]] = []
    load.run(min(seconds, 3.0), failures)
    while waiting or len(pairs) < 2:
        quiet = load.run(seconds, failures)
        with concurrent.futures.ThreadPoolExecutor(max_workers=1) as pool:
            changer = pool.submit(changes.run, waiting, time.monotonic() + seconds)
            changing = load.run(seconds, failures)
            count = changer.result()
        pairs.append((quiet, changing))
        ratio = changing.percentile_ms("both", 0.99) / quiet.percentile_ms("both", 0.99)
        say(
            f"  #{len(pairs)}: p99 {quiet.percentile_ms('both', 0.99):.2f} ms quiet, "
            f"{changing.percentile_ms('both', 0.99):.2f} ms with {count} changes: {ratio:.2f}"
        )
    return pairs


def say_phases(pairs: Sequence[tuple[Phase, Phase]]) -> None:
    """Print the latencies and their ratios."""
    rows: list[Sequence[str]] = [
        ("steady", "quiet p50 ms", "changing", "ratio", "quiet p99 ms", "changing", "ratio of p99")
    ]
    for series in _SERIES:
        row = [series]
        for share in (0.5, 0.99):
            quiet = [phase.percentile_ms(series, share) for phase, _ in pairs]
            changing = [phase.percentile_ms(series, share) for _, phase in pairs]
            ratios = [second / first for first, second in zip(quiet, changing, strict=True)]
            row += [spread(quiet), spread(changing), spread(ratios)]
        rows.append(row)
    say_table(rows)
    pooled = [
        percentile(sorted(value for phase in phases for value in phase.latencies_ms["both"]), 0.99)
        for phases in zip(*pairs, strict=True)
    ]
    if pooled[0] and pooled[1]:
        ratio = pooled[1] / pooled[0]
        say(f"p99 over all phases: {pooled[0]:.2f} ms quiet, {pooled[1]:.2f} ms changing, ratio {ratio:.2f}")
    say(f"wanted of p99's ratio: at most {_WANTED_P99}")
    rates = [[phase.rate_per_s for phase in phases] for phases in zip(*pairs, strict=True)]
    say(f"answers/s of both models: {spread(rates[0], '.0f')} quiet, {spread(rates[1], '.0f')} changing")


def say_changes(changes: Changes, alone_s: Sequence[float], failures: Failures, checked: int) -> None:
    """Print what the changes took, and what failed."""
    for kind, seconds in changes.seconds.items():
        say(f"{len(seconds)} x {kind} under load: {spread(seconds)} s until in effect")
    each = ", ".join(f"{seconds:.2f}" for seconds in sorted(alone_s))
    say(f"first answer of a new version without load, s after its rename: {each}")
    say(f"  median {statistics.median(alone_s):.2f} s, wanted less than {_WANTED_FIRST_ANSWER_S:g} s")
    say(f"failed requests: {failures.count}, wanted 0; the slow client had {checked} right answers")
    for note in failures.notes:
        say(f"PROBLEM {note}")


def measure(scratch: Path, waiting: deque[str], seconds: float, rate_per_s: float) -> bool:
    """Run everything and print it; whether no request failed."""
    tiny = ModelFiles(scratch, "tiny")
    steady, moving = (Adder(tiny, scratch / "served" / name) for name in ("steady", "moving"))
    steady.install(1)
    moving.install(1)
    failures = Failures()
    with (
        running_config(entries(steady, moving, 0), scratch / "server") as server,
        asking(server.grpc_port, "grpc") as ask,
    ):
        changes = Changes(server, moving, steady, ask, failures)
        checker = Checker(server, (steady, moving), failures)
        load = Load(server, (steady, moving), ask, scratch, rate_per_s)
        changes.switch()  # A version can only vanish when there is one before it.
        with checker.running():
            pairs = run_phases(load, changes, waiting, seconds, failures)
        alone_s = [changes.switch() for _ in range(_FIRST_ANSWERS)]
    say("")
    say_phases(pairs)
    say_changes(changes, alone_s, failures, checker.right)
    return not failures.count and checker.right > 0


def main(arguments: Sequence[str]) -> int:
    """Run; exit code 1 if a request failed."""
    parser = argparse.ArgumentParser(prog="python -m perf changes", description=__doc__.splitlines()[0])
    parser.add_argument("--switches", type=int, default=50, help="new versions under load")
    parser.add_argument("--reloads", type=int, default=20, help="changed configuration files under load")
    parser.add_argument("--restores", type=int, default=10, help="versions that vanish and come back")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of a phase")
    parser.add_argument(
        "--rate", type=float, default=0.0, help="requests a second in all; 0: as many as it gets"
    )
    parser.add_argument(
        "--quick", action="store_true", help="7 changes, phases of 6 seconds; the figures wobble"
    )
    given = parser.parse_args(arguments)
    if given.switches + 1 + _FIRST_ANSWERS >= _MOST_VERSIONS:
        parser.error(f"--switches: less than {_MOST_VERSIONS - _FIRST_ANSWERS - 1}")
    counts = (4, 2, 1) if given.quick else (given.switches, given.reloads, given.restores)
    kinds = [
        kind
        for kind, count in zip(("switch", "reload", "restore"), counts, strict=True)
        for _ in range(count)
    ]
    random.Random(_SEED).shuffle(kinds)
    seconds = _QUICK_S if given.quick else given.seconds
    say_environment()
    say(f"{f'{given.rate:g} requests/s' if given.rate else 'closed loop'}, phases of {seconds:g} s")
    with tempfile.TemporaryDirectory(prefix="perf-changes-") as directory:
        scratch = Path(directory)
        build_models(scratch, ["tiny"])
        is_well = measure(scratch, deque(kinds), seconds, given.rate)
    return 0 if is_well else 1
