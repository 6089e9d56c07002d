# SPDX-License-Identifier: Apache-2.0
"""Overload: ten times what the model can do, on both protocols; the rest is refused at once.

The model's run takes as long as the request says, so its service time is known. What is asserted of times are ratios
within one run.
"""

from __future__ import annotations

import contextlib
import json
import socket
import statistics
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

from ovms_mp.front.tfs._proto import tensorflow_framework_pb2 as framework
from ovms_mp.front.tfs._proto import tensorflow_serving_pb2 as serving
from tests.support import rest_client
from tests.support.ledger import Ledger, assert_nothing_left
from tests.support.overload_client import Load, Seen, run
from tests.support.server import Server
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.models import ModelZoo

pytestmark = [pytest.mark.quiet, pytest.mark.timeout(600)]

SERVICE_S = 0.04
MAX_QUEUE_TASKS = 16
MAX_GROWN_BYTES = 64 << 20
MAX_REQUESTS = 64
WEIGHT = 3
LIGHT_RATE = 3.0


class Model:
    """The served model and how many of its steps take ``SERVICE_S``."""

    def __init__(self, server: Server, name: str = "steps") -> None:
        self.server = server
        self.name = name
        self.count = 1000
        for _ in range(4):
            self.count = max(100, int(self.count * SERVICE_S / self._run_s()))
        self.service_s = self._run_s()  # And the worker knows it by now.

    def _run_s(self) -> float:
        times = []
        for _ in range(5):
            begun_s = time.monotonic()
            reply = rest_client.predict(self.server.rest_port, self.name, self._document())
            assert reply.status == 200, reply.text()
            times.append(time.monotonic() - begun_s)
        return statistics.median(times)

    def _document(self) -> dict[str, object]:
        return {"inputs": {"count": [self.count]}}

    def load(self, protocol: str, rate: float, seconds: float, **more: object) -> Load:
        """A client of it."""
        if protocol == "rest":
            port, body = self.server.rest_port, json.dumps(self._document())
        else:
            request = serving.PredictRequest()
            request.model_spec.name = self.name
            tensor = request.inputs["count"]
            tensor.dtype = framework.DT_INT32
            tensor.tensor_shape.dim.add(size=1)
            tensor.tensor_content = np.array([self.count], np.int32).tobytes()
            port, body = self.server.port, request.SerializeToString().hex()
        return Load(
            protocol=protocol,
            port=port,
            body=body,
            rate=rate,
            seconds=seconds,
            model=self.name,
            **more,  # type: ignore[arg-type]  # keywords of Load
        )

    def executions(self) -> int:
        """Runs so far, from the server's own counters."""
        return int(self._statistics()["execution_count"])

    def infer_s(self) -> float:
        """Time of the runs so far."""
        return float(self._statistics()["inference_stats"]["compute_infer"]["ns"]) / 1e9

    def _statistics(self) -> Any:  # Any: JSON.
        reply = rest_client.request(self.server.rest_port, "GET", f"/v2/models/{self.name}/stats")
        return reply.json()["model_stats"][0]


