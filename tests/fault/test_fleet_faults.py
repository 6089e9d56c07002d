# SPDX-License-Identifier: Apache-2.0
"""A fleet on three machines under load, whose parts are killed one after the other.

Machines are network namespaces. ``--fleet-rounds`` says how often, every other time with retries of the clients;
``--fleet-results`` where each round is noted. In a round a server, the controller, the balancer's actor, a server's
actor and HAProxy are killed, in another order each time, then a machine's link is cut, and the machine joins again.
Each failure that a client saw must lie where one may: what was under way in HAProxy when HAProxy itself was killed, or
on the link when it was cut. Nothing else fails, nothing is wrong, nothing hangs.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import fleet, machines
from tests.support.fleet import Cluster, Load
from tests.support.fleet_parts import WORDS, Blow, cause, parents, processes, victims
from tests.support.machines import Machines
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.models import ModelZoo

pytestmark = [
    pytest.mark.skipif(bool(fleet.missing()), reason=fleet.missing()),
    pytest.mark.skipif(bool(machines.missing()), reason=machines.missing()),
    pytest.mark.replaces_processes,
    pytest.mark.timeout(600),
]

PORT = 8000
ROUNDS_OF_A_CLUSTER = 5
LEAST_LOAD_S = 60.0
MOST_LOAD_S = 600.0
REPLACED_S = 60.0
GONE_S = 30.0
KINDS = tuple(f"{api}-{protocol}" for api in ("tfs", "kserve") for protocol in ("grpc", "rest"))
LEAST_OF_A_KIND = 100
SERVERS = ("server", "actor")
FILE = """\
[entry]
port = {port}
[servers]
min = 3
directory = "{directory}"
flags = ["--log_level", "INFO"]
[deadlines]
unready_s = 5
settle_s = 1
drain_s = 5
first_retry_s = 0.5
[[models]]
name = "tiny"
base_path = "{base_path}"
"""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each round."""
    metafunc.parametrize("number", range(int(metafunc.config.getoption("--fleet-rounds"))))


class Site:
    """Three machines with a fleet, for some rounds; after those, or a round that broke it, others."""

    def __init__(self, base_path: Path, directory: Path) -> None:
        self._base_path = base_path
        self._directory = directory
        self._stack = ExitStack()
        self._left = self._rest = 0
        self.number = 0

    def prepare(self) -> float:
        """Have a fleet; how long that took."""
        if self._left:
            return 0.0
        self.close()
        started_s = time.monotonic()
        self.number += 1
        with self._stack as stack:
            self.network = stack.enter_context(Machines(3))
            self.cluster = stack.enter_context(Cluster(self.network.all, cores=2))
            file = self._directory / "fleet.toml"
            places = {"directory": self._directory / f"servers{self.number}", "base_path": self._base_path}
            file.write_text(FILE.format(port=PORT, **places))
            self.cluster.fleet("up", str(file))
            self._stack = stack.pop_all()
        self._left = ROUNDS_OF_A_CLUSTER
        return time.monotonic() - started_s

    def begin(self) -> None:
        """Count a round; one that does not end breaks it."""
        self._rest, self._left = self._left - 1, 0

    def end(self) -> None:
        """The round has left all as it was."""
        self._left = self._rest
        if not self._left:
            self._down()

    def close(self) -> None:
        """Let nothing be left."""
        try:
            if self._left:
                self._down()
        finally:
            self._left = 0
            self._stack.close()

    def _down(self) -> None:
        self.cluster.fleet("down")
        eventually(lambda: not processes(self.network.all, "ovms_mp"), GONE_S, "nothing of the fleet is left")


