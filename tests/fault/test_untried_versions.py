# SPDX-License-Identifier: Apache-2.0
"""The first version of a server that starts is loaded by its worker at once: what if that crashes or hangs it?

The worker serves nothing then. It dies once, the version is tried like any other after that, and what comes later is
served.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support import rest_client
from tests.support.server import Server
from tests.support.version_load import install_adder
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.support.models import ModelZoo
    from tests.support.tfs_client import TfsClient

LOAD_TIMEOUT_S = 4
WITHIN_S = 60.0
X = np.arange(10, dtype=np.float32)[None]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What makes workers and probes fail; see its source."""
    gcc = shutil.which("gcc")
    assert gcc is not None
    source = Path(__file__).parents[1] / "support" / "bad_files.c"
    made = tmp_path_factory.mktemp("library") / "bad_files.so"
    command = [gcc, "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(made), str(source), "-ldl"]
    subprocess.run(command, check=True, timeout=60)
    return made


def install_bad(zoo: ModelZoo, base_path: Path, name: str) -> None:
    """Version 1, whose file name says what it does to the process that opens it."""
    good = zoo.base_path("tiny") / "1"
    (base_path / "1").mkdir(parents=True)
    for suffix in (".xml", ".bin"):
        shutil.copy(good / f"model{suffix}", base_path / "1" / f"{name}{suffix}")


def arguments(tmp_path: Path, *models: str) -> list[str]:
    entries = [{"config": {"name": model, "base_path": str(tmp_path / model)}} for model in models]
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_config_list": entries}))
    # What is only just written would have to settle while the worker gets ready, which then has it tried.
    settled = ("--settle_s", "0")
    return ["config", "--config_path", str(config), "--load_timeout_s", str(LOAD_TIMEOUT_S), *settled]


def reasons(server: Server, tfs: TfsClient, model: str) -> set[str]:
    """Why version 1 does not serve, over REST and over gRPC."""
    document = rest_client.request(server.rest_port, "GET", f"/v1/models/{model}").json()
    reply = tfs.call(server.port, "GetModelStatus", {"modelSpec": {"name": model}})
    entries = [found["model_version_status"][-1] for found in (document, reply.response)]
    assert [(entry["version"], entry["state"]) for entry in entries] == [("1", "LOADING")] * 2, entries
    return {entry["status"].get("error_message", "") for entry in entries}


def amount(server: Server, tfs: TfsClient, model: str) -> float:
    """What the served version adds, over both protocols; 0 while none serves."""
    answer = rest_client.predict(server.rest_port, model, {"inputs": X.tolist()})
    reply = tfs.predict(server.port, model, {"x": X})
    if answer.status != 200 or reply.code != "OK":
        return 0.0
    over_rest = np.asarray(answer.json()["outputs"], np.float32) - X
    over_grpc = reply.outputs()["y"].astype(np.float32) - X
    assert len({*over_rest.ravel().tolist(), *over_grpc.ravel().tolist()}) == 1
    return float(over_rest[0, 0])


def workers_spawned(server: Server) -> int:
    return server.log().count("event=spawned child=worker-")


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("name", "text", "more"),
    [
        ("abort_me", "SIGABRT", ["--cpu_workers", "2"]),
        ("crash_me", "SIGSEGV", ["--grpc_front", "grpcio"]),
        ("hang_me", f"not loaded within {LOAD_TIMEOUT_S} s (--load_timeout_s)", []),
    ],
)
def test_a_first_version_that_ends_its_worker_costs_that_one_only(
    zoo: ModelZoo,
    tfs: TfsClient,
    library: Path,
    tmp_path: Path,
    log_path: Path,
    name: str,
    text: str,
    more: list[str],
) -> None:
    install_bad(zoo, tmp_path / "m", name)
    given = [*arguments(tmp_path, "m"), *more]
    with Server(given, log_path, {"LD_PRELOAD": str(library)}) as server:
        assert "Listening, but serving nothing: m/1 (" in server.log()
        if name == "hang_me":  # Later on it is the trial's limit.
            assert text in server.log()
        else:
            eventually(
                lambda: all(text in found for found in reasons(server, tfs, "m")), WITHIN_S, "the reason"
            )
        install_adder(zoo, tmp_path / "m", 2)
        eventually(lambda: amount(server, tfs, "m") == 2, WITHIN_S, "version 2 serves")
        assert workers_spawned(server) == len(server.pids("worker")) + 1
        tfs.forget(server.port)


@pytest.mark.timeout(180)
def test_beside_a_bad_one_all_others_are_served_and_no_worker_ends(
    zoo: ModelZoo, tfs: TfsClient, library: Path, tmp_path: Path, log_path: Path
) -> None:
    for model, name in (("aborting", "abort_me"), ("crashing", "crash_me")):
        install_bad(zoo, tmp_path / model, name)
    install_adder(zoo, tmp_path / "good", 3)
    given = arguments(tmp_path, "aborting", "crashing", "good")
    with Server(given, log_path, {"LD_PRELOAD": str(library)}) as server:
        assert amount(server, tfs, "good") == 3
        for model, text in (("aborting", "SIGABRT"), ("crashing", "SIGSEGV")):
            eventually(
                lambda model=model, text=text: all(text in found for found in reasons(server, tfs, model)),  # type: ignore[misc]  # bound here
                WITHIN_S,
                "the reason is told",
            )
        assert workers_spawned(server) == 1
        tfs.forget(server.port)
