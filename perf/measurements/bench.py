# SPDX-License-Identifier: Apache-2.0
"""Hold the rates of ``ovms_mp bench`` against those that h2load gives by itself, by turns.

Both of the generators that ``bench`` has: h2load as it drives it, whose log it reads, and its own. Over gRPC and REST.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from ovms_mp.bench.dialects import Api
from ovms_mp.bench.endpoint import Endpoint, Trust
from ovms_mp.bench.figures import Level
from ovms_mp.bench.preparation import Subject, prepare
from perf.load.h2load import LoadPlan, Protocol, run_load
from perf.measurements.rounds import Rounds, rounds_of, usual_models
from perf.models.declared import ModelFiles
from perf.processes.child import module_argv, run_for_output
from perf.report.console import say, say_table, spread
from perf.subjects.server import RunningServer, config_entry, running_config

_IN_FLIGHT = 16
_WARMUP_S = 0.5
_GRACE_S = 60.0


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


class _Report(msgspec.Struct):
    levels: tuple[Level, ...]


def bench(server: RunningServer, way: Way, generator: str, model: str, seconds: float) -> Level:
    """One level of the command."""
    url = f"{way.scheme}://127.0.0.1:{server.port(way.protocol)}"
    words = [url, model, "--api", way.api, "--generator", generator, "--json"]
    words += ["--concurrency", str(_IN_FLIGHT), "--seconds", str(seconds), "--warmup", str(_WARMUP_S)]
    output = run_for_output(module_argv("ovms_mp", "bench", *words), seconds + _GRACE_S)
    return msgspec.json.decode(output, type=_Report).levels[0]


def h2load_alone(server: RunningServer, way: Way, model: str, scratch: Path, seconds: float) -> float:
    """The rate that h2load gives for the same request, without a warm-up being cut off."""
    endpoint = Endpoint(is_grpc=way.scheme == "grpc", host="127.0.0.1", port=server.port(way.protocol))
    subject = Subject(endpoint=endpoint, model=model, api=way.api, trust=Trust(), given={}, shapes={})
    request = prepare(subject).request
    body_path = scratch / "body"
    body_path.write_bytes(request.body)
    plan = LoadPlan(
        protocol=way.protocol,
        port=server.port(way.protocol),
        model=model,
        body_path=body_path,
        headers={name: value for name, value in request.headers.items() if name != "host"},
        concurrency=_IN_FLIGHT,
    )
    return run_load(plan, seconds, scratch / "h2load.log").rate_per_s


def compare(server: RunningServer, way: Way, model: str, scratch: Path, given: Rounds) -> tuple[str, ...]:
    """A row: rates and their ratios, each of one round."""
    rates: dict[str, list[float]] = {"": [], "h2load": [], "own": []}
    for round_ in range(given.rounds):
        for name in sorted(rates, reverse=bool(round_ % 2)):
            if name:
                rate = bench(server, way, name, model, given.seconds).rate_per_s
            else:
                rate = h2load_alone(server, way, model, scratch, given.seconds)
            rates[name].append(rate)
    ratios = [
        [one / other for one, other in zip(rates[name], rates[""], strict=True)] for name in ("h2load", "own")
    ]
    return (
        f"{way.protocol}, {model}",
        spread(rates[""], ".0f"),
        spread(rates["h2load"], ".0f"),
        spread(ratios[0], ".3f"),
        spread(rates["own"], ".0f"),
        spread(ratios[1], ".3f"),
    )


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