@pytest.fixture(scope="module")
def server(zoo: ModelZoo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One front each, one infer request, room for a few waiting requests; ``weighty`` is ``steps`` with a weight."""
    directory = tmp_path_factory.mktemp("overload")
    config = directory / "config.json"
    entry = {"base_path": str(zoo.base_path("steps")), "nireq": 1}
    entries = [entry | {"name": "steps"}, entry | {"name": "weighty", "weight": WEIGHT}]
    config.write_text(json.dumps({"model_config_list": [{"config": entry} for entry in entries]}))
    limits = ["--max_queue_tasks", str(MAX_QUEUE_TASKS), "--max_requests_per_client", str(MAX_REQUESTS)]
    before = Ledger.take()
    with Server(["config", "--config_path", str(config), *limits], directory / "server.log") as server:
        yield server
    assert_nothing_left(before)


@pytest.fixture(scope="module")
def model(server: Server) -> Model:
    return Model(server)


@pytest.fixture(scope="module")
def overload_seconds(pytestconfig: pytest.Config) -> float:
    return float(pytestconfig.getoption("--overload-seconds"))


@pytest.fixture(scope="module")
def is_full(overload_seconds: float) -> bool:
    """Whether the bounds are those of a machine that does nothing else."""
    return overload_seconds >= 60


def p99(times: list[float]) -> float:
    return sorted(times)[int(0.99 * (len(times) - 1))]


def memory_of(server: Server) -> int:
    return sum(psutil.Process(pid).memory_info().rss for pid in server.all_pids())


def report(figures: str) -> None:
    print(figures)  # noqa: T201  # the figures


def show(title: str, seen: Seen) -> None:
    ends = ((name, getattr(seen, name)) for name in ("answered", "refused", "expired"))
    texts = (f"{name} {len(times)} p99 {1000 * p99(times):.0f} ms" for name, times in ends if times)
    report(f"\n{title}: {', '.join(texts)} others {dict(seen.others)}")


def test_ten_times_the_rate_is_answered_as_far_as_it_can_be_and_refused_at_once(
    server: Server, model: Model, overload_seconds: float, is_full: bool
) -> None:
    most = 1 / model.service_s
    (alone,) = run(model.load("grpc", 1.5 * most, overload_seconds / 2))
    most_answered = len(alone.answered) / (overload_seconds / 2 + MAX_QUEUE_TASKS * model.service_s)
    before = memory_of(server)

    rate = 5 * most
    runs, infer_s = model.executions(), model.infer_s()
    begun_s = time.monotonic()
    seen = run(*(model.load(protocol, rate, overload_seconds) for protocol in ("grpc", "rest")))
    took_s = time.monotonic() - begun_s
    grown = memory_of(server) - before
    # What it was meanwhile, whatever else the machine did.
    service_s = max(model.service_s, (model.infer_s() - infer_s) / (model.executions() - runs))
    bound_s = (MAX_QUEUE_TASKS + 2) * service_s
    report(f"service {1000 * service_s:.0f} ms under overload, bound {1000 * bound_s:.0f} ms")

    for protocol, each in zip(("grpc", "rest"), seen, strict=True):
        show(protocol, each)
        assert not each.others
        assert not each.expired
        assert each.refused
        assert len(each.pushed_back) == len(each.refused)
        assert p99(each.answered) < bound_s * (1.5 if is_full else 4)
        assert p99(each.refused) < (0.05 if is_full else bound_s)
    pushed_back = seen[0].pushed_back
    assert len(set(pushed_back)) > 1
    assert all(0 < after_s < 4 * bound_s for after_s in pushed_back)
    answered = sum(len(each.answered) for each in seen) / (
        overload_seconds + MAX_QUEUE_TASKS * model.service_s
    )
    report(
        f"service {1000 * model.service_s:.0f} ms, at most {most_answered:.1f}/s, under overload {answered:.1f}/s, "
        f"{took_s:.1f} s, grown by {grown / (1 << 20):.1f} MiB"
    )
    assert grown < MAX_GROWN_BYTES
    assert answered > (0.9 if is_full else 0.6) * most_answered


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_a_light_client_keeps_its_share_beside_a_heavy_one(
    model: Model, overload_seconds: float, is_full: bool, protocol: str
) -> None:
    light = model.load(protocol, LIGHT_RATE, overload_seconds, source="127.0.0.2")
    (quiet,) = run(model.load(protocol, LIGHT_RATE, overload_seconds / 2))
    heavy, beside = run(model.load(protocol, 10 / model.service_s, overload_seconds), light)

    show(f"heavy {protocol}", heavy)
    show(f"light {protocol}", beside)
    report(f"quiet p99 {1000 * p99(quiet.answered):.0f} ms")
    assert not beside.refused
    assert not beside.others
    # It waits for a run or two, the heavy one for a queue of them.
    assert statistics.median(beside.answered) < 0.5 * statistics.median(heavy.answered)
    if is_full:
        assert p99(beside.answered) < 3 * p99(quiet.answered)


@pytest.mark.parametrize(("protocol", "says_deadline"), [("grpc", True), ("rest", False), ("rest", True)])
def test_no_inference_starts_for_whom_nobody_waits(
    model: Model, is_full: bool, protocol: str, says_deadline: bool
) -> None:
    """Deadlines of 50 ms at four times what the model can do. Over REST a client may say its own, or hang up."""
    before = model.executions()
    requests = 1000 if is_full else 200
    rate = 4 / model.service_s
    deadline_s = 1.25 * model.service_s
    (seen,) = run(
        model.load(protocol, rate, requests / rate, deadline_s=deadline_s, says_deadline=says_deadline)
    )
    at_the_end = model.executions()

    show(protocol, seen)
    executed = at_the_end - before
    report(f"executed {executed}")
    assert not seen.others
    assert len(seen.answered) + len(seen.refused) + len(seen.expired) == int(requests / rate * rate)
    # One may run on that nobody waits for; none begins.
    eventually(lambda: model.executions() <= at_the_end + 1, 5.0, "what ran has ended")
    assert executed <= len(seen.answered) + len(seen.expired)
    assert seen.answered or not says_deadline  # Nobody knows how long a client waits that hangs up.


def test_models_have_the_device_as_their_weights_say(model: Model, overload_seconds: float) -> None:
    rate, seconds = 4 / model.service_s, overload_seconds
    weighty = Model(model.server, "weighty")
    weighty.count = model.count
    before = [each.infer_s() for each in (model, weighty)]
    light, heavy = run(*(each.load("grpc", rate, seconds) for each in (model, weighty)))
    had_s = [each.infer_s() - earlier_s for each, earlier_s in zip((model, weighty), before, strict=True)]

    show("weight 1", light)
    show(f"weight {WEIGHT}", heavy)
    assert not light.others + heavy.others
    # What still waits at the end is answered, too: a queue of each.
    while_both_s = [
        each_s * (1 - MAX_QUEUE_TASKS / len(seen.answered))
        for each_s, seen in zip(had_s, (light, heavy), strict=True)
    ]
    report(f"device time: {while_both_s}")
    assert WEIGHT * 0.5 < while_both_s[1] / while_both_s[0] < WEIGHT * 2


def test_one_client_has_so_many_requests_under_way_and_no_more(server: Server) -> None:
    head = b"POST /v1/models/steps:predict HTTP/1.1\r\nHost: t\r\nContent-Length: 30\r\n\r\n"
    with contextlib.ExitStack() as held:

        def is_refused() -> bool:
            connection = held.enter_context(socket.create_connection(("127.0.0.1", server.rest_port)))
            connection.sendall(head)
            return ask().status == 429

        def ask() -> rest_client.HttpReply:
            return rest_client.predict(server.rest_port, "steps", {"inputs": {"count": [1]}})

        eventually(is_refused, 20.0, "the client has too many")
        refusal = ask()
        assert f"this client (127.0.0.1) has {MAX_REQUESTS} requests under way" in refusal.text()
        assert "--max_requests_per_client" in refusal.text()
        assert int(refusal.headers["retry-after"]) >= 1
    eventually(lambda: ask().status == 200, 20.0, "room after the others have gone")
