# SPDX-License-Identifier: Apache-2.0
"""Versions that come, fail and go while one server runs; each test has a model of its own in it."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.support import rest_client
from tests.support.ledger import Ledger, assert_nothing_left
from tests.support.server import Server
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.models import ModelZoo
    from tests.support.tfs_client import TfsClient

X = np.arange(10, dtype=np.float32)[None]
NOTICED_S = 15.0
ALL: dict[str, Any] = {"all": {}}
POLICIES: dict[str, dict[str, Any] | None] = {
    "highest": None,
    "both": ALL,
    "only_one": {"specific": {"versions": [1, 9]}},
    "failing": None,
    "growing": None,
    "shrinking": ALL,
    "vanishing": None,
    "repaired": None,
}


@dataclass(frozen=True)
class Repository:
    """The server and the place of its models."""

    server: Server
    root: Path

    def states(self, model: str) -> dict[int, tuple[str, str, str]]:
        """State, error code and message of each version, from the status document."""
        document = rest_client.request(self.server.rest_port, "GET", f"/v1/models/{model}").json()
        return {
            int(entry["version"]): (
                entry["state"],
                entry["status"]["error_code"],
                entry["status"]["error_message"],
            )
            for entry in document["model_version_status"]
        }

    def wait_for(self, model: str, version: int, state: str) -> None:
        """Until the version has that state."""
        eventually(
            lambda: self.states(model).get(version, ("",))[0] == state,
            NOTICED_S,
            f"{model} {version} {state}",
        )


@pytest.fixture(scope="module")
def repository(zoo: ModelZoo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repository]:
    """A server that looks five times a second."""
    root = tmp_path_factory.mktemp("versions")
    for model in POLICIES:
        zoo.install("tiny", root / model, 1)
    for model in ("highest", "both", "only_one", "shrinking"):
        zoo.install("plus_two", root / model, 2)
    break_version(root / "failing", 2)
    break_version(root / "repaired", 2)
    entries: list[dict[str, Any]] = [
        {"name": model, "base_path": str(root / model), "model_version_policy": policy}
        for model, policy in POLICIES.items()
    ]
    config = root / "config.json"
    config.write_text(json.dumps({"model_config_list": [{"config": entry} for entry in entries]}))
    before = Ledger.take()
    arguments = ["config", "--config_path", str(config), "--file_system_poll_wait_seconds", "0.2"]
    with Server(arguments, root / "server.log") as server:
        yield Repository(server, root)
    assert_nothing_left(before)


def break_version(base_path: Path, version: int) -> None:
    directory = base_path / str(version)
    directory.mkdir(parents=True)
    (directory / "model.xml").write_text("<net></net>")
    (directory / "model.bin").write_bytes(b"\0" * 64)


def served_by_default(repository: Repository, tfs: TfsClient, model: str) -> int:
    reply = tfs.predict(repository.server.port, model, {"x": X})
    assert reply.code == "OK", reply.details
    version = int(reply.response["modelSpec"]["version"])
    assert reply.outputs()["y"].tolist() == (X + version).tolist()
    return version


def test_highest_version_is_served(repository: Repository, tfs: TfsClient) -> None:
    """Under the default policy, and it alone."""
    assert served_by_default(repository, tfs, "highest") == 2
    reply = tfs.predict(repository.server.port, "highest", {"x": X}, version=1)
    assert reply.code == "NOT_FOUND"
    assert "Servable not found for request: Specific(highest, 1)" in reply.details
    assert repository.states("highest") == {2: ("AVAILABLE", "OK", "")}


def test_each_version_answers_for_itself(repository: Repository, tfs: TfsClient) -> None:
    assert served_by_default(repository, tfs, "both") == 2
    for version in (1, 2):
        reply = tfs.predict(repository.server.port, "both", {"x": X}, version=version)
        assert reply.outputs()["y"].tolist() == (X + version).tolist()
        assert reply.response["modelSpec"]["version"] == str(version)
        answer = rest_client.predict(repository.server.rest_port, "both", {"inputs": X.tolist()}, version)
        assert answer.json() == {"outputs": (X + version).tolist()}


def test_specific_policy_serves_what_it_names(repository: Repository, tfs: TfsClient) -> None:
    assert served_by_default(repository, tfs, "only_one") == 1
    assert repository.states("only_one") == {1: ("AVAILABLE", "OK", "")}


def test_previous_version_serves_when_the_newest_fails(repository: Repository, tfs: TfsClient) -> None:
    """And the status says why."""
    assert served_by_default(repository, tfs, "failing") == 1

    def is_told() -> bool:
        # While the load is tried again, its last error is not shown.
        states = repository.states("failing")
        assert states[1] == ("AVAILABLE", "OK", "")
        state, code, message = states[2]
        return (state, code) == ("LOADING", "UNKNOWN") and "model.xml" in message

    eventually(is_told, NOTICED_S, "the failed version is LOADING with its reason")
    named = tfs.predict(repository.server.port, "failing", {"x": X}, version=2)
    assert named.code == "UNAVAILABLE"


def test_repaired_version_takes_over(repository: Repository, tfs: TfsClient, zoo: ModelZoo) -> None:
    assert served_by_default(repository, tfs, "repaired") == 1
    shutil.rmtree(repository.root / "repaired" / "2")
    zoo.install("plus_two", repository.root / "repaired", 2)
    repository.wait_for("repaired", 2, "AVAILABLE")
    assert served_by_default(repository, tfs, "repaired") == 2
    repository.wait_for("repaired", 1, "END")


def test_new_version_takes_over_while_requests_run(
    repository: Repository, tfs: TfsClient, zoo: ModelZoo
) -> None:
    """No request fails, none has an answer of the wrong version, and never does an older one follow a newer one."""
    server = repository.server
    seen: list[int] = []
    by_rest: list[list[list[float]]] = []

    def ask() -> bool:
        calls = [tfs.start_predict(server.port, "growing", {"x": X}) for _ in range(8)]
        answer = rest_client.predict(server.rest_port, "growing", {"inputs": X.tolist()})
        assert answer.status == 200, answer.text()
        by_rest.append(answer.json()["outputs"])
        for call in calls:
            reply = call.wait()
            assert reply.code == "OK", reply.details
            version = int(reply.response["modelSpec"]["version"])
            assert reply.outputs()["y"].tolist() == (X + version).tolist()
            seen.append(version)
        states = repository.states("growing")
        return states[1][0] == "END" and states.get(2, ("",))[0] == "AVAILABLE"

    assert not ask()
    zoo.install("plus_two", repository.root / "growing", 2)
    eventually(ask, NOTICED_S, "version 2 has followed version 1")
    assert ask()  # The switch may have come after the last answers.
    assert not [pair for pair in pairwise(seen) if pair[0] > pair[1]]
    assert set(seen) == {1, 2}
    assert by_rest[-1] == (X + 2).tolist()


def test_removed_version_ends_and_the_other_serves(repository: Repository, tfs: TfsClient) -> None:
    assert served_by_default(repository, tfs, "shrinking") == 2
    shutil.rmtree(repository.root / "shrinking" / "2")
    repository.wait_for("shrinking", 2, "END")
    assert served_by_default(repository, tfs, "shrinking") == 1
    gone = tfs.predict(repository.server.port, "shrinking", {"x": X}, version=2)
    assert gone.code == "NOT_FOUND"
    assert "Specific(shrinking, 2)" in gone.details


def test_base_path_that_vanishes_and_comes_back(repository: Repository, tfs: TfsClient) -> None:
    base_path, elsewhere = repository.root / "vanishing", repository.root / "moved_away"
    assert served_by_default(repository, tfs, "vanishing") == 1
    base_path.rename(elsewhere)
    repository.wait_for("vanishing", 1, "END")
    assert tfs.predict(repository.server.port, "vanishing", {"x": X}).code == "NOT_FOUND"
    elsewhere.rename(base_path)
    repository.wait_for("vanishing", 1, "AVAILABLE")
    assert served_by_default(repository, tfs, "vanishing") == 1
