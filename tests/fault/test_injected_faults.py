# SPDX-License-Identifier: Apache-2.0
"""A failure in each shared step of fronts, worker and manager: what it was for ends, and nothing else notices.

The functions raise in the processes of a real server, under load on both protocols (``tests.support.injection``). The
log has one event for each, no process is replaced, and as many requests fail as are the step's: one, or none where the
step is nobody's or is done again.
"""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support import rest_client
from tests.support.injection import Injection
from tests.support.ledger import Ledger, assert_nothing_left
from tests.support.load import Load
from tests.support.server import Server
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.models import ModelZoo
    from tests.support.tfs_client import TfsClient

CLIENTS = 4
PAUSE_S = 0.02
WITHIN_S = 30.0
GOES_ON = 5
"""Requests of each client after a failure: the first of them says that what was under way has ended."""
EVENTS = ("event=defect", "event=call_raised", "event=inference_raised", "event=polling")


@dataclass(frozen=True)
class Fault:
    """A function that raises, and what follows.

    Attributes:
        target: In ``ovms_mp``.
        failed: How many requests may fail.
        times: In how many calls it raises.
        action: What makes the server call it; empty where the load does, or time.
    """

    target: str
    failed: tuple[int, ...] = (0,)
    times: int = 1
    action: str = ""

    def __str__(self) -> str:
        return f"{self.target.rpartition('.')[0].rpartition('.')[2]}-{self.target.partition(':')[2]}-{self.times}"


ONE, AT_MOST_ONE = (1,), (0, 1)
FRONT = [
    Fault("front.infer.links:encode"),
    Fault("front.infer.links:encode", ONE, times=2),
    Fault("front.infer.links:WorkerLink._flush"),
    Fault("front.infer.links:WorkerLink._drain"),
    Fault("front.infer.links:WorkerLink._land", ONE),
    Fault("front.infer.dispatch:Dispatcher._expire"),
    Fault("front.infer.links:decode_to_front"),
    Fault("wire.allocator:ArenaAllocator.release", ONE),
    Fault("front.session:FrontSession._tick"),
    Fault("front.session:FrontSession._take_control", action="reload"),
    Fault("front.session:decode_to_child", action="reload"),
    Fault("front.service:Service.replace_table", action="version"),
    Fault("front.routing:_version_route", action="version"),
    Fault("front.infer.inputs:Inputs.write", ONE),
]
HTTP2 = [
    Fault("front.grpc.http2.connection:Http2Connection.receive", AT_MOST_ONE),
    Fault("front.grpc.http2.writer:Writer._write", AT_MOST_ONE),
    Fault("front.grpc.http2.protocol:Http2Protocol._check_age", AT_MOST_ONE),
    Fault("front.grpc.http2.server:Http2Server._tick"),
    Fault("front.grpc.http2.call:Call.tick", ONE),
    Fault("front.grpc.http2.call:Call.ended", ONE),
    Fault("front.grpc.http2.call:Call.finish", ONE),
    Fault("front.tfs.methods:TfsMethods._gather", ONE),
]
REST = [
    Fault("front.tfs.rest:encode_predict", ONE),
    Fault("front.rest.request:read_body", ONE),
    Fault("front.rest.arbiter:RestArbiter._beat"),
]
WORKER = [
    Fault("worker.run.intake:Intake.take_tasks"),
    Fault("worker.run.intake:Intake._accept", ONE),
    Fault("worker.run.scheduler:Scheduler._note_run", ONE),
    Fault("worker.orders:Orders.retire_versions"),
    Fault("worker.orders:Orders.release_arenas"),
    Fault("worker.loop:WorkerLoop.measure"),
    Fault("worker.run.intake:decode_to_worker"),
    Fault("worker.orders:Orders._follow", action="version"),
    Fault("worker.orders:Orders._take_outcome", action="version"),
    Fault("worker.orders:Orders._let_go", action="version"),
    Fault("worker.run.shaping:Shaping.advance"),
    Fault("worker.run.forms:FormKeeper.advance"),
    Fault("worker.run.outbox:encode"),
    Fault("worker.run.outbox:encode", ONE, times=2),
    Fault("worker.run.outbox:Outbox.flush"),
    Fault("worker.run.queues:VersionQueue.push", ONE),
    Fault("worker.run.queues:VersionQueue.pop"),
    Fault("worker.run.queues:QueuedTask.refusal", ONE),
    Fault("worker.run.pool:InferPool._run_one", ONE),
    Fault("worker.load.compiled:CompiledVersion.bind", ONE),
    Fault("wire.arena:Arena.check_range", ONE),
    Fault("wire.channels:Router.send"),
    Fault("wire.channels:Dealer.send"),
    Fault("child.heartbeat:HeartbeatThread._beat"),
]
MANAGER = [
    Fault("manager.manager:Manager._take_messages"),
    Fault("manager.child_events:ChildEvents.take_message", action="version"),
    Fault("manager.child_events:ChildEvents.beat"),
    Fault("manager.publisher:Publisher.snapshot", action="version"),
    Fault("manager.models.trials:ProbeLauncher.launch", action="version"),
    Fault("manager.child_events:ChildEvents.child_exited", action="version"),
    Fault("manager.inbox:decode_to_manager"),
    Fault("manager.fronts.snapshots:encode", action="version"),
    Fault("manager.children.supervisor:Supervisor.check_liveness"),
    Fault("manager.children.liveness:Liveness._check_child"),
    Fault("manager.children.supervisor:Supervisor._collect_one", action="version"),
    Fault("manager.timers:Timers.run_due"),
    Fault("manager.workers.provisioner:Provisioner.adjust"),
    Fault("manager.workers.provisioner:Provisioner.advance"),
    Fault("manager.models.repository:list_versions"),
    Fault("manager.models.config_file:read_config_file", action="config"),
    Fault("manager.models.rescans:ConfigFile.read_if_changed"),
    Fault("manager.models.deployments:Deployments.state_changed", action="version"),
    Fault("manager.models.deployments:Deployments._unload", action="version"),
    Fault("storage.watch:RepositoryWatch._arm_base_path"),
    Fault("storage.watch:RepositoryWatch.read", action="version"),
]
DEATHS = [
    Fault("manager.child_events:ChildEvents.child_exited", action="kill"),
    Fault("manager.children.supervisor:Supervisor._start", action="kill"),
]
LAST = Fault("manager.shutdown:Shutdown._drain_one")
FAULTS = [*FRONT, *HTTP2, *REST, *WORKER, *MANAGER]


