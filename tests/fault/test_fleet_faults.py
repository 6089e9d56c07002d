# SPDX-License-Identifier: Apache-2.0
"""A fleet on three machines under load, whose parts are killed one after the other.

Machines are network namespaces. ``--fleet-rounds`` says how often, half of the rounds with retries of the clients,
half without. Each failure that a client saw must lie where one may: what was under way in HAProxy when HAProxy itself
was killed, and on a link when it was cut. Nothing else fails, nothing is wrong, nothing hangs.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import fleet, machines
from tests.support.fleet import Cluster, load
from tests.support.machines import Machine, Machines
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.models import ModelZoo

pytestmark = [
    pytest.mark.skipif(bool(fleet.missing()), reason=fleet.missing()),
    pytest.mark.skipif(bool(machines.missing()), reason=machines.missing()),
    pytest.mark.replaces_processes,
    pytest.mark.timeout(3600),
]

PORT = 8000
LOAD_S = 600.0
"""At most: they are told to stop."""
RECOVERED_S = 60.0
AT_ONCE_S = 1.0
CUT_S = 8.0
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


@contextlib.contextmanager
def three_machines(zoo: ModelZoo, directory: Path) -> Iterator[tuple[Cluster, Machines]]:
    """Each round has its own: Ray does not always start again where a machine has been cut off."""
    with Machines(3) as network, Cluster(network.all, cores=2) as cluster:
        file = directory / "fleet.toml"
        places = {"directory": directory / "servers", "base_path": zoo.base_path("tiny")}
        file.write_text(FILE.format(port=PORT, **places))
        cluster.fleet("up", str(file))
        yield cluster, network
        cluster.fleet("down")


def settled(cluster: Cluster, is_right: Callable[[dict[str, Any]], bool] = bool) -> dict[str, Any]:
    """Wait until the fleet is as its file says, and more."""
    found: dict[str, Any] = {}

    def is_settled() -> bool:
        done = cluster.run("status", "--json", "--address", f"{cluster.host}:{cluster.port}")
        if done.returncode:
            return False
        found.update(json.loads(done.stdout))
        return bool(found["is_settled"]) and is_right(found)

    eventually(is_settled, RECOVERED_S, "all is as the file says again")
    return found


def processes(machine: Machine, words: str) -> list[int]:
    """Those of a machine whose command line has these words."""
    network = os.readlink(f"/proc/{machine.holder.pid}/ns/net")
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if words in command and os.readlink(entry / "ns/net") == network:
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def kill_one(network: Machines, words: str, which: int = 0) -> None:
    """Kill a process, wherever it is, and wait until there is another."""
    found = sorted(pid for machine in network.all for pid in processes(machine, words))
    assert found, words
    os.kill(found[which], signal.SIGKILL)
    eventually(
        lambda: {pid for machine in network.all for pid in processes(machine, words)} - set(found),
        RECOVERED_S,
        f"another {words}",
    )


def one_round(up: Cluster, network: Machines, *flags: str) -> tuple[dict[str, Any], list[tuple[str, float]]]:
    """Kill everything once under load; what clients saw, and when what was killed."""
    done: list[tuple[str, float]] = []
    target = f"{network.all[0].address}:{PORT}"
    clients = load(up, network.switch, target, LOAD_S, *flags)
    try:
        status = settled(up)
        done.append(("server", time.time()))
        os.killpg(status["servers"][0]["pid"], signal.SIGKILL)
        numbers = {server["number"] for server in status["servers"]}
        settled(up, lambda now: {server["number"] for server in now["servers"]} != numbers)

        for what, words in (
            ("controller", "ray::Controller"),
            ("balancer", "ray::BalancerActor"),
            ("actor", "ray::ServerActor"),
            ("haproxy", "haproxy -W"),
        ):
            done.append((what, time.time()))
            kill_one(network, words, -1)
        settled(up)

        done.append(("link", time.time()))
        network.cut(network.all[2])
        settled(up, lambda now: all(server["host"] != network.all[2].address for server in now["servers"]))
        clients.terminate()
        out, _ = clients.communicate(timeout=60)
    finally:
        clients.kill()
        clients.wait()
    return json.loads(out), done


def unexplained(seen: dict[str, Any], done: list[tuple[str, float]]) -> list[object]:
    """Failures that are not those of calls under way in what was killed."""
    windows = [
        (at - 0.1, at + (CUT_S if what == "link" else AT_ONCE_S))
        for what, at in done
        if what in ("haproxy", "link")
    ]
    return [
        failure
        for failure in seen["failures"]
        if not any(
            first <= failure[0] - failure[1] <= last or first <= failure[0] <= last for first, last in windows
        )
    ]


def test_what_dies_is_replaced_and_clients_hardly_notice(
    zoo: ModelZoo, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    for number in range(int(request.config.getoption("--fleet-rounds"))):
        flags = ("--retries",) if number % 2 else ()
        with three_machines(zoo, tmp_path) as (up, network):
            seen, done = one_round(up, network, *flags)
        print(number, flags, seen["counts"], seen["failures"], seen["slow"], done)  # noqa: T201  # for the long rounds

        assert seen["wrong"] == []
        assert seen["counts"].get("hung", 0) == 0
        assert unexplained(seen, done) == []
        assert not (flags and seen["failures"])
