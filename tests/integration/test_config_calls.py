# SPDX-License-Identifier: Apache-2.0
"""Reloads on request, over REST and gRPC, of servers that do not watch: nothing changes until somebody asks."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.support import rest_client
from tests.support.ledger import Ledger, assert_nothing_left
from tests.support.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.models import ModelZoo
    from tests.support.rest_client import HttpReply
    from tests.support.tfs_client import Reply, TfsClient

X = np.arange(10, dtype=np.float32)[None]
UNREADABLE = "Config file not found or cannot open."
REJECTED = "Reloading config file failed. Check server logs for more info."
NOT_LOADED = "Reloading models versions failed. Check server logs for more info."


class Site:
    """A server, its configuration file and its models' places; starts with model ``first`` (x + 1)."""

    def __init__(self, root: Path, zoo: ModelZoo) -> None:
        self.root = root
        self.zoo = zoo
        self.config = root / "config.json"
        zoo.install("tiny", root / "first", 1)
        self.configure("first")
        arguments = ["config", "--config_path", str(self.config), "--file_system_poll_wait_seconds", "0"]
        self.server = Server(arguments, root / "server.log")

    def configure(self, *models: str, **settings: Any) -> None:
        """Write a configuration file that serves these."""
        entries = [
            {"config": {"name": model, "base_path": str(self.root / model), **settings}} for model in models
        ]
        self.config.write_text(json.dumps({"model_config_list": entries}))

    def reload(self) -> HttpReply:
        """Ask over REST."""
        return rest_client.request(self.server.rest_port, "POST", "/v1/config/reload")

    def reload_by_grpc(self, tfs: TfsClient) -> Reply:
        """Ask over gRPC."""
        return tfs.call(self.server.port, "HandleReloadConfigRequest", {})

    def document(self) -> Any:
        """What ``GET /v1/config`` answers."""
        reply = rest_client.request(self.server.rest_port, "GET", "/v1/config")
        assert reply.status == 200
        return reply.json()

    def states(self) -> dict[str, dict[int, str]]:
        """State by model and version."""
        return {
            model: {int(entry["version"]): entry["state"] for entry in status["model_version_status"]}
            for model, status in self.document().items()
        }

    def answer(self, model: str) -> Any:
        """What a model answers to X over REST."""
        reply = rest_client.predict(self.server.rest_port, model, {"inputs": X.tolist()})
        assert reply.status == 200, reply.text()
        return reply.json()["outputs"]


@pytest.fixture(scope="module")
def site(zoo: ModelZoo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    before = Ledger.take()
    site = Site(tmp_path_factory.mktemp("config_calls"), zoo)
    with site.server:
        yield site
    assert_nothing_left(before)


@pytest.fixture(autouse=True)
def as_at_the_start(site: Site) -> Iterator[None]:
    """Each test finds only the model ``first``, served."""
    yield
    site.configure("first")
    for directory in site.root.iterdir():
        if directory.is_dir() and directory.name != "first":
            shutil.rmtree(directory)
    assert site.reload().status in (200, 201)
    assert site.states()["first"] == {1: "AVAILABLE"}


def break_version(base_path: Path, version: int) -> None:
    directory = base_path / str(version)
    directory.mkdir(parents=True)
    (directory / "model.xml").write_text("<net></net>")
    (directory / "model.bin").write_bytes(b"\0" * 64)


def test_nothing_to_do(site: Site, tfs: TfsClient) -> None:
    before = site.document()
    reply = site.reload()
    assert (reply.status, reply.json()) == (200, before)
    by_grpc = site.reload_by_grpc(tfs)
    assert by_grpc.code == "OK"
    assert by_grpc.response.get("status", {}) == {}


def test_a_new_model_is_served_when_the_answer_comes(site: Site) -> None:
    """And not before anybody asked."""
    site.zoo.install("plus_two", site.root / "second", 1)
    site.configure("first", "second")
    assert set(site.states()) == {"first"}
    reply = site.reload()
    assert reply.status == 201, reply.text()
    assert reply.json() == site.document()
    assert site.states() == {"first": {1: "AVAILABLE"}, "second": {1: "AVAILABLE"}}
    assert site.answer("second") == (X + 2).tolist()
    assert site.reload().status == 200


def test_a_new_model_over_grpc(site: Site, tfs: TfsClient) -> None:
    site.zoo.install("plus_two", site.root / "by_grpc", 1)
    site.configure("first", "by_grpc")
    reply = site.reload_by_grpc(tfs)
    assert reply.code == "OK", reply.details
    answer = tfs.predict(site.server.port, "by_grpc", {"x": X})
    assert answer.outputs()["y"].tolist() == (X + 2).tolist()


def test_a_new_version_is_found_with_the_file_as_it_was(site: Site) -> None:
    site.zoo.install("tiny", site.root / "growing", 1)
    site.configure("first", "growing")
    assert site.reload().status == 201
    site.zoo.install("plus_two", site.root / "growing", 2)
    assert site.answer("growing") == (X + 1).tolist()
    assert site.reload().status == 201
    assert site.answer("growing") == (X + 2).tolist()
    assert site.states()["growing"][2] == "AVAILABLE"


def test_a_model_that_is_listed_no_more(site: Site) -> None:
    site.zoo.install("plus_two", site.root / "leaving", 1)
    site.configure("first", "leaving")
    assert site.reload().status == 201
    site.configure("first")
    assert site.reload().status == 201
    gone = rest_client.predict(site.server.rest_port, "leaving", {"inputs": X.tolist()})
    assert gone.status == 404
    assert "Servable not found for request: Specific(leaving, 0)" in gone.text()
    assert site.answer("first") == (X + 1).tolist()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"model_config_list": [', "it is not JSON"),
        ('{"model_config_list": {}}', "$.model_config_list"),
        (
            '{"model_config_list": [{"config": {"name": "n", "base_path": "p", "nireq": "many"}}]}',
            "$.model_config_list[0].config.nireq",
        ),
    ],
    ids=["no JSON", "no list", "bad value"],
)
def test_a_wrong_file_changes_nothing_and_says_why(
    site: Site, tfs: TfsClient, text: str, reason: str
) -> None:
    before = site.document()
    site.config.write_text(text)
    reply = site.reload()
    assert reply.status == 412, reply.text()
    assert reply.text().startswith(f"{REJECTED} ")
    assert reason in reply.text()
    by_grpc = site.reload_by_grpc(tfs)
    assert by_grpc.code == "FAILED_PRECONDITION"
    assert by_grpc.details.startswith(f"{REJECTED} ")
    assert reason in by_grpc.details
    after = site.document()
    # A model that is new, and refused, has a status with the reason.
    refused = after.pop("n", None)
    assert refused is None or reason in json.dumps(refused)
    assert after == before
    assert site.answer("first") == (X + 1).tolist()


