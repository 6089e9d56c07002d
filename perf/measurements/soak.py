# SPDX-License-Identifier: Apache-2.0
"""Send 100,000 tiny and 5,000 payload requests over each protocol, and look at memory.

Prints each process kind's proportional memory after a warm-up and at the end, on both protocols, and what is in
``/dev/shm``. PSS counts a shared page once, so the arenas are in the sum exactly once.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from perf.load.bodies import BodyFiles, write_bodies
from perf.load.scenario import Scenario
from perf.models.declared import ModelFiles, build_models
from perf.processes.usage import memory_bytes, server_kind
from perf.subjects.server import RunningServer, running_server

_REQUESTS = {"tiny": 100_000, "payload": 5_000}
_WARM_UP_SHARE = 0.1
_WITHIN_S = 600.0


def send(server: RunningServer, model: str, bodies: BodyFiles, protocol: str, requests: int) -> None:
    """Send so many requests, 16 in flight.

    Raises:
        RuntimeError: One was not answered with 200.
    """
    command = ["h2load", "-t", "1", "-n", str(requests)]
    if protocol == "grpc":
        command += ["-c", "1", "-m", "16", "-d", str(bodies.grpc_path)]
        command += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
        command += [f"http://127.0.0.1:{server.grpc_port}/tensorflow.serving.PredictionService/Predict"]
    else:
        command += ["--h1", "-c", "16", "-d", str(bodies.rest_path)]
        command += [f"http://127.0.0.1:{server.rest_port}/v1/models/{model}:predict"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=_WITHIN_S, check=True)
    if f"status codes: {requests} 2xx" not in result.stdout:
        raise RuntimeError(f"not every request was answered:\n{result.stdout}")


def soak(model: str, protocol: str, requests: int, scratch: Path) -> bool:
    """Run one soak and print its line; whether memory stayed within 5 %."""
    files = ModelFiles(scratch, model)
    bodies = write_bodies(files)
    scenario = Scenario(name="soak", model="tiny", protocol="grpc", concurrency=16)
    shm_before = set(os.listdir("/dev/shm"))  # noqa: S108  # looked at, not used
    with running_server(files, scenario, scratch) as server:
        send(server, model, bodies, protocol, int(requests * _WARM_UP_SHARE))
        _, _, before = memory_bytes(server.pid, server_kind)
        send(server, model, bodies, protocol, requests)
        _, _, after = memory_bytes(server.pid, server_kind)
        shm = set(os.listdir("/dev/shm")) - shm_before  # noqa: S108  # as above
    growth = sum(after.values()) / sum(before.values()) - 1
    detail = ", ".join(f"{kind} {before[kind] >> 10} -> {after[kind] >> 10} KiB" for kind in sorted(after))
    verdict = "flat" if growth <= 0.05 and not shm else "GROWS"
    print(
        f"{protocol} {model}: {requests} requests, PSS {growth:+.1%} ({detail}), /dev/shm {sorted(shm)}: {verdict}"
    )
    return verdict == "flat"


def main(arguments: Sequence[str]) -> int:
    """Run the soaks; exit code 1 if memory grew."""
    parser = argparse.ArgumentParser(prog="python -m perf soak", description=__doc__.splitlines()[0])
    parser.add_argument("--share", type=float, default=1.0, help="run only this share of the requests")
    share = parser.parse_args(arguments).share
    with tempfile.TemporaryDirectory(prefix="perf-soak-") as directory:
        scratch = Path(directory)
        build_models(scratch, list(_REQUESTS))
        results = [
            soak(model, protocol, int(requests * share), scratch)
            for model, requests in _REQUESTS.items()
            for protocol in ("grpc", "rest")
        ]
    return 0 if all(results) else 1