class Rig:
    """A server with faults, under load. ``aux`` is a model that nobody asks; it gets further versions."""

    def __init__(self, zoo: ModelZoo, directory: Path, grpc_front: str, faults: list[Fault]) -> None:
        self._zoo = zoo
        self._aux = directory / "aux"
        self._version = 1
        zoo.install("plus_two", self._aux, 1)
        self._config = directory / "config.server.json"
        entries = [("aux", self._aux), ("tiny", zoo.base_path("tiny"))]
        self._config.write_text(
            json.dumps(
                {
                    "model_config_list": [
                        {"config": {"name": name, "base_path": str(path)}} for name, path in entries
                    ]
                }
            )
        )
        self.injection = Injection(directory / "faults", [f"ovms_mp.{fault.target}" for fault in faults])
        flags = ["--heartbeat_interval_s", "0.2", "--retry_window_s", "20", "--settle_s", "0.05"]
        flags += ["--grpc_front", grpc_front]
        self.server = Server(
            ["config", "--config_path", str(self._config), *flags],
            directory / "server.log",
            self.injection.environment,
        )
        self.load: Load

    def events(self) -> list[str]:
        """What the log has of failures so far."""
        return [line for line in self.server.log().splitlines() if any(event in line for event in EVENTS)]

    def failures(self) -> dict[str, int]:
        """What clients have seen so far that was no right answer."""
        return {what: count for what, count in self.load.outcome.counts.items() if what != "right"}

    def pids(self) -> dict[str, list[int]]:
        """All processes that should last."""
        return {kind: self.server.pids(kind) for kind in ("worker", "grpc", "arbiter", "rest")}

    def wait_served(self) -> None:
        """Wait until every client has begun some more requests."""
        before = self.load.asked.copy()
        eventually(
            lambda: all(self.load.asked[client] >= before[client] + GOES_ON for client in range(CLIENTS)),
            WITHIN_S,
            "each client is answered",
        )

    def act(self, action: str) -> None:
        """Make the server do something that the load does not."""
        if action == "reload":
            assert rest_client.request(self.server.rest_port, "POST", "/v1/config/reload").status == 200
        elif action == "version":
            self._version += 1
            self._zoo.install("plus_two", self._aux, self._version)
        elif action == "config":
            self._config.write_text(self._config.read_text() + " ")
        elif action == "kill":
            os.kill(self.server.pids("worker")[0], signal.SIGKILL)

    def wait_done(self, action: str) -> None:
        """Wait until what the action began has ended well."""
        if action == "version":
            eventually(
                self._is_current, WITHIN_S, f"version {self._version} of aux is the only one that serves"
            )
        elif action == "kill":
            eventually(lambda: len(self.server.pids("worker")) == 1, WITHIN_S, "a new worker")
        elif action == "config":
            eventually(lambda: "event=config_read" in self.server.log(), WITHIN_S, "the file was read")

    def _is_current(self) -> bool:
        reply = rest_client.request(self.server.rest_port, "GET", "/v1/models/aux")
        if reply.status != 200:
            return False
        states = {entry["version"]: entry["state"] for entry in reply.json()["model_version_status"]}
        return {number for number, state in states.items() if state != "END"} == {str(self._version)} and (
            states[str(self._version)] == "AVAILABLE"
        )


