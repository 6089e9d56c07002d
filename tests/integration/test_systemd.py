# SPDX-License-Identifier: Apache-2.0
"""The server as a service of a real systemd: units of ``ovms_mp install-service``, readiness, reloads, restarts."""

from __future__ import annotations

import functools
import json
import re
import shutil
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest

from ovms_mp.commands.service_units import SERVICE, SOCKET
from ovms_mp.front.tfs._proto import tensorflow_framework_pb2 as framework
from ovms_mp.front.tfs._proto import tensorflow_serving_pb2 as serving
from tests.support import rest_client, systemd
from tests.support.certificates import make_certificate
from tests.support.load import PREDICT
from tests.support.server import free_ports
from tests.support.systemd import LIBRARIES, PREFIX, NotBootedError, Systemd
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Self

    from tests.support.models import ModelZoo

REASON = systemd.missing()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

ENVIRONMENT, CONFIGURATION, DROP_IN = (
    "/etc/ovms_mp/environment",
    "/etc/ovms_mp/config.json",
    f"/etc/systemd/system/{SERVICE}.d/test.conf",
)
MODELS = "/srv/models"
SECURE = Path(__file__).parents[2] / "deploy" / "systemd" / "secure.conf"
START_S = 90.0
WATCHDOG_S = 3
RESTARTS = 4
ONES = [[1.0] * 10]


@dataclass(frozen=True)
class Service:
    """The service that the tests share, stopped."""

    host: Systemd
    port: int
    rest_port: int
    models: Path
    """What the service sees as ``/srv/models``."""

    def start(self) -> None:
        """Start it; returns when systemd takes it for ready."""
        self.host.control("start", SERVICE, within_s=START_S)

    def properties(self, *names: str) -> dict[str, str]:
        """Properties of the service."""
        return self.host.properties(SERVICE, *names)

    def main_pid(self) -> int:
        """Of the manager, as systemd counts."""
        return int(self.properties("MainPID")["MainPID"])

    def processes(self) -> list[str]:
        """All processes of the program."""
        found = self.host.run("pgrep", "-f", f"{PREFIX}/bin/").stdout.split()
        return [pid for pid in found if pid]

    def predict(self) -> int:
        """The HTTP status of a request on a connection of its own."""
        return rest_client.predict(self.rest_port, "tiny", {"inputs": ONES}).status


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, zoo: ModelZoo) -> Iterator[Systemd]:
    base = tmp_path_factory.mktemp("systemd")
    models = tmp_path_factory.mktemp("models")
    models.chmod(0o755)
    shutil.copytree(zoo.base_path("tiny"), models / "tiny")
    booted = Systemd(base, binds={MODELS: str(models)})
    try:
        booted.__enter__()
    except NotBootedError as reason:
        pytest.skip(str(reason))
    try:
        yield booted
    finally:
        booted.close()


@pytest.fixture(scope="module")
def installed(host: Systemd) -> Service:
    """Installed as its page says, with a configuration and ports of ours."""
    port, rest_port = free_ports(2)
    host.run(
        f"{PREFIX}/bin/ovms_mp",
        "install-service",
        "--port",
        str(port),
        "--rest_port",
        str(rest_port),
        check=True,
    )
    model = {"name": "tiny", "base_path": f"{MODELS}/tiny"}
    host.write(CONFIGURATION, json.dumps({"model_config_list": [{"config": model}]}))
    host.write(
        DROP_IN,
        f"[Unit]\nStartLimitIntervalSec=0\n[Service]\nWatchdogSec={WATCHDOG_S}\n"
        f"Environment=LD_LIBRARY_PATH={LIBRARIES}\n",
    )
    host.control("daemon-reload")
    return Service(host, port, rest_port, Path(host.binds[MODELS]))


@pytest.fixture
def service(installed: Service) -> Iterator[Service]:
    yield installed
    installed.host.control("stop", SERVICE, SOCKET, check=False)
    installed.host.control("reset-failed", check=False)
    assert installed.processes() == [], installed.host.journal(SERVICE)


def test_the_units_are_valid_and_expose_little(service: Service) -> None:
    verified = service.host.run("systemd-analyze", "verify", SERVICE, SOCKET)
    assert verified.returncode == 0, verified.stderr
    assert SERVICE not in verified.stderr
    shown = service.host.run("systemd-analyze", "security", "--no-pager", SERVICE).stdout
    found = re.search(r"Overall exposure level for \S+: (\d+\.\d)", shown)
    assert found is not None, shown
    assert float(found[1]) <= 3.0, shown