def test_a_file_that_is_gone(site: Site, tfs: TfsClient) -> None:
    before = site.document()
    site.config.unlink()
    reply = site.reload()
    assert reply.status == 500
    assert reply.text().startswith(f"{UNREADABLE} ")
    assert site.config.name in reply.text()
    assert str(site.config.parent) not in reply.text()
    by_grpc = site.reload_by_grpc(tfs)
    assert (by_grpc.code, by_grpc.details.startswith(f"{UNREADABLE} ")) == ("INTERNAL", True)
    assert site.document() == before


def test_a_version_that_fails_is_the_reloads_failure(site: Site, tfs: TfsClient) -> None:
    """What served before serves on, and the status document has the reason too."""
    site.zoo.install("tiny", site.root / "failing", 1)
    site.configure("first", "failing")
    assert site.reload().status == 201
    break_version(site.root / "failing", 2)
    reply = site.reload()
    assert reply.status == 400, reply.text()
    assert reply.text().startswith(f"{NOT_LOADED} ")
    assert "failing" in reply.text()
    by_grpc = site.reload_by_grpc(tfs)
    assert by_grpc.code == "FAILED_PRECONDITION"
    assert by_grpc.details.startswith(f"{NOT_LOADED} ")
    assert site.answer("failing") == (X + 1).tolist()
    assert site.states()["failing"] == {1: "AVAILABLE", 2: "LOADING"}


def test_several_ask_at_once(site: Site) -> None:
    """All are answered, with the new model served, and one of them at least is told of the change."""
    site.zoo.install("plus_two", site.root / "many", 1)
    site.configure("first", "many")
    with ThreadPoolExecutor(8) as pool:
        replies = [call.result() for call in [pool.submit(site.reload) for _ in range(8)]]
    assert {reply.status for reply in replies} <= {200, 201}
    assert 201 in {reply.status for reply in replies}
    assert all(reply.json()["many"]["model_version_status"][0]["state"] == "AVAILABLE" for reply in replies)


def test_requests_go_on_during_a_reload(site: Site, tfs: TfsClient) -> None:
    site.zoo.install("plus_two", site.root / "beside", 1)
    site.configure("first", "beside")
    with ThreadPoolExecutor(1) as pool:
        reload = pool.submit(site.reload)
        answered = 0
        while not reload.done():
            calls = [tfs.start_predict(site.server.port, "first", {"x": X}) for _ in range(8)]
            for call in calls:
                reply = call.wait()
                assert reply.code == "OK", reply.details
                assert reply.outputs()["y"].tolist() == (X + 1).tolist()
                answered += 1
    assert reload.result().status == 201
    assert answered


def test_one_model_without_a_file(zoo: ModelZoo, tfs: TfsClient, tmp_path: Path) -> None:
    """Only the version directories are looked at."""
    base_path = tmp_path / "single"
    zoo.install("tiny", base_path, 1)
    arguments = [
        *("model", "--model_name", "single", "--model_path", str(base_path)),
        *("--file_system_poll_wait_seconds", "0"),
    ]
    with Server(arguments, tmp_path / "server.log") as server:
        unchanged = rest_client.request(server.rest_port, "POST", "/v1/config/reload")
        assert (unchanged.status, set(unchanged.json())) == (200, {"single"})
        zoo.install("plus_two", base_path, 2)
        assert rest_client.request(server.rest_port, "POST", "/v1/config/reload").status == 201
        answer = tfs.predict(server.port, "single", {"x": X})
        assert answer.outputs()["y"].tolist() == (X + 2).tolist()
    tfs.forget(server.port)
