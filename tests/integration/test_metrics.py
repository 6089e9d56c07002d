# SPDX-License-Identifier: Apache-2.0
"""OVMS's metrics over two fronts of each protocol and two workers: each is provoked, and all add up."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from functools import partial
from typing import TYPE_CHECKING

import grpc
import pytest

from ovms_mp.front.metrics.ovms import OvmsMetrics
from ovms_mp.model.metric_names import ALL_METRICS
from ovms_mp.wire.counters import CounterReader
from ovms_mp.wire.messages import RoutingSnapshot
from ovms_mp.wire.records import NO_COUNTERS
from tests.support import rest_client
from tests.support.ledger import Ledger, assert_nothing_left
from tests.support.metrics_clients import (
    INFER,
    GrpcClient,
    Kind,
    MixedLoad,
    Page,
    RestClient,
    Tally,
    ask_over_grpc,
    ask_over_rest,
    v2,
)
from tests.support.server import Server
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.models import ModelZoo

TINY = {"name": "tiny", "version": "1"}
SLOW = {"name": "slow", "version": "1"}
BATCH = {"name": "batch", "version": "1"}
KILLS = ("worker", "grpc", "rest")
CALLS_A_KILL = 1300
RELOADED = 2


@pytest.fixture(scope="module")
def server(zoo: ModelZoo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two fronts of each protocol, two workers; all metrics by the configuration file."""
    directory = tmp_path_factory.mktemp("metrics")
    config = zoo.config_file(directory, ["tiny", "batch", "slow"], nireq=2)
    document = json.loads(config.read_text())
    document["monitoring"] = {"metrics": {"enable": True, "metrics_list": list(ALL_METRICS)}}
    config.write_text(json.dumps(document))
    before = Ledger.take()
    arguments = ["config", "--config_path", str(config), "--cpu_workers", "2"]
    with Server(arguments, directory / "server.log", grpc_workers=2, rest_workers=2) as made:
        yield made
        assert made.stop() == 0
    assert_nothing_left(before)


class SlowCallers:
    """Six clients, more than there are infer requests, each of which asks again as soon as it is answered.

    Each run is half a second of a core. What they make of the server lasts until they
    are told to stop, however long the test takes to look; who is refused asks no more.
    """

    def __init__(self, method: grpc.UnaryUnaryMultiCallable[bytes, bytes]) -> None:
        self._method = method
        self._enough = threading.Event()
        self.answered = 0
        self.failures: list[grpc.StatusCode] = []
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask) for _ in range(6)]

    def start(self) -> None:
        """Ask from now on."""
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        while not self._enough.is_set():
            try:
                self._method(v2("slow", 1), timeout=60.0, wait_for_ready=True)
            except grpc.RpcError as error:
                with self._lock:
                    self.failures.append(error.code())
                return
            with self._lock:
                self.answered += 1

    def stop(self) -> None:
        """Ask no more; what is under way ends first."""
        self._enough.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()


@pytest.fixture
def slow_callers(server: Server) -> Iterator[SlowCallers]:
    options = (("grpc.use_local_subchannel_pool", 1),)
    with grpc.insecure_channel(f"127.0.0.1:{server.port}", options=options) as channel:
        callers = SlowCallers(channel.unary_unary(INFER, request_serializer=None, response_deserializer=None))
        try:
            yield callers
        finally:
            callers.stop()


def test_every_family_of_ours_is_there_with_the_words_of_ovms(server: Server) -> None:
    page = Page(server.rest_port)
    families = OvmsMetrics(lambda: RoutingSnapshot(0, False, (), (), ()), CounterReader(NO_COUNTERS))()

    for family in families:
        found = page.families[family.name]
        assert (found.type, found.documentation) == (family.kind.value, family.help)


def test_every_series_of_a_model_exists_from_its_load(server: Server) -> None:
    page = Page(server.rest_port)

    for sample in ("ovms_requests_success", "ovms_requests_fail"):
        assert page.calls(sample, "batch") == {
            Kind(api, interface, method): 0.0
            for interface in ("gRPC", "REST")
            for api, methods in (
                ("TensorFlowServing", ("Predict", "GetModelMetadata", "GetModelStatus")),
                ("KServe", ("ModelInfer", "ModelMetadata", "ModelReady")),
            )
            for method in methods
        }
    for sample in ("ovms_inference_time_us", "ovms_wait_for_infer_req_time_us"):
        assert page.value(f"{sample}_count", **BATCH) == 0.0
        assert page.value(f"{sample}_bucket", **BATCH, le="18") == 0.0
    for interface in ("gRPC", "REST"):
        assert page.value("ovms_request_time_us_sum", **BATCH, interface=interface) == 0.0
    assert page.value("ovms_current_requests", **BATCH) == page.value("ovms_infer_req_active", **BATCH) == 0.0