def test_started_means_that_requests_are_answered(service: Service) -> None:
    service.start()
    assert service.predict() == 200
    shown = service.properties("ActiveState", "StatusText", "NRestarts", "UID")
    assert shown["ActiveState"] == "active"
    assert "tiny/1" in shown["StatusText"]
    assert service.host.run("stat", "-c", "%u", f"/proc/{service.main_pid()}").stdout.strip() != "0"


def test_the_journal_has_priorities_and_one_time_stamp(service: Service) -> None:
    service.start()
    lines = service.host.run(
        "journalctl", "-u", SERVICE, "-o", "json", "--no-pager", "-b", check=True
    ).stdout.splitlines()
    entries = [entry for entry in map(json.loads, lines) if entry.get("SYSLOG_IDENTIFIER") == "ovms_mp"]
    spawned = [entry for entry in entries if "event=spawned" in str(entry["MESSAGE"])]
    assert spawned
    assert {entry["PRIORITY"] for entry in spawned} == {"6"}
    assert not re.search(r"\d\d:\d\d:\d\d|<\d>", str(spawned[0]["MESSAGE"]))


def test_a_reload_has_ended_when_systemctl_returns(service: Service) -> None:
    service.start()
    shutil.copytree(service.models / "tiny/1", service.models / "tiny/2")
    try:
        service.host.control("reload", SERVICE)
        eventually(
            lambda: service.properties("ActiveState")["ActiveState"] == "active", START_S, "the reload ends"
        )
        eventually(
            lambda: "tiny/2" in service.properties("StatusText")["StatusText"], START_S, "the new version"
        )
    finally:
        shutil.rmtree(service.models / "tiny/2")


def test_a_manager_that_does_not_turn_is_replaced(service: Service) -> None:
    service.start()
    before = service.main_pid()
    service.host.run("kill", "-STOP", str(before), check=True)
    eventually(lambda: service.main_pid() not in (0, before), START_S, "a new manager")
    eventually(lambda: service.properties("ActiveState")["ActiveState"] == "active", START_S, "it is ready")
    assert service.predict() == 200
    assert str(before) not in service.processes()


def test_a_manager_that_is_killed_is_replaced_with_all_that_it_had(service: Service) -> None:
    service.start()
    before = service.processes()
    service.host.control("kill", "--kill-who=main", "-s", "KILL", SERVICE)
    eventually(lambda: service.main_pid() not in (0, *map(int, before)), START_S, "a new manager")
    eventually(lambda: service.properties("ActiveState")["ActiveState"] == "active", START_S, "it is ready")
    assert service.predict() == 200
    assert not set(before) & set(service.processes())


def test_flags_that_are_wrong_are_not_tried_again(service: Service) -> None:
    host = service.host
    kept = host.run("cat", ENVIRONMENT, check=True).stdout
    host.write(
        ENVIRONMENT, 'OVMS_MP_ARGUMENTS="config --config_path /etc/ovms_mp/config.json --nonsense 1"\n'
    )
    try:
        host.control("start", SERVICE, check=False)
        shown = service.properties("NRestarts", "ExecMainStatus", "ActiveState")
        assert shown == {"NRestarts": "0", "ExecMainStatus": "2", "ActiveState": "failed"}
        assert "--nonsense" in host.journal(SERVICE, "-n", "5")
    finally:
        host.write(ENVIRONMENT, kept)


def test_keys_and_certificates_are_credentials(service: Service, tmp_path: Path) -> None:
    """The drop-in of ``deploy/systemd``: the service reads what only root may, and asks everybody for a key."""
    host, certificate = service.host, make_certificate("localhost")
    drop_in = DROP_IN.replace("test.conf", "secure.conf")
    keys, admin_key = f"client {'c' * 32}\n", "a" * 32
    contents = {"tls.crt": certificate.chain.decode(), "tls.key": certificate.key.decode()}
    contents |= {"api_keys": keys, "admin_api_keys": admin_key}
    for name, text in contents.items():
        host.write(f"/etc/ovms_mp/{name}", text)
        host.run("chmod", "600", f"/etc/ovms_mp/{name}", check=True)
    host.write(drop_in, SECURE.read_text())
    host.control("daemon-reload")
    try:
        host.control("start", SERVICE, check=False)
        assert service.properties("ActiveState")["ActiveState"] == "active", host.journal(SERVICE, "-n", "30")
        ca, _ = certificate.write(tmp_path, "ca")
        ask = functools.partial(rest_client.https_status, service.rest_port, ca)
        assert ask("/v2/health/ready", "") == 200, "a probe has no key"
        assert [ask("/v1/models/tiny", key) for key in ("", "x" * 32, "c" * 32)] == [401, 401, 200]
        assert ask("/metrics", "c" * 32) == 200
        assert [ask("/v1/config/reload", key, "POST") for key in ("c" * 32, admin_key)] == [403, 200]
    finally:
        host.run("rm", drop_in)
        host.control("daemon-reload")


