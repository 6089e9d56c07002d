# SPDX-License-Identifier: Apache-2.0
"""Messages as large as OVMS's clients send them, and the limits that refuse larger ones by their names."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.support import rest_client
from tests.support.ledger import Ledger
from tests.support.server import Server
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.models import ModelZoo
    from tests.support.tfs_client import TfsClient

MEBIBYTE = 1 << 20
GIBIBYTE = 1 << 30
MAX_MESSAGE_MB = 8
ARENA_MB = 4
REST_BODY_BYTES = 64 * MEBIBYTE


@pytest.fixture(scope="module")
def small_server(zoo: ModelZoo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with an arena of 4 MiB for messages of up to 8 MiB."""
    directory = tmp_path_factory.mktemp("large")
    config = zoo.config_file(directory, ["id_u8", "id_f64", "nonzero"])
    limits = ["--arena_size_mb", str(ARENA_MB), "--max_message_mb", str(MAX_MESSAGE_MB)]
    before = Ledger.take()
    with Server(["config", "--config_path", str(config), *limits], directory / "server.log") as server:
        yield server
    eventually(lambda: not Ledger.take().leaks(before), 5.0, f"nothing left behind: {Ledger.take().leaks(before)}")


def large_call(port: int, nbytes: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.large_call", str(port), str(nbytes)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=110,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_one_gibibyte_over_grpc_with_default_limits(shared_server: Server) -> None:
    """There and back, bit for bit; the fronts stay alive over it and give the memory back."""
    fronts = shared_server.pids("grpc")
    answer = large_call(shared_server.port, GIBIBYTE)
    assert (answer["code"], answer["is_equal"]) == ("OK", True), answer
    assert shared_server.pids("grpc") == fronts


@pytest.mark.parametrize("nbytes", [2 * MEBIBYTE - 64, 2 * MEBIBYTE])
def test_request_that_just_fits_the_arena(nbytes: int, small_server: Server) -> None:
    """In and out together are the arena's size."""
    answer = large_call(small_server.port, nbytes)
    assert (answer["code"], answer["is_equal"]) == ("OK", True), answer


def test_arena_too_small_is_named(small_server: Server) -> None:
    nbytes = 2 * MEBIBYTE + 1
    answer = large_call(small_server.port, nbytes)
    assert answer["code"] == "RESOURCE_EXHAUSTED"
    assert "--arena_size_mb" in answer["details"]
    assert str(ARENA_MB * MEBIBYTE) in answer["details"]
    # 8 bytes an element in the arena and 2 in JSON.
    body = json.dumps({"inputs": [0] * (nbytes // 8)})
    reply = rest_client.request(small_server.rest_port, "POST", "/v1/models/id_f64:predict", body)
    assert reply.status == 413
    assert "--arena_size_mb" in reply.text()


def test_outputs_too_large_for_the_arena_are_refused_too(small_server: Server, tfs: TfsClient) -> None:
    """Only the run can tell that 1.2 MB of input have 2.4 MB of output, which do not fit beside it with the first guess."""
    ones = np.ones(400_000, np.float32)
    reply = tfs.predict(small_server.port, "nonzero", {"x": ones})
    assert reply.code == "RESOURCE_EXHAUSTED"
    assert "--arena_size_mb" in reply.details
    few = np.zeros(400_000, np.float32)
    assert tfs.predict(small_server.port, "nonzero", {"x": few}).code == "OK"


def test_message_above_the_limit_is_refused(small_server: Server) -> None:
    answer = large_call(small_server.port, MAX_MESSAGE_MB * MEBIBYTE + 1)
    assert answer["code"] == "RESOURCE_EXHAUSTED"
    reply = rest_client.request(
        small_server.rest_port, "POST", "/v1/models/id_u8:predict", b" " * (MAX_MESSAGE_MB * MEBIBYTE + 1)
    )
    assert reply.status == 413
    assert "--max_message_mb" in reply.text()
    chunks = [b" " * MEBIBYTE] * (MAX_MESSAGE_MB + 1)
    chunked = rest_client.request_chunked(small_server.rest_port, "/v1/models/id_u8:predict", chunks)
    assert chunked.status == 413
    assert rest_client.predict(small_server.rest_port, "id_u8", {"inputs": [1, 2]}).json() == {"outputs": [1, 2]}


def test_rest_body_of_64_mebibytes(shared_server: Server) -> None:
    """Every number is read back as it was sent."""
    values = np.random.default_rng(64).random(REST_BODY_BYTES // 20)
    body = json.dumps({"inputs": values.tolist()})
    body += " " * (REST_BODY_BYTES - len(body))
    reply = rest_client.request(shared_server.rest_port, "POST", "/v1/models/id_f64:predict", body)
    assert reply.status == 200, reply.text()[:300]
    assert np.array(reply.json()["outputs"]).tobytes() == values.tobytes()