@pytest.fixture(scope="module")
def rig(zoo: ModelZoo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """The server of all faults that no process dies of."""
    before = Ledger.take()
    made = Rig(zoo, tmp_path_factory.mktemp("injected"), "native", FAULTS)
    with made.server, Load(made.server.port, made.server.rest_port, CLIENTS, PAUSE_S) as load:
        made.load = load
        made.wait_served()
        yield made
    assert_nothing_left(before)


def inject(rig: Rig, fault: Fault) -> None:
    """Have a function raise, and compare what follows with what may."""
    target = f"ovms_mp.{fault.target}"
    events, failures = rig.events(), sum(rig.failures().values())
    rig.injection.forget(target)
    rig.injection.arm(target, fault.times)
    rig.act(fault.action)
    rig.injection.wait_fired(target, fault.times)
    rig.wait_done(fault.action)

    rig.wait_served()
    eventually(lambda: len(rig.events()) > len(events), WITHIN_S, "the log says so")
    told = rig.events()[len(events) :]
    assert len(told) == 1, told
    assert sum(rig.failures().values()) - failures in fault.failed, (
        rig.failures(),
        rig.load.outcome.others[-3:],
    )


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_step_that_raises_ends_what_it_is_for(rig: Rig, tfs: TfsClient, fault: Fault) -> None:
    pids = rig.pids()
    inject(rig, fault)

    assert rig.pids() == pids
    assert rest_client.predict(rig.server.rest_port, "aux", {"inputs": [[0] * 10]}).status == 200
    assert tfs.predict(rig.server.port, "aux", {"x": np.zeros((1, 10), np.float32)}).code == "OK"


def test_a_death_that_cannot_be_settled_at_once_and_a_stop(zoo: ModelZoo, tmp_path: Path) -> None:
    """Here with grpcio's server: the worker is replaced nevertheless, and the stop ends the server."""
    rig = Rig(zoo, tmp_path, "grpcio", [*DEATHS, *FRONT[:2], LAST])
    with rig.server, Load(rig.server.port, rig.server.rest_port, CLIENTS, PAUSE_S) as load:
        rig.load = load
        rig.wait_served()
        for fault in (*FRONT[:2], *DEATHS):
            inject(rig, fault)
        load.stop()
        rig.injection.arm(f"ovms_mp.{LAST.target}")
        assert rig.server.stop() == 0
        assert rig.injection.fired(f"ovms_mp.{LAST.target}") == 1