def test_nothing_is_left_after_a_stop(service: Service) -> None:
    service.start()
    service.host.control("stop", SERVICE)
    shown = service.properties("Result", "ExecMainStatus", "ActiveState")
    assert shown == {"Result": "success", "ExecMainStatus": "0", "ActiveState": "inactive"}
    assert service.host.run("ls", "/run/ovms_mp").returncode != 0


def test_restarts_refuse_and_lose_nothing(service: Service) -> None:
    """With ovms_mp.socket, clients that connect while the server is away wait, and are answered."""
    service.host.control("start", SOCKET)
    service.start()
    with NewConnections(service.port, service.rest_port) as clients:
        for number in range(RESTARTS):
            service.host.control("restart", SERVICE, within_s=START_S)
            clients.expect_answers(number)
    assert clients.failures == Counter(), clients.failures
    assert min(clients.answered["REST"], clients.answered["gRPC"]) > 10 * RESTARTS


def test_ports_that_do_not_agree_are_told(service: Service) -> None:
    (other,) = free_ports(1)
    service.host.write(f"/etc/systemd/system/{SOCKET}.d/test.conf", f"[Socket]\nListenStream={other}\n")
    service.host.control("daemon-reload")
    try:
        service.host.control("start", SOCKET)
        service.host.control("start", SERVICE, check=False)
        log = service.host.journal(SERVICE, "-n", "50")
        assert (
            f"on port {other}, which is neither --port ({service.port}) nor --rest_port ({service.rest_port})"
            in log
        )
    finally:
        service.host.run("rm", "-r", f"/etc/systemd/system/{SOCKET}.d")
        service.host.control("daemon-reload")


class NewConnections:
    """Clients that connect for each request, which is what waits while a server restarts."""

    WITHIN_S = 30.0

    def __init__(self, port: int, rest_port: int, each: int = 4) -> None:
        self.answered: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self._port, self._rest_port = port, rest_port
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        work = [("REST", self._by_rest), ("gRPC", self._by_grpc)] * each
        self._threads = [threading.Thread(target=self._ask, args=pair) for pair in work]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        self.expect_answers(-1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(2 * self.WITHIN_S)

    def expect_answers(self, number: int) -> None:
        """Wait for further answers of both kinds."""
        before = Counter(self.answered)
        for kind in ("REST", "gRPC"):
            more = functools.partial(self._has_more, kind, before[kind] + 2)
            eventually(more, 30.0, f"{kind} after restart {number}")

    def _has_more(self, kind: str, than: int) -> bool:
        return self.answered[kind] > than or bool(self.failures)

    def _ask(self, kind: str, once: Callable[[], str]) -> None:
        while not self._stopping.is_set():
            try:
                failure = once()
            except (OSError, AssertionError) as error:
                failure = f"{type(error).__name__}: {error}"
            with self._lock:
                if failure:
                    self.failures[f"{kind}: {failure}"] += 1
                else:
                    self.answered[kind] += 1
            if failure:
                return

    def _by_rest(self) -> str:
        reply = rest_client.predict(self._rest_port, "tiny", {"inputs": ONES}, timeout_s=self.WITHIN_S)
        return "" if reply.status == 200 else f"{reply.status} {reply.text()}"

    def _by_grpc(self) -> str:
        request = serving.PredictRequest()
        request.model_spec.name = "tiny"
        tensor = request.inputs["x"]
        tensor.dtype = framework.DT_FLOAT
        tensor.tensor_content = np.ones((1, 10), np.float32).tobytes()
        for size in (1, 10):
            tensor.tensor_shape.dim.add().size = size
        # A pool of its own, so that each channel has a connection of its own.
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(f"127.0.0.1:{self._port}", options) as channel:
            call = channel.unary_unary(PREDICT, request_serializer=None, response_deserializer=None)
            try:
                call(request.SerializeToString(), timeout=self.WITHIN_S, wait_for_ready=True)
            except grpc.RpcError as error:
                return f"{error.code()} {error.details()}"
        return ""
