# SPDX-License-Identifier: Apache-2.0
"""A server with all that clients of KServe v2 may ask for, and the environment that the clients run in."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support import client_process
from tests.support.ledger import Ledger, assert_nothing_left
from tests.support.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.support.models import ModelZoo


@pytest.fixture(scope="session")
def clients_python(pytestconfig: pytest.Config) -> Path:
    """The Python that has the client libraries."""
    cache = pytestconfig.cache
    assert cache is not None
    return client_process.install(cache.mkdir("clients"))


@pytest.fixture(scope="module")
def command(request: pytest.FixtureRequest, clients_python: Path) -> Sequence[str | Path]:
    """What runs the module's ``SCRIPT``."""
    return clients_python, client_process.SCRIPTS / f"{request.module.SCRIPT}.py"


@pytest.fixture(scope="module", params=["native"])
def outcomes(
    request: pytest.FixtureRequest,
    zoo: ModelZoo,
    command: Sequence[str | Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, str]]:
    """How each case of the module's ``command`` ended, by a server with the gRPC front of the parameter.

    ``versions``: 1 is tiny, 3 is plus_two, both served; ``broken`` cannot be read; ``org/tiny``, ``modèle b``: tiny.
    """
    directory = tmp_path_factory.mktemp("clients")
    zoo.install("tiny", directory / "versions", 1)
    zoo.install("plus_two", directory / "versions", 3)
    broken = directory / "broken" / "1"
    broken.mkdir(parents=True)
    (broken / "model.xml").write_text("this is no model")
    (broken / "model.bin").write_bytes(b"")
    base_paths = {path.name: path for path in sorted(zoo.root.iterdir()) if path.name != "slow"}
    base_paths |= {"org/tiny": zoo.base_path("tiny"), "modèle b": zoo.base_path("tiny")}
    base_paths |= {name: directory / name for name in ("versions", "broken")}
    entries: dict[str, dict[str, object]] = {
        name: {"name": name, "base_path": str(path)} for name, path in base_paths.items()
    }
    entries["versions"]["model_version_policy"] = {"all": {}}
    config = directory / "config.json"
    config.write_text(json.dumps({"model_config_list": [{"config": entry} for entry in entries.values()]}))
    flags = ("--config_path", str(config), "--allow_client_shm", "--grpc_front", request.param)
    before = Ledger.take()
    with Server(["config", *flags], directory / "server.log", grpc_workers=2, rest_workers=2) as server:
        yield client_process.run_cases(command, server)
    assert_nothing_left(before)
