# SPDX-License-Identifier: Apache-2.0
"""Send ``tiny`` and ``payload`` (602 kB) over TLS, beside the same without it.

KServe over gRPC, 16 in flight on one connection, so no handshake is in the figures. Two servers that differ in nothing
but TLS (a P-256 certificate; the client takes the cipher that it likes best) take turns. The front's own processor time
for a request tells more than rates where the load generator shares the cores.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from perf.load.bodies import grpc_frame, infer_request
from perf.load.h2load import LoadPlan, run_load
from perf.measurements.rounds import rounds_of, usual_models
from perf.models.declared import MODELS, ModelFiles, load_reference
from perf.processes.usage import cpu_seconds, server_kind
from perf.report.console import say, say_table, spread
from perf.subjects.server import RunningServer, config_entry, running_config

_CONCURRENCY = 16
_WAYS = ("plain", "TLS")


class Refused(Exception):
    """Requests were not answered."""


def make_certificate(directory: Path) -> tuple[str, str]:
    """Files of a certificate that signs itself, and of its key."""
    certificate, key = str(directory / "cert.pem"), str(directory / "key.pem")
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    )
    names = ("-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate)
    subprocess.run(["/usr/bin/env", *command.split(), *names], check=True, capture_output=True, timeout=30)
    return certificate, key


def measure(root: Path, rounds: int, seconds: float) -> Mapping[tuple[str, str], list[tuple[float, float]]]:
    """Rates a second and the front's microseconds for a request, by model and way, a pair for each round.

    Raises:
        Refused: Requests failed.
    """
    files = {name: ModelFiles(root, name) for name in ("tiny", "payload")}
    entries = [config_entry(entry, {}) for entry in files.values()]
    certificate, key = make_certificate(root)
    flags = {"plain": (), "TLS": ("--tls_cert", certificate, "--tls_key", key)}
    rates: dict[tuple[str, str], list[tuple[float, float]]] = {
        (model, way): [] for model in files for way in _WAYS
    }
    for name, entry in files.items():
        request = infer_request(MODELS[name], load_reference(entry.reference_path)[0][0])
        (root / f"{name}.grpc").write_bytes(grpc_frame(request))
    with ExitStack() as stack:
        servers = {
            way: stack.enter_context(running_config(entries, root / way, *flags[way])) for way in _WAYS
        }
        for _ in range(rounds):
            for model, way in rates:
                plan = LoadPlan(
                    protocol="kserve_grpc",
                    port=servers[way].grpc_port,
                    model=model,
                    body_path=root / f"{model}.grpc",
                    concurrency=_CONCURRENCY,
                    is_secure=way == "TLS",
                )
                before_s = _front_s(servers[way])
                found = run_load(plan, seconds, root / "h2load.log")
                if found.unsuccessful:
                    raise Refused(f"{model}, {way}: {found.unsuccessful} failed")
                front_us = 1e6 * (_front_s(servers[way]) - before_s) / found.requests
                rates[model, way].append((found.rate_per_s, front_us))
                say(f"  {model}, {way}: {found.rate_per_s:.0f}/s, front {front_us:.0f} us")
    return rates


def _front_s(server: RunningServer) -> float:
    return cpu_seconds(server.pid, server_kind)["grpc"]


def main(arguments: list[str]) -> int:
    """Measure and print a table; 1 if requests failed."""
    given = rounds_of("tls", __doc__, arguments)
    with usual_models() as root:
        try:
            rates = measure(root, given.rounds, given.seconds)
        except Refused as error:
            say(f"WRONG: {error}")
            return 1
    table = [("load", "plain", "TLS", "ratio")]
    for model in ("tiny", "payload"):
        for index, unit in enumerate(("req/s", "us of the front")):
            plain, secure = ([pair[index] for pair in rates[model, way]] for way in _WAYS)
            ratios = [one / other for one, other in zip(secure, plain, strict=True)]
            table.append((f"{model}, {unit}", spread(plain, ".0f"), spread(secure, ".0f"), spread(ratios)))
    say_table(table)
    return 0
