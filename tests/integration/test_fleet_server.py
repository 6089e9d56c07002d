# SPDX-License-Identifier: Apache-2.0
"""One server of a fleet without Ray: its ports, what is said of it and its models, and its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from ovms_mp.fleet.asking import ask
from ovms_mp.fleet.server import Server
from ovms_mp.wire.fleet_status import abridged
from tests.support.fleet_load import asks
from tests.support.fleet_page import status
from tests.support.page import first_sample
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.models import ModelZoo

pytestmark = pytest.mark.replaces_processes

READY_S = 60.0
ALONE = """\
import json, os, sys
from ovms_mp.fleet.server import Server
settings, models = json.loads(sys.argv[1])
server = Server("r1", settings, models, host="127.0.0.1", node="", environment=os.environ)
print(server.observe()["pid"], flush=True)
sys.stdin.read()
"""


def settings(directory: Path) -> str:
    return json.dumps({"directory": str(directory), "drain_s": 5, "flags": ["--log_level", "INFO"]})


def entry(zoo: ModelZoo, name: str, **keys: object) -> str:
    return json.dumps({"name": "m", "base_path": str(zoo.base_path(name)), **keys})


@pytest.fixture
def server(zoo: ModelZoo, tmp_path: Path) -> Iterator[Server]:
    models = [("m", "one", entry(zoo, "tiny"))]
    made = Server("r1", settings(tmp_path), models, host="127.0.0.1", node="n", environment=os.environ)
    yield made
    made.stop()


def wait_for(server: Server, **values: object) -> dict[str, Any]:
    """Observe until these are seen."""
    seen: dict[str, Any] = {}

    def is_seen() -> bool:
        seen.update(server.observe())
        return all(seen[name] == value for name, value in values.items())

    eventually(is_seen, READY_S, str(values))
    return seen


def wait_for_model(server: Server, revision: str, served: str) -> str:
    """Observe until a model is served as it is to be; why another one is not."""

    def is_seen() -> bool:
        return bool(server.observe()["models"]["m"][:2] == (revision, served))

    eventually(is_seen, READY_S, f"{revision} {served}")
    return str(server.observe()["models"]["m"][2])


def test_a_server_from_its_start_to_its_end(server: Server, zoo: ModelZoo) -> None:
    assert server.observe()["state"] == "starting"
    seen = wait_for(server, state="ready")
    assert len(set(seen["cores"])) == 1
    assert seen["used_bytes"] > 1 << 20

    wait_for_model(server, "one", "one")
    grpc_ask = asks(f"127.0.0.1:{seen['port']}", "m", 0)["kserve-grpc"]
    assert grpc_ask()[0] == 1.0
    assert ask("127.0.0.1", seen["rest_port"], "/v2/models/m/ready", 5).status == 200

    server.observe(abridged(status(2)), 1.5)
    shown = first_sample(seen["rest_port"])["fleet"]
    assert (shown["status"]["fleet"], shown["status"]["count"], shown["port"]) == ("vision", 2, seen["port"])
    assert shown["age_s"] >= 1.5

    server.place("m", "two", entry(zoo, "plus_two"))
    wait_for_model(server, "two", "two")
    assert grpc_ask()[0] == 2.0

    server.place("m", "three", entry(zoo, "plus_two", target_device="NONESUCH"))
    eventually(lambda: server.observe()["models"]["m"][2], READY_S, "why it is not served")
    assert server.observe()["models"]["m"][:2] == ("three", "two")
    assert grpc_ask()[0] == 2.0

    server.remove("m")
    assert wait_for(server, models={})["state"] == "ready"

    server.drain()
    assert server.observe()["state"] == "draining"
    assert wait_for(server, state="ended")["exit_code"] == 0


def test_servers_on_one_machine_have_ports_and_rooms_of_their_own(server: Server, tmp_path: Path) -> None:
    another = Server("r1", settings(tmp_path), [], host="127.0.0.1", node="n", environment=os.environ)
    try:
        one, two = server.observe(), another.observe()
    finally:
        another.stop()

    assert len({one["port"], one["rest_port"], two["port"], two["rest_port"]}) == 4
    assert one["log"] != two["log"]
    assert not set(one["cores"]) & set(two["cores"])


def test_a_server_ends_in_order_when_its_actor_dies(zoo: ModelZoo, tmp_path: Path) -> None:
    given = json.dumps([settings(tmp_path), [("m", "one", entry(zoo, "tiny"))]])
    actor = subprocess.Popen(
        [sys.executable, "-c", ALONE, given], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert actor.stdout is not None
        child = psutil.Process(int(actor.stdout.readline()))
        log = tmp_path / "0" / "server.log"
        eventually(lambda: "event=ready" in log.read_text() or "Ready" in log.read_text(), READY_S, "ready")
    finally:
        actor.send_signal(signal.SIGKILL)
        actor.communicate()

    eventually(
        lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 20, "the server's end"
    )
    assert "event=stopped" in log.read_text() or "Stopped" in log.read_text()
