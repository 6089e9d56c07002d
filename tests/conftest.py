# SPDX-License-Identifier: Apache-2.0
"""Fixtures of all tests.

Session and module fixtures are set up before a test's own, so what outlives a test is in its ledger from the
beginning.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from ovms_mp.demo import digits
from tests.support.ledger import MARK, Ledger, assert_nothing_left
from tests.support.models import ModelZoo, build_resnet50, run_builder
from tests.support.server import Server
from tests.support.tfs_client import TfsClient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

os.environ[MARK[0]] = MARK[1]
PROCESS_TESTS = ("integration", "fault", "conformance")


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> ModelZoo:
    """Small real models, built once by a process of its own."""
    return ModelZoo.build(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="session")
def resnet50(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base path of the ResNet-50 topology with fixed random weights."""
    return build_resnet50(tmp_path_factory.mktemp("resnet50"))


@pytest.fixture(scope="session")
def formats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base paths of one model in formats that are not OpenVINO's; TensorFlow takes half a minute for them."""
    return run_builder("tests.support.build_formats", tmp_path_factory.mktemp("formats"))


@pytest.fixture(scope="session")
def settings_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base paths of the models that only the settings need."""
    return run_builder("tests.support.build_settings_models", tmp_path_factory.mktemp("settings_models"))


@pytest.fixture(scope="session")
def shared_server(
    zoo: ModelZoo, resnet50: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """One server for all tests that only ask: every model of the zoo but the slow one, and more.

    ``resnet50`` and ``digits``; ``versions``: 1 is tiny, 3 is plus_two, both served; ``broken``: its one version
    cannot be read; ``absent``: its base path does not exist; ``org/tiny``, ``modèle b``: tiny.
    Two fronts of each protocol.
    """
    directory = tmp_path_factory.mktemp("shared_server")
    zoo.install("tiny", directory / "versions", 1)
    zoo.install("plus_two", directory / "versions", 3)
    broken = directory / "broken" / "1"
    broken.mkdir(parents=True)
    (broken / "model.xml").write_text("this is no model")
    (broken / "model.bin").write_bytes(b"")
    base_paths = {
        **{path.name: path for path in sorted(zoo.root.iterdir()) if path.name != "slow"},
        "resnet50": resnet50,
        "digits": digits.model_directory(),
        "versions": directory / "versions",
        "broken": directory / "broken",
        "absent": directory / "absent",
        "org/tiny": zoo.base_path("tiny"),
        "modèle b": zoo.base_path("tiny"),
    }
    entries: list[dict[str, object]] = [
        {"name": name, "base_path": str(path)} for name, path in base_paths.items()
    ]
    next(entry for entry in entries if entry["name"] == "versions")["model_version_policy"] = {"all": {}}
    config = directory / "config.json"
    config.write_text(json.dumps({"model_config_list": [{"config": entry} for entry in entries]}))
    before = Ledger.take()
    with Server(
        ["config", "--config_path", str(config)], directory / "server.log", grpc_workers=2, rest_workers=2
    ) as server:
        yield server
    assert_nothing_left(before)


@pytest.fixture(scope="session")
def tfs() -> Iterator[TfsClient]:
    """The real TensorFlow Serving client; one process serves any number of servers."""
    with TfsClient() as client:
        yield client


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    """Where a test's server logs."""
    return tmp_path / "server.log"


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a process test that leaves a process, a socket, shared memory or a descriptor behind."""
    path = str(request.path)
    if not any(f"/tests/{kind}/" in path for kind in PROCESS_TESTS):
        yield
        return
    before = Ledger.take()
    yield
    assert_nothing_left(before, count_descriptors=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add our options."""
    parser.addoption(
        "--fault-seconds", default="8", help="how long each fault test injects faults (full run: 60)"
    )
    parser.addoption(
        "--graphs",
        type=int,
        default=300,
        help="how many random graphs are compared with the engine (full run: 10000)",
    )
