# SPDX-License-Identifier: Apache-2.0
"""Each metric of our own is provoked at a real server, which a real Prometheus scrapes; load reports for who asks."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from ovms_mp.model import own_metrics as names
from tests.integration.test_statistics import INFER, Caller, tfs, v2
from tests.support import rest_client
from tests.support.ledger import Ledger, assert_nothing_left
from tests.support.load import PREDICT
from tests.support.server import Server, free_ports
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.models import ModelZoo

ASKED, ANSWERED = "endpoint-load-metrics-format", "endpoint-load-metrics"
PATIENCE_S = 30.0
CPU_HIERARCHIES = (Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup"))


@pytest.fixture(scope="module")
def server(zoo: ModelZoo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One front of each protocol, with metrics; the first gRPC front has died, and no count went back."""
    place = tmp_path_factory.mktemp("metrics")
    config = zoo.config_file(place, ["tiny", "slow"], nireq=1)
    (place / "broken" / "1").mkdir(parents=True)
    (place / "broken" / "1" / "model.onnx").write_bytes(b"\x08\x07 no model")
    document = json.loads(config.read_text())
    document["model_config_list"].append({"config": {"name": "broken", "base_path": str(place / "broken")}})
    config.write_text(json.dumps(document))
    before = Ledger.take()
    arguments = ["config", "--config_path", str(config), "--metrics_enable", "--max_queue_tasks", "8"]
    with Server(arguments, place / "server.log") as made:
        ask(made)
        before_death = page_of(made)
        (victim,) = made.pids("grpc")
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: made.pids("grpc") not in ([], [victim]), PATIENCE_S, "it is replaced")
        ask(made)
        assert value_of(page_of(made), names.STARTED) == value_of(before_death, names.STARTED) + 6
        yield made
        assert made.stop() == 0
    assert_nothing_left(before)


def page_of(server: Server) -> str:
    reply = rest_client.request(server.rest_port, "GET", "/metrics")
    assert reply.status == 200, reply.text()
    return reply.text()


def value_of(page: str, name: str, *labels: str) -> float:
    """The sum of the samples that have these labels."""
    found = 0.0
    for line in page.splitlines():
        head, _, value = line.rpartition(" ")
        if re.match(rf"{name}(?:{{|$)", head) and all(label in head for label in labels):
            found += float(value)
    return found


def provoked(server: Server, name: str, *labels: str, at_least: float = 1) -> None:
    eventually(
        lambda: value_of(page_of(server), name, *labels) >= at_least, PATIENCE_S, f"{name} {labels} is seen"
    )


def ask(server: Server, count: int = 5) -> None:
    """Answered requests of both protocols."""
    with Caller(server) as caller:
        for _ in range(count):
            assert caller.ask(PREDICT, tfs("tiny", 1, 10)) is grpc.StatusCode.OK
    body = {"instances": [{"x": [0.0] * 10}]}
    assert rest_client.predict(server.rest_port, "tiny", body).status == 200


def test_answered_requests(server: Server) -> None:
    begun = page_of(server)
    ask(server)
    tiny = 'name="tiny"'

    for stage in ("receive", "decode", "queue", "infer", "handover", "encode"):
        before = value_of(begun, f"{names.STAGE_SECONDS}_count", tiny, f'stage="{stage}"')
        provoked(server, f"{names.STAGE_SECONDS}_count", tiny, f'stage="{stage}"', at_least=before + 6)
    before = value_of(begun, f"{names.STAGE_SECONDS}_count", tiny, 'stage="send"')
    provoked(server, f"{names.STAGE_SECONDS}_count", tiny, 'stage="send"', at_least=before + 6)
    provoked(server, f"{names.STAGE_SECONDS}_sum", 'stage="infer"', at_least=1e-9)
    page = page_of(server)
    for name in (names.STARTED, names.BATCH_ITEMS, f"{names.COMPANY}_count"):
        assert value_of(page, name, tiny) - value_of(begun, name, tiny) == 6, name
    assert value_of(page, names.BATCHES, tiny, 'batch="1"') >= 6
    assert value_of(page, names.REQUEST_BYTES, tiny) > value_of(begun, names.REQUEST_BYTES, tiny) + 6 * 40
    assert value_of(page, names.RESPONSE_BYTES, tiny) > value_of(begun, names.RESPONSE_BYTES, tiny)
    assert value_of(page, names.VERSION_STATE, tiny, 'state="available"') == 1
    assert value_of(page, names.BUILD_INFO) == 1


