# SPDX-License-Identifier: Apache-2.0
"""Hold the rates of ``ovms_mp bench`` against those that h2load gives by itself, by turns.

Both of the generators that ``bench`` has: h2load as it drives it, whose log it reads, and its own. Over gRPC and REST.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ovms_mp.bench.dialects import Api
from ovms_mp.bench.endpoint import Endpoint, Trust
from ovms_mp.bench.load import Load
from ovms_mp.bench.measuring import Generator, Means, measure
from ovms_mp.bench.preparation import Subject, prepare
from perf.load.h2load import LoadPlan, Protocol, run_load
from perf.measurements.rounds import Rounds, rounds_of, usual_models
from perf.models.declared import ModelFiles
from perf.report.console import say, say_table, spread
from perf.subjects.server import RunningServer, config_entry, running_config

_IN_FLIGHT = 16
_WARMUP_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Way:
    """An API as the suite, a URL and ``--api`` have it."""

    protocol: Protocol
    scheme: str
    api: Api


_WAYS = (
    Way("grpc", "grpc", "tfs"),
    Way("kserve_grpc", "grpc", "kserve"),
    Way("kserve_rest", "http", "kserve"),
    Way("rest", "http", "tfs"),
)


def load_of(server: RunningServer, way: Way, model: str, seconds: float) -> tuple[Load, int]:
    """The load that ``bench`` makes, and the size of a good answer."""
    endpoint = Endpoint(is_grpc=way.scheme == "grpc", host="127.0.0.1", port=server.port(way.protocol))
    prepared = prepare(
        Subject(endpoint=endpoint, model=model, api=way.api, trust=Trust(), given=(), shapes={})
    )
    load = Load(
        endpoint=endpoint,
        request=prepared.request,
        in_flight=_IN_FLIGHT,
        warmup_s=_WARMUP_SHARE * seconds,
        seconds=seconds,
    )
    return load, prepared.answer_bytes


def compare(server: RunningServer, way: Way, model: str, scratch: Path, given: Rounds) -> tuple[str, ...]:
    """A row: rates and their ratios, each of one round, whose order is turned round each time."""
    load, answer_bytes = load_of(server, way, model, given.seconds)
    body_path = scratch / "body"
    body_path.write_bytes(load.request.body)
    plan = LoadPlan(
        protocol=way.protocol,
        port=load.endpoint.port,
        model=model,
        body_path=body_path,
        headers={name: value for name, value in load.request.headers.items() if name != "host"},
        concurrency=_IN_FLIGHT,
    )
    ways: dict[str, Callable[[], float]] = {
        "alone": lambda: run_load(plan, given.seconds, scratch / "log").rate_per_s
    }
    generators: tuple[Generator, ...] = ("h2load", "own")
    for generator in generators:
        means = Means(generator=generator, answer_bytes=answer_bytes, scratch=scratch, environment=os.environ)
        ways[generator] = functools.partial(rate, load, means, model)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(given.rounds):
        for name in list(ways)[:: -1 if turn % 2 else 1]:
            rates[name].append(ways[name]())
    cells = [f"{way.protocol}, {model}", spread(rates["alone"], ".0f")]
    for name in generators:
        ratios = [one / other for one, other in zip(rates[name], rates["alone"], strict=True)]
        cells += [spread(rates[name], ".0f"), spread(ratios, ".3f")]
    return tuple(cells)


def rate(load: Load, means: Means, model: str) -> float:
    """As ``bench`` shows it."""
    return measure(load, means, model).rate_per_s


def main(arguments: list[str]) -> int:
    """Run; the exit code."""
    given = rounds_of("bench", __doc__, arguments)
    rows: list[tuple[str, ...]] = [
        ("API, model", "h2load alone", "bench by h2load", "ratio", "bench by its own", "ratio")
    ]
    with usual_models() as root:
        for model in ("tiny", "payload"):
            entry = config_entry(ModelFiles(root, model), {})
            with running_config([entry], root / f"server-{model}") as server:
                for way in _WAYS:
                    rows.append(compare(server, way, model, root, given))
                    say("; ".join(rows[-1]))
    say_table(rows)
    return 0