@pytest.fixture(scope="module")
def site(zoo: ModelZoo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    given = Site(zoo.base_path("tiny"), tmp_path_factory.mktemp("fleet"))
    yield given
    given.close()


class Round:
    """Kills everything once; what it did is in ``blows``."""

    def __init__(self, up: Cluster, network: Machines, number: int) -> None:
        self._up = up
        self._network = network
        self._random = random.Random(number)
        self._before: set[int] = set()
        self.blows: list[Blow] = []

    def run(self) -> None:
        order = [*WORDS]
        self._random.shuffle(order)
        for what in order:
            self._kill(what)
        self._settled()
        self._cut()

    def _settled(self) -> dict[str, Any]:
        """Wait until all servers are there, none of them the one that was killed last."""
        status = self._up.settled(lambda now: not self._before or _numbers(now) != self._before)
        for blow in self.blows:
            blow.replaced_s = blow.replaced_s or time.time()
        return status

    def _kill(self, what: str) -> None:
        """Kill one process of a part. Of servers others are there meanwhile; the rest is waited for at once."""
        status = {}
        if what in SERVERS:
            status = self._settled()
            self._before = _numbers(status)
        found = victims(self._network.all, what)
        if what == "server":
            found = {server["pid"] for server in status["servers"]}
        assert found, what
        victim = self._random.choice(sorted(found))
        blow = Blow(what=what, at_s=time.time(), victim=str(victim))
        self.blows.append(blow)
        if what == "server":
            os.killpg(victim, signal.SIGKILL)
        else:
            os.kill(victim, signal.SIGKILL)
        if what not in SERVERS:
            eventually(lambda: victims(self._network.all, what) - found, REPLACED_S, f"another {what}")
            blow.replaced_s = time.time()

    def _cut(self) -> None:
        """Cut a link at whose end a server is, until there is another one; then the machine joins again."""
        hosts = {server["host"] for server in self._settled()["servers"]}
        chosen = self._random.choice(
            [each for each, machine in enumerate(self._network.all) if each and machine.address in hosts]
        )
        machine = self._network.all[chosen]
        self._before = set()
        blow = Blow(what="link", at_s=time.time(), victim=machine.address)
        self.blows.append(blow)
        self._network.cut(machine)
        self._up.settled(lambda now: all(server["host"] != machine.address for server in now["servers"]))
        blow.replaced_s = time.time()
        self._network.mend(machine)
        self._up.rejoin(chosen)
        self._settled()


def _numbers(status: dict[str, Any]) -> set[int]:
    return {server["number"] for server in status["servers"]}


def judged(seen: dict[str, Any], blows: list[Blow]) -> dict[str, Any]:
    """What clients saw, with the cause of each failure; ``problems`` are what there must not be."""
    counts = seen["counts"]
    failures = [[*each, cause(each, blows)] for each in seen["failures"]]
    repeated = [[*each, cause(each, blows)] for each in seen["repeated"]]
    problems = [f"wrong: {each}" for each in seen["wrong"]]
    problems += [f"not explained: {each}" for each in (*failures, *repeated) if not each[-1]]
    problems += [f"hung: {counts['hung']}"] if counts["hung"] else []
    problems += [
        f"too few: {kind}, {each}"
        for kind in KINDS
        if (each := counts.get(f"right {kind}", 0)) < LEAST_OF_A_KIND
    ]
    return {
        "right": sum(counts.get(f"right {kind}", 0) for kind in KINDS),
        "failed": len(failures),
        "wrong": seen["wrong_count"],
        "hung": counts["hung"],
        "counts": counts,
        "failures": failures,
        "repeated": repeated,
        "slowest_s": seen["slowest_s"],
        "slow": seen["slow"],
        "problems": problems,
    }


def test_what_dies_is_replaced_and_clients_hardly_notice(
    site: Site, number: int, request: pytest.FixtureRequest
) -> None:
    started_s = time.monotonic()
    has_retries = number % 2 == 1
    noted: dict[str, Any] = {"round": number, "retries": has_retries, "problems": []}
    try:
        noted["prepared_s"] = site.prepare()
        noted["cluster"] = site.number
        site.begin()
        noted |= loaded_round(site.cluster, site.network, number, has_retries=has_retries)
        site.end()
    except BaseException as error:
        noted["problems"].append(repr(error))
        raise
    finally:
        noted["seconds"] = time.monotonic() - started_s
        results = request.config.getoption("--fleet-results")
        if results:
            with Path(results).open("a") as file:
                file.write(json.dumps(noted) + "\n")
    assert noted["problems"] == []
    assert not (has_retries and noted["failures"])


def loaded_round(up: Cluster, network: Machines, number: int, *, has_retries: bool) -> dict[str, Any]:
    """A round under load, and what came of it."""
    target = f"{network.all[0].address}:{PORT}"
    clients = Load(up, network.switch, target, MOST_LOAD_S, *(("--retries",) if has_retries else ()))
    started_s = time.monotonic()
    killing = Round(up, network, number)
    try:
        killing.run()
        eventually(lambda: time.monotonic() - started_s >= LEAST_LOAD_S, LEAST_LOAD_S, "load for so long")
        load_s = time.monotonic() - started_s
        clients.process.terminate()
        seen = clients.ended(60)
    finally:
        clients.kill()
    # What was on the machine that was cut off has noticed, too.
    status = up.settled()
    there = {server["pid"] for server in status["servers"]}
    eventually(lambda: parents(network.all) == there, GONE_S, "no other servers")
    blows = [dataclasses.asdict(blow) for blow in killing.blows]
    return {**judged(seen, killing.blows), "load_s": load_s, "blows": blows}