def test_what_does_not_begin_is_told_from_what_does(server: Server) -> None:
    """Requests expire while their worker stands still; of others at once some run, are cancelled, or come too late."""
    before, slow = page_of(server), 'name="slow"'
    (worker,) = server.pids("worker")
    with Caller(server) as caller:
        message = v2("slow", 1)
        os.kill(worker, signal.SIGSTOP)
        try:
            for call in [caller.begin(INFER, message, timeout_s=0.3) for _ in range(2)]:
                assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        finally:
            os.kill(worker, signal.SIGCONT)
        running, cancelled = ([caller.begin(INFER, message) for _ in range(2)] for _ in range(2))
        hasty = [caller.begin(INFER, message, timeout_s=0.3) for _ in range(8)]
        for call in hasty:
            call.code()
        for call in cancelled:
            call.cancel()  # type: ignore[no-untyped-call]  # as grpc-stubs have it
        for call in running:
            assert call.code() is grpc.StatusCode.OK

    def more(name: str, *labels: str) -> float:
        return value_of(page_of(server), name, slow, *labels) - value_of(before, name, slow, *labels)

    eventually(lambda: more(names.EXPIRED) >= 1, PATIENCE_S, "some expire")
    eventually(lambda: more(names.CANCELLED) >= 1, PATIENCE_S, "some are cancelled")
    eventually(lambda: more(names.FAILURES, 'reason="queue_full"') >= 1, PATIENCE_S, "some are refused")
    eventually(
        lambda: more(names.FAILURES, 'reason="deadline_exceeded"') >= 1, PATIENCE_S, "clients are told"
    )
    # Those that run, and at most those whose cancellation was late; none that had expired.
    assert 2 <= more(names.STARTED) <= 4


def test_failures_have_reasons(server: Server) -> None:
    with Caller(server) as caller:
        caller.ask(PREDICT, tfs("tiny", 1, 11))
        caller.ask(PREDICT, tfs("nobody", 1, 10))
    for labels in (
        ('name="tiny"', 'reason="shape_mismatch"'),
        ('name=""', 'reason="model_not_found"'),
    ):
        provoked(server, names.FAILURES, *labels)


def test_versions_that_cannot_be_loaded_have_reasons(server: Server) -> None:
    provoked(server, names.LOAD_FAILURES, 'reason="')
    provoked(server, names.VERSION_STATE, 'name="broken"', 'state="failed"')


def test_limits(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10.0) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        stranger.recv(1 << 16)
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=10.0) as stranger:
        stranger.sendall(b"\0\0\r\n\r\n")
        stranger.recv(1 << 16)

    provoked(server, names.LIMITS, 'interface="gRPC"', 'limit="not_http2"')
    provoked(server, names.LIMITS, 'interface="REST"', 'limit="http_400"')


def test_gauges_of_processes(server: Server) -> None:
    ask(server)
    for name in (names.ARENA_BYTES, names.ARENA_MOST):
        provoked(server, name, at_least=1)
    provoked(server, names.LONGEST_LOOP_LAG, 'kind="grpc"', at_least=1e-9)
    for kind in ("manager", "worker", "grpc", "rest", "arbiter"):
        label = f'kind="{kind}"'
        provoked(server, names.PROCESSES, label)
        for name in (names.PROCESS_MEMORY, names.PROCESS_DESCRIPTORS, names.PROCESS_START):
            provoked(server, name, label)
        provoked(server, names.PROCESS_CPU, label, at_least=0.001)
    page = page_of(server)
    for name in (names.ARENA_USED, names.ARENA_LEASES, names.LOOP_LAG, names.FETCHES, names.FETCHED_BYTES):
        assert f"# TYPE {name} " in page
    assert value_of(page, f"{names.LOAD_SECONDS}_count", 'phase="load"') >= 2
    assert value_of(page, f"{names.LOAD_SECONDS}_count", 'phase="first_run"') >= 2


@pytest.fixture
def quota(server: Server) -> Iterator[Path]:
    """A cgroup with a fiftieth of a core, which the server's manager is in for the length of a test."""
    # Version 1 has the hierarchy of the controller, version 2 one for all.
    hierarchy = next((place for place in CPU_HIERARCHIES if (place / "cgroup.procs").exists()), None)
    if hierarchy is None or not os.access(hierarchy, os.W_OK):
        pytest.skip("needs root, and a cgroup hierarchy that may be written")
    group = hierarchy / f"ovms_mp-test-{os.getpid()}"
    group.mkdir()
    try:
        v2_limit = group / "cpu.max"
        if v2_limit.exists():
            v2_limit.write_text("2000 100000")
        elif (group / "cpu.cfs_quota_us").exists():
            (group / "cpu.cfs_quota_us").write_text("2000")
        else:
            pytest.skip(f"{hierarchy} has no CPU controller")
        (group / "cgroup.procs").write_text(str(server.process.pid))
        yield group
    finally:
        for pid in (group / "cgroup.procs").read_text().split():
            (hierarchy / "cgroup.procs").write_text(pid)
        group.rmdir()