def test_streams_and_infer_requests_are_those_of_all_workers(server: Server) -> None:
    status = rest_client.request(server.rest_port, "GET", "/v1/status").json()
    (version,) = status["models"]["tiny"]["versions"]
    (streams,) = re.findall(r"streams=(\d+)", json.dumps(version))

    page = Page(server.rest_port)
    # Without streams each worker has one run at a time.
    assert page.value("ovms_streams", **TINY) == 2 * max(1, int(streams))
    assert page.value("ovms_infer_req_queue_size", **TINY) == 2 * 2


def test_paths_and_methods(server: Server) -> None:
    port = server.rest_port
    assert rest_client.request(port, "GET", "/metrics?name=a").status == 200
    head = rest_client.request(port, "HEAD", "/metrics")
    assert (head.status, head.body) == (200, b"")
    assert rest_client.request(port, "POST", "/metrics").status == 405
    packed = rest_client.request(port, "GET", "/metrics", headers={"Accept-Encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    names_of_other_formats = {"Accept": "application/openmetrics-text;version=1.0.0"}
    plain = rest_client.request(port, "GET", "/metrics", headers=names_of_other_formats)
    assert plain.headers["content-type"] == "text/plain; version=0.0.4"


@pytest.mark.parametrize("interface", ["gRPC", "REST"])
@pytest.mark.parametrize("api", ["TensorFlowServing", "KServe"])
def test_every_call_has_its_counter(server: Server, api: str, interface: str) -> None:
    tally = Tally()
    before = Page(server.rest_port)
    client: GrpcClient | RestClient
    if interface == "gRPC":
        client = GrpcClient(server.port, tally)
        for turn in range(10):
            ask_over_grpc(client, api, turn)
    else:
        client = RestClient(server.rest_port, tally)
        for turn in range(10):
            ask_over_rest(client, api, turn)
    client.close()

    page = Page(server.rest_port)
    assert (sum(tally.answered.values()), sum(tally.refused.values())) == (9, 1)
    assert difference(page, before, "ovms_requests_success") == dict(tally.answered)
    assert difference(page, before, "ovms_requests_fail") == dict(tally.refused)
    labels = {"interface": interface, **TINY}
    assert page.value("ovms_request_time_us_count", **labels) == 7 + before.value(
        "ovms_request_time_us_count", **labels
    )
    assert page.value("ovms_request_time_us_sum", **labels) > before.value(
        "ovms_request_time_us_sum", **labels
    )


def test_what_is_under_way_and_how_long_it_waited_and_ran(server: Server, slow_callers: SlowCallers) -> None:
    def current() -> bool:
        page = Page(server.rest_port)
        active = page.value("ovms_infer_req_active", **SLOW)
        return page.value("ovms_current_requests", **SLOW) == 6 and active == 4

    before = Page(server.rest_port)
    slow_callers.start()
    eventually(current, 60.0, "six requests, four of which have an infer request")
    slow_callers.stop()
    assert not slow_callers.failures

    page = Page(server.rest_port)

    def grown(sample: str, **labels: str) -> float:
        return page.value(sample, **SLOW, **labels) - before.value(sample, **SLOW, **labels)

    assert page.value("ovms_current_requests", **SLOW) == page.value("ovms_infer_req_active", **SLOW) == 0
    for name in ("ovms_inference_time_us", "ovms_wait_for_infer_req_time_us"):
        assert grown(f"{name}_count") == grown(f"{name}_bucket", le="+Inf") == slow_callers.answered
    assert grown("ovms_inference_time_us_bucket", le="10") == 0
    assert grown("ovms_inference_time_us_sum") > 6 * 20_000
    assert grown("ovms_wait_for_infer_req_time_us_sum") > 2 * 20_000


@pytest.mark.replaces_processes
def test_a_front_that_dies_has_nothing_under_way(server: Server, slow_callers: SlowCallers) -> None:
    slow_callers.start()
    eventually(lambda: Page(server.rest_port).value("ovms_current_requests", **SLOW) == 6, 60.0, "they begin")
    victims = server.pids("grpc")
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    slow_callers.stop()
    assert slow_callers.failures
    assert set(slow_callers.failures) == {grpc.StatusCode.UNAVAILABLE}

    eventually(
        lambda: Page(server.rest_port).value("ovms_current_requests", **SLOW) == 0, 30.0, "none is left"
    )
    eventually(
        lambda: Page(server.rest_port).value("ovms_infer_req_active", **SLOW) == 0, 30.0, "nor runs any"
    )
    eventually(lambda: len(set(server.pids("grpc")) - set(victims)) == 2, 60.0, "successors")


@pytest.mark.replaces_processes
def test_totals_are_what_clients_have_counted(server: Server, pytestconfig: pytest.Config) -> None:
    calls = pytestconfig.getoption("--metric-requests")
    before = Page(server.rest_port)
    kills = 0
    with MixedLoad(server.port, server.rest_port, calls) as load:
        for victim in [KILLS[index % len(KILLS)] for index in range(max(1, calls // CALLS_A_KILL))]:
            due = (kills + 1) * CALLS_A_KILL - CALLS_A_KILL // 2
            eventually(partial(has_asked, load, due), 600.0, "so many calls")
            victims = server.pids(victim)
            os.kill(victims[0], signal.SIGKILL)
            kills += 1
            eventually(partial(is_replaced, server, victim, victims[0]), 60.0, "a successor")
            if kills == RELOADED:
                for word in ("unload", "load"):
                    path = f"/v2/repository/models/batch/{word}"
                    assert rest_client.request(server.rest_port, "POST", path).status == 200
    tally = load.total()
    assert tally.asked == calls

    page = Page(server.rest_port)
    succeeded = difference(page, before, "ovms_requests_success")
    failed = difference(page, before, "ovms_requests_fail")
    lost = sum(tally.lost.values())
    print(f"{calls} calls, {kills} kills, {lost} lost: {dict(tally.lost)}")  # noqa: T201  # for the record
    assert lost <= 2 * kills  # A client has one call under way.
    for kind in {*tally.answered, *tally.refused, *tally.lost}:
        unknown = tally.lost[kind]
        good, bad = succeeded.get(kind, 0), failed.get(kind, 0)
        assert tally.answered[kind] <= good <= tally.answered[kind] + unknown, kind
        assert tally.refused[kind] <= bad <= tally.refused[kind] + unknown, kind
        assert good + bad <= tally.answered[kind] + tally.refused[kind] + unknown, kind
    assert {*succeeded, *failed} <= {*tally.answered, *tally.refused, *tally.lost}
    check_times(page, before, succeeded, lost)
    eventually(lambda: Page(server.rest_port).value("ovms_current_requests", **TINY) == 0, 30.0, "all ended")
    assert page.value("ovms_infer_req_active", **TINY) == 0


def has_asked(load: MixedLoad, calls: int) -> bool:
    """Whether the clients have come so far."""
    return load.asked >= calls


def is_replaced(server: Server, kind: str, victim: int) -> bool:
    """Whether there are two processes of a kind without this one."""
    pids = server.pids(kind)
    return len(pids) == 2 and victim not in pids


def check_times(page: Page, before: Page, succeeded: dict[Kind, float], lost: int) -> None:
    """Histograms have an entry for each answer to inference, and no other but of those that were lost."""
    total = 0.0
    for interface in ("gRPC", "REST"):
        labels = {"interface": interface, **TINY}
        name = "ovms_request_time_us_count"
        observed = page.value(name, **labels) - before.value(name, **labels)
        answers = sum(
            count
            for kind, count in succeeded.items()
            if kind.interface == interface and kind.method in ("Predict", "ModelInfer")
        )
        assert answers <= observed <= answers + lost
        total += answers
    for name in ("ovms_inference_time_us_count", "ovms_wait_for_infer_req_time_us_count"):
        assert total <= page.value(name, **TINY) - before.value(name, **TINY) <= total + lost


def difference(page: Page, before: Page, sample: str) -> dict[Kind, float]:
    """What a counter of calls to tiny has counted in between, without those that have not."""
    earlier = before.calls(sample, "tiny")
    return {
        kind: value - earlier[kind]
        for kind, value in page.calls(sample, "tiny").items()
        if value != earlier[kind]
    }
