# SPDX-License-Identifier: Apache-2.0
"""One server of a fleet without Ray: its ports, what is said of it and its models, and its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import psutil
import pytest
from msgspec.structs import replace

from ovms_mp.fleet.asking import ask
from ovms_mp.fleet.decisions.observation import ServerState
from ovms_mp.fleet.decisions.specification import ModelSpec, ServerSettings, ServerSpec
from ovms_mp.fleet.keeper import Charge, keep
from ovms_mp.fleet.server import Server
from ovms_mp.wire.fleet_status import abridged
from tests.support.fleet_load import asks
from tests.support.fleet_page import status
from tests.support.page import first_sample
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ovms_mp.fleet.decisions.observation import ObservedServer
    from tests.support.models import ModelZoo

pytestmark = pytest.mark.replaces_processes

READY_S = 60.0
ALONE = """\
import msgspec, os, sys
from ovms_mp.fleet.decisions.specification import ModelSpec, ServerSpec
from ovms_mp.fleet.server import Server
specification, model = msgspec.json.decode(sys.argv[1], type=tuple[ServerSpec, ModelSpec])
server = Server(1, specification, [model], host="127.0.0.1", node="", environment=os.environ)
print(server.observe().pid, flush=True)
sys.stdin.read()
"""


def specification(directory: Path) -> ServerSpec:
    settings = ServerSettings(directory=str(directory), flags=("--log_level", "INFO"))
    return ServerSpec(revision="r1", settings=settings, drain_s=5)


def model(zoo: ModelZoo, revision: str, name: str, **keys: object) -> ModelSpec:
    return ModelSpec(name="m", revision=revision, settings={"base_path": str(zoo.base_path(name)), **keys})


def started(directory: Path, *models: ModelSpec) -> Server:
    return Server(1, specification(directory), models, host="127.0.0.1", node="n", environment=os.environ)


@pytest.fixture
def server(zoo: ModelZoo, tmp_path: Path) -> Iterator[Server]:
    made = started(tmp_path, model(zoo, "one", "tiny"))
    yield made
    made.stop()


def wait_for(server: Server, state: ServerState) -> ObservedServer:
    """Observe until it is seen."""
    eventually(lambda: server.observe().state is state, READY_S, str(state))
    return server.observe()


def wait_for_model(server: Server, revision: str) -> None:
    """Observe until it is served."""
    eventually(lambda: server.observe().models["m"].served == revision, READY_S, revision)


def test_a_server_from_its_start_to_its_end(server: Server, zoo: ModelZoo) -> None:
    assert server.observe().state is ServerState.STARTING
    seen = wait_for(server, ServerState.READY)
    # None where other servers of fleets on this machine have them all.
    assert len(set(seen.cores)) <= 1
    assert seen.used_bytes is not None
    assert seen.used_bytes > 1 << 20

    wait_for_model(server, "one")
    grpc_ask = asks(f"127.0.0.1:{seen.port}", "m", 0)["kserve-grpc"]
    assert grpc_ask()[0] == 1.0
    assert ask("127.0.0.1", seen.rest_port, "/v2/models/m/ready", 5).status == 200

    server.observe(abridged(status(2)), 1.5)
    shown = first_sample("127.0.0.1", seen.rest_port)["fleet"]
    assert (shown["status"]["fleet"], shown["status"]["count"], shown["port"]) == ("sightings", 2, seen.port)
    assert shown["age_s"] >= 1.5

    server.place(model(zoo, "two", "plus_two"))
    wait_for_model(server, "two")
    assert grpc_ask()[0] == 2.0

    server.place(model(zoo, "three", "plus_two", target_device="NONESUCH"))
    server.place(replace(model(zoo, "other", "tiny"), name="n"))
    eventually(lambda: server.observe().models["m"].failure, READY_S, "why it is not served")
    eventually(lambda: server.observe().models["n"].served == "other", READY_S, "the other one is")
    there = server.observe().models
    assert (there["m"].revision, there["m"].served, there["n"].failure) == ("three", "two", "")
    assert "NONESUCH" in there["m"].failure
    assert grpc_ask()[0] == 2.0

    server.remove("m")
    eventually(lambda: set(server.observe().models) == {"n"}, READY_S, "one model less")
    assert server.observe().state is ServerState.READY

    server.drain()
    assert server.observe().state is ServerState.DRAINING
    assert wait_for(server, ServerState.ENDED).exit_code == 0


def test_servers_on_one_machine_have_ports_and_rooms_of_their_own(server: Server, tmp_path: Path) -> None:
    another = started(tmp_path)
    try:
        one, two = server.observe(), another.observe()
    finally:
        another.stop()

    assert len({one.port, one.rest_port, two.port, two.rest_port}) == 4
    assert one.log != two.log
    assert not set(one.cores) & set(two.cores)


def test_a_server_ends_in_order_when_its_actor_dies(zoo: ModelZoo, tmp_path: Path) -> None:
    given = msgspec.json.encode((specification(tmp_path), model(zoo, "one", "tiny"))).decode()
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


def test_a_keeper_starts_a_program_again_until_what_it_lives_with_ends(tmp_path: Path) -> None:
    pids, owner = tmp_path / "pids", subprocess.Popen(["/bin/sleep", "60"])
    program = ("/bin/sh", "-c", f"echo $$ >> {pids}; exec sleep 60")
    charge = Charge(command=program, lives_with=owner.pid, is_restarted=True)
    keeper = keep(charge, tmp_path / "log", os.environ)

    def started() -> list[int]:
        return [int(line) for line in pids.read_text().split()] if pids.exists() else []

    try:
        eventually(lambda: len(started()) == 1, READY_S, "the program")
        os.kill(started()[0], signal.SIGKILL)
        eventually(lambda: len(started()) == 2, READY_S, "the program once more")
    finally:
        owner.kill()
        owner.wait()

    assert keeper.wait(READY_S) == 128 + signal.SIGTERM
    assert len(started()) == 2
    assert not psutil.pid_exists(started()[1])