@pytest.mark.usefixtures("quota")
def test_a_quota_that_holds_the_server_up_is_seen(server: Server) -> None:
    for name in (names.CPU_PERIODS, names.CPU_THROTTLED_PERIODS):
        provoked(server, name)
    provoked(server, names.CPU_THROTTLED, at_least=1e-6)


def test_a_death_is_counted_with_its_cause(server: Server) -> None:
    assert value_of(page_of(server), names.CHILD_ENDS, 'kind="grpc"', 'cause="signal"') == 1
    assert value_of(page_of(server), names.CHILD_ENDS) == 1


def test_the_load_is_told_to_those_who_ask(server: Server) -> None:
    for form, beginning in (
        ("text", "TEXT cpu_utilization="),
        ("json", 'JSON {"cpu_utilization"'),
        ("bin", "BIN "),
    ):
        reply = rest_client.request(server.rest_port, "GET", "/v1/models/tiny", headers={ASKED: form})
        assert reply.headers[ANSWERED].startswith(beginning)
    assert ANSWERED not in rest_client.request(server.rest_port, "GET", "/v1/models/tiny").headers
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        method = channel.unary_unary(PREDICT, request_serializer=None, response_deserializer=None)
        for message in (tfs("tiny", 1, 10), tfs("nobody", 1, 10)):
            call = method.future(message, metadata=((ASKED, "json"),), timeout=30.0)
            call.code()
            told = dict(call.trailing_metadata() or ())[ANSWERED]
            report = json.loads(str(told).removeprefix("JSON "))
            assert report["named_metrics"]["arena_utilization"] >= 0


def test_promtool_accepts_the_page(server: Server) -> None:
    """OVMS's own names have no units in the way that promtool wants."""
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("promtool is not installed")
    done = subprocess.run(
        [promtool, "check", "metrics"], input=page_of(server), capture_output=True, text=True, timeout=30
    )
    complaints = [
        line for line in done.stderr.splitlines() if not line.startswith("ovms_") or "ovms_mp" in line
    ]
    assert not complaints


def test_prometheus_scrapes_it_with_the_rules(server: Server, tmp_path: Path) -> None:
    if (prometheus := shutil.which("prometheus")) is None:
        pytest.skip("prometheus is not installed")
    (port,) = free_ports(1)
    rules = os.path.join(os.path.dirname(__file__), "../../deploy/grafana/alerts.yml")
    settings = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [os.path.realpath(rules)],
        "scrape_configs": [
            {
                "job_name": "ovms_mp",
                "static_configs": [{"targets": [f"127.0.0.1:{server.rest_port}"]}],
            }
        ],
    }
    (tmp_path / "prometheus.yml").write_text(json.dumps(settings))  # JSON is YAML, too.
    flags = [f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
    flags.append(f"--web.listen-address=127.0.0.1:{port}")
    ask(server)
    with (tmp_path / "log").open("w") as log, subprocess.Popen([prometheus, *flags], stderr=log) as process:
        try:

            def asked(path: str) -> object:
                try:
                    reply = rest_client.request(port, "GET", path)
                except OSError:
                    return None
                return reply.json()["data"] if reply.status == 200 else None

            def found(query: str) -> bool:
                data = asked(f"/api/v1/query?query={urllib.parse.quote(query)}")
                return isinstance(data, dict) and bool(data["result"])

            for query in (
                f'{names.STARTED}{{name="tiny"}} >= 6',
                f'{names.STAGE_SECONDS}_bucket{{stage="infer", name="tiny", le="+Inf"}} > 0',
                "up == 1",
            ):
                eventually(lambda query=query: found(query), PATIENCE_S, query)  # type: ignore[misc]  # bound at once
            groups = asked("/api/v1/rules")
            assert isinstance(groups, dict)
            assert {rule["health"] for group in groups["groups"] for rule in group["rules"]} <= {
                "ok",
                "unknown",
            }
        finally:
            process.terminate()
