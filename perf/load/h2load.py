# SPDX-License-Identifier: Apache-2.0
"""Closed-loop load by h2load (nghttp2), for a fixed time: HTTP/2 for gRPC, HTTP/1.1 for REST.

h2load compares nothing. It does not even see a gRPC status, which comes in trailers: a failed call is a fast
200 to it. So the bytes of the answers are held against the size of a right one
(:attr:`LoadResult.answer_bytes`), and ``check_client.py`` compares contents while a load runs.

A warm-up is a run of its own and not h2load's ``--warm-up-time``: h2load 1.52 counts the warm-up's bytes but
not its requests, and processor time could not be told apart either.
"""

from __future__ import annotations

import concurrent.futures
import re
import resource
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Protocol = Literal["grpc", "kserve_grpc", "rest", "kserve_rest"]
"""TensorFlow Serving's and KServe's over gRPC, TensorFlow Serving's JSON and KServe's binary tensors over REST."""
GRPC_METHODS: Mapping[Protocol, str] = {
    "grpc": "/tensorflow.serving.PredictionService/Predict",
    "kserve_grpc": "/inference.GRPCInferenceService/ModelInfer",
}
REST_PATHS: Mapping[Protocol, str] = {
    "rest": "/v1/models/{model}:predict",
    "kserve_rest": "/v2/models/{model}/infer",
}
_GRACE_S = 30.0
_REQUESTS = re.compile(r"requests: .* (\d+) failed, (\d+) errored, (\d+) timeout$", re.MULTILINE)
_STATUS_CODES = re.compile(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx")
_DATA_BYTES = re.compile(r"traffic: .*\((\d+)\) data$", re.MULTILINE)


class LoadFailed(Exception):
    """h2load is missing, hung, or said something else than a result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """A load to apply.

    Attributes:
        body_path: Request body; for gRPC with its five-byte prefix.
        headers: Of a REST request.
        concurrency: Requests in flight, over all connections.
        connections: HTTP/2 only; an HTTP/1.1 connection carries one request at a time, so there are
            ``concurrency`` of them.
        rate_per_s: Requests a second that are begun at most, over all connections; 0 for as many as are answered.
        is_secure: The port speaks TLS; h2load trusts whatever certificate it shows.
    """

    protocol: Protocol
    port: int
    model: str
    body_path: Path
    concurrency: int
    headers: Mapping[str, str] = field(default_factory=dict)
    connections: int = 1
    rate_per_s: float = 0.0
    is_secure: bool = False

    def argv(self, seconds: float, log_path: Path) -> list[str]:
        """The command line of h2load."""
        scheme = "https" if self.is_secure else "http"
        common = ["h2load", "-t", "1", "-D", f"{round(seconds * 1000)}ms", "--log-file", str(log_path)]
        common += ["-d", str(self.body_path)]
        if self.rate_per_s:
            clients = self.connections if self.protocol in GRPC_METHODS else self.concurrency
            common += ["--rps", f"{self.rate_per_s / clients:g}"]
        if method := GRPC_METHODS.get(self.protocol):
            streams = str(self.concurrency // self.connections)
            common += ["-c", str(self.connections), "-m", streams]
            common += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
            return [*common, f"{scheme}://127.0.0.1:{self.port}{method}"]
        common += ["--h1", "-c", str(self.concurrency)]
        for name, value in self.headers.items():
            common += ["-H", f"{name}: {value}"]
        path = REST_PATHS[self.protocol].format(model=self.model)
        return [*common, f"{scheme}://127.0.0.1:{self.port}{path}"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """What h2load counted.

    Attributes:
        seconds: Length of the window.
        requests: Complete answers with a 2xx status.
        unsuccessful: Failed, errored, timed out, or with another status than 2xx.
        answer_bytes: Mean body size; an error over gRPC has no body.
        cpu_s: h2load's own processor time.
        latencies_ms: Of the complete answers, sorted.
    """

    seconds: float
    requests: int
    unsuccessful: int
    answer_bytes: float
    cpu_s: float
    latencies_ms: tuple[float, ...]

    @property
    def rate_per_s(self) -> float:
        """Complete answers a second."""
        return self.requests / self.seconds


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """The value below which ``share`` of sorted values lie (nearest rank); None without values."""
    if not ordered:
        return None
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def run_load(plan: LoadPlan, seconds: float, log_path: Path) -> LoadResult:
    """Apply a load for ``seconds`` and count.

    Args:
        plan: What to send, where, and how many at a time.
        seconds: Length of the window; h2load abandons what is in flight at its end.
        log_path: For h2load's line per request; written anew.

    Raises:
        LoadFailed: See the class.
    """
    if shutil.which("h2load") is None:
        raise LoadFailed("h2load is not installed (Debian: nghttp2-client)")
    log_path.unlink(missing_ok=True)
    before = _children_cpu_s()
    try:
        done = subprocess.run(
            plan.argv(seconds, log_path),
            capture_output=True,
            text=True,
            timeout=seconds + _GRACE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise LoadFailed(f"h2load did not end within {seconds + _GRACE_S:g} s") from None
    cpu_s = _children_cpu_s() - before
    if done.returncode != 0:
        raise LoadFailed(f"h2load: exit code {done.returncode}: {(done.stderr or done.stdout)[-500:]}")
    result = parse_result(done.stdout, log_path.read_text() if log_path.exists() else "", seconds, cpu_s)
    if result.requests == 0 and result.unsuccessful == 0:
        # h2load ends with 0 and counts nothing when it cannot connect.
        raise LoadFailed(f"no request was answered on port {plan.port} within {seconds:g} s")
    return result


def run_loads(plans: Sequence[LoadPlan], seconds: float, scratch: Path) -> list[LoadResult]:
    """Apply several loads at the same time; their own processor time cannot be told apart and is all of theirs.

    Raises:
        LoadFailed: See the class.
    """
    with concurrent.futures.ThreadPoolExecutor(max_workers=len(plans)) as pool:
        loads = [
            pool.submit(run_load, plan, seconds, scratch / f"h2load-{index}.log")
            for index, plan in enumerate(plans)
        ]
        return [load.result() for load in loads]


def parse_result(output: str, log: str, seconds: float, cpu_s: float) -> LoadResult:
    """Read h2load's summary and its log.

    Raises:
        LoadFailed: The summary is not what h2load 1.52 prints.
    """
    counts, statuses, data = (
        _REQUESTS.search(output),
        _STATUS_CODES.search(output),
        _DATA_BYTES.search(output),
    )
    if not (counts and statuses and data):
        raise LoadFailed(f"h2load's summary has another form: {output[-500:]}")
    failed, errored, timed_out = (int(counts[index]) for index in (1, 2, 3))
    good = int(statuses[1])
    others = sum(int(statuses[index]) for index in (2, 3, 4))
    return LoadResult(
        seconds=seconds,
        requests=good,
        unsuccessful=max(failed + errored + timed_out, others),
        answer_bytes=int(data[1]) / good if good else 0.0,
        cpu_s=cpu_s,
        latencies_ms=_latencies_ms(log),
    )


def _latencies_ms(log: str) -> tuple[float, ...]:
    """Columns: start in us since the epoch, status, us until the end of the answer (h2load --log-file)."""
    rows = (line.split("\t") for line in log.splitlines())
    return tuple(sorted(int(row[2]) / 1000 for row in rows if len(row) >= 3 and row[1].startswith("2")))


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
