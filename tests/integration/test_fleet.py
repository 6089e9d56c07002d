# SPDX-License-Identifier: Apache-2.0
"""A fleet on one machine: what its address answers, how it follows the load, and updates that nobody notices."""

from __future__ import annotations

import contextlib
import http.client
import json
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from ovms_mp.front.kserve._proto import kserve_pb2 as kserve
from tests.support import fleet
from tests.support.fleet import Cluster, Load
from tests.support.page import first_sample
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.models import ModelZoo

pytestmark = [
    pytest.mark.skipif(bool(fleet.missing()), reason=fleet.missing()),
    pytest.mark.replaces_processes,
]

FILE = """\
[entry]
port = 0
[servers]
min = {least}
max = {most}
directory = "{directory}/servers"
flags = ["--log_level", "{level}"]
[scaling]
utilisation = 0.5
down_after_s = 3
cool_down_s = 1
[update]
is_consistent = {consistent}
[deadlines]
settle_s = 0.5
drain_s = 5
[[models]]
name = "tiny"
base_path = "{directory}/{model}"
[[models]]
name = "rare"
base_path = "{directory}/plus_two"
copies = 1
[[models]]
name = "seldom"
base_path = "{directory}/plus_two"
copies = 0
"""


class Fleet:
    """One that is up, its file, and its address."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self.cluster = cluster
        self._directory = directory
        self._given = {"least": 2, "most": 2, "level": "INFO", "model": "tiny", "consistent": "false"}
        self.status = self._do("up")

    @property
    def target(self) -> str:
        (entry,) = self.status["entries"]
        return f"{entry['host']}:{entry['port']}"

    @property
    def other_model(self) -> str:
        """The one that is not there for ``tiny``."""
        return "plus_two" if self._given["model"] == "tiny" else "tiny"

    def update(self, **given: object) -> None:
        """Change the file, and have the fleet follow."""
        self._given |= given
        self.status = self._do("update")

    def look(self) -> dict[str, Any]:
        self.status = self.cluster.look()
        return self.status

    def _do(self, action: str) -> dict[str, Any]:
        file = self._directory / "fleet.toml"
        file.write_text(FILE.format(directory=self._directory, **self._given))
        return self.cluster.fleet(action, str(file))

    def load(self, seconds: float, *flags: str) -> Clients:
        return Clients(self, seconds, *flags)


class Clients:
    """They ask for so long; at the end of the block what they saw, of which nothing may be wrong or have failed."""

    def __init__(self, given: Fleet, seconds: float, *flags: str) -> None:
        self._load = Load(given.cluster, None, given.target, seconds, *flags)

    def __enter__(self) -> Clients:
        return self

    def stop(self) -> None:
        """Ask no longer."""
        self._load.process.terminate()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.seen = self._load.ended(120)
        if kind is None:
            assert (self.seen["wrong"], self.seen["failures"]) == ([], [])
            assert self.seen["counts"].get("hung", 0) == 0


@pytest.fixture(scope="module")
def up(zoo: ModelZoo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    directory = tmp_path_factory.mktemp("fleet")
    for name in ("tiny", "plus_two"):
        zoo.install(name, directory / name, 1)
    with Cluster([None], cores=6) as cluster:
        yield Fleet(cluster, directory)
        cluster.fleet("down")


def test_both_protocols_and_both_apis_at_one_address(up: Fleet) -> None:
    with up.load(1.5) as clients:
        pass
    kinds = {f"right {api}-{protocol}" for api in ("tfs", "kserve") for protocol in ("grpc", "rest")}

    assert kinds <= clients.seen["counts"].keys()


def test_a_model_that_one_server_has_is_found_there(up: Fleet) -> None:
    status = up.cluster.fleet("status")
    holders = [server["number"] for server in status["servers"] if "rare" in server["models"]]
    with up.load(1.5, "--model", "rare", "--added", "2"):
        pass

    assert len(holders) == 1


def test_the_live_page_of_each_server_shows_all(up: Fleet) -> None:
    there = {server["number"]: (server["host"], server["rest_port"]) for server in up.look()["servers"]}

    def is_told(number: int) -> bool:
        told = first_sample(*there[number])["fleet"]
        servers = told["status"]["servers"] if told["status"] else ()
        return bool({each["number"] for each in servers if each["state"] == "ready"} == there.keys())

    assert len(there) == 2
    for number in there:
        eventually(lambda: is_told(number), 20, f"what server {number} shows")  # noqa: B023


def test_a_model_that_is_on_no_server_is_loaded_when_it_is_asked_for(up: Fleet) -> None:
    assert not any("seldom" in server["models"] for server in up.look()["servers"])
    values = {"name": "x", "datatype": "FP32", "shape": [1, 10], "data": list(range(10))}

    def answer() -> list[float]:
        with contextlib.closing(http.client.HTTPConnection(up.target, timeout=10)) as connection:
            connection.request("POST", "/v2/models/seldom/infer", json.dumps({"inputs": [values]}))
            found: dict[str, Any] = json.loads(connection.getresponse().read())
        if "error" in found:
            assert "no server of the fleet" in found["error"], "what it says until then"
            return []
        return list(found["outputs"][0]["data"])

    assert eventually(answer, 30, "an answer") == [2.0 + index for index in range(10)]
    with up.load(1, "--model", "seldom", "--added", "2"):
        pass


def test_a_call_that_would_change_one_server_is_refused(up: Fleet) -> None:
    connection = http.client.HTTPConnection(up.target, timeout=10)
    connection.request("POST", "/v2/repository/models/tiny/unload")
    answer = connection.getresponse()
    text = json.loads(answer.read())["error"]
    connection.close()
    with grpc.insecure_channel(up.target) as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/RepositoryModelUnload",
            request_serializer=kserve.RepositoryModelUnloadRequest.SerializeToString,
            response_deserializer=None,
        )
        with pytest.raises(grpc.RpcError) as refused:
            call(kserve.RepositoryModelUnloadRequest(model_name="tiny"), timeout=10)

    assert (answer.status, "ovms_mp fleet update" in text) == (403, True)
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_another_model_replaces_one_and_no_request_fails(up: Fleet) -> None:
    before = {server["pid"] for server in up.look()["servers"]}
    with up.load(20, "--added", "1,2") as clients:
        up.update(model=up.other_model)
    assert min(clients.seen["counts"][f"added {each}"] for each in (1, 2)) > 0

    with up.load(1, "--added", "1" if up.other_model == "plus_two" else "2"):
        pass
    assert {server["pid"] for server in up.status["servers"]} == before, "no server was replaced"


def test_a_consistent_update_changes_over_at_once_and_no_request_fails(up: Fleet) -> None:
    with up.load(60, "--added", "1,2", "--pause", "0.001") as clients:
        up.update(model=up.other_model, consistent="true")
        eventually(lambda: len(up.look()["servers"]) == 2, 60, "the old servers have ended")
        clients.stop()
    up.update(consistent="false")

    assert len(clients.seen["changes"]) == 8, "once for each thread"


def test_other_flags_replace_servers_and_no_request_fails(up: Fleet) -> None:
    before = {server["pid"] for server in up.look()["servers"]}
    with up.load(25, "--added", "1,2"):
        up.update(level="DEBUG")

    assert not {server["pid"] for server in up.status["servers"]} & before


def test_servers_follow_the_load_and_no_request_fails(up: Fleet) -> None:
    up.update(least=1, most=3)
    eventually(lambda: len(up.look()["servers"]) == 1, 60, "one server without load")
    with up.load(30, "--added", "1,2", "--each", "8", "--pause", "0"):
        eventually(
            lambda: sum(s["state"] == "ready" for s in up.look()["servers"]) == 3, 30, "three under load"
        )

    with up.load(30, "--added", "1,2", "--each", "1", "--pause", "0.5"):
        eventually(lambda: len(up.look()["servers"]) == 1, 60, "one again")
