# SPDX-License-Identifier: Apache-2.0
"""Messages as large as OVMS's clients send them, and the limits that refuse larger ones by their names."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.support import rest_client
from tests.support.ledger import Ledger, assert_nothing_left
from tests.support.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.models import ModelZoo
    from tests.support.tfs_client import TfsClient

MEBIBYTE = 1 << 20
GIBIBYTE = 1 << 30
MAX_MESSAGE_MB = 8
ARENA_MB = 4
REST_BODY_BYTES = 64 * MEBIBYTE
FRONTS = ("native", "grpcio")
ONE_FRONT = FRONTS[:1]
"""For tests over REST, to which both are the same."""


@pytest.fixture(scope="module")
def ledger() -> Iterator[None]:
    """Nothing is left of all servers together: they come and go in any order."""
    before = Ledger.take()
    yield
    assert_nothing_left(before)


@pytest.fixture(scope="module", params=FRONTS)
def default_server(
    request: pytest.FixtureRequest, zoo: ModelZoo, ledger: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server with the default limits of memory, and patience with a front that copies gigabytes."""
    directory = tmp_path_factory.mktemp("large_default")
    config = zoo.config_file(directory, ["id_u8", "id_f64"])
    arguments = ["config", "--config_path", str(config), "--grpc_front", request.param]
    # A front that encodes a gigabyte is silent meanwhile, on a busy machine for longer than the default of 10 s.
    arguments += ["--heartbeat_timeout_s", "60"]
    with Server(arguments, directory / "server.log") as server:
        yield server


@pytest.fixture(scope="module", params=FRONTS)
def small_server(
    request: pytest.FixtureRequest, zoo: ModelZoo, ledger: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server with an arena of 4 MiB for messages of up to 8 MiB."""
    directory = tmp_path_factory.mktemp("large")
    config = zoo.config_file(directory, ["id_u8", "id_f64", "nonzero"])
    limits = ["--arena_size_mb", str(ARENA_MB), "--max_message_mb", str(MAX_MESSAGE_MB)]
    limits += ["--grpc_front", request.param]
    with Server(["config", "--config_path", str(config), *limits], directory / "server.log") as server:
        yield server


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


def test_one_gibibyte_over_grpc_with_default_limits(default_server: Server) -> None:
    """There and back, bit for bit, and the front stays alive over it."""
    fronts = default_server.pids("grpc")
    answer = large_call(default_server.port, GIBIBYTE)
    assert (answer["code"], answer["is_equal"]) == ("OK", True), answer
    assert default_server.pids("grpc") == fronts


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
    body = json.dumps({"inputs": [0] * (nbytes // 8 + 1)})
    reply = rest_client.request(small_server.rest_port, "POST", "/v1/models/id_f64:predict", body)
    assert reply.status == 413
    assert "--arena_size_mb" in reply.text()


def test_outputs_too_large_for_the_arena_are_refused_too(small_server: Server, tfs: TfsClient) -> None:
    """Only the run can tell that 1.6 MB of input have 3.2 MB of output, which do not fit beside it."""
    ones = np.ones(400_000, np.float32)
    reply = tfs.predict(small_server.port, "nonzero", {"x": ones})
    assert reply.code == "RESOURCE_EXHAUSTED"
    assert "--arena_size_mb" in reply.details
    assert tfs.predict(small_server.port, "nonzero", {"x": ones[:1000]}).code == "OK"


def test_message_above_the_limit_is_refused(small_server: Server) -> None:
    answer = large_call(small_server.port, MAX_MESSAGE_MB * MEBIBYTE + 1)
    assert answer["code"] == "RESOURCE_EXHAUSTED"
    reply = rest_client.predict(small_server.rest_port, "id_u8", {"inputs": [1, 2]})
    assert reply.json() == {"outputs": [1, 2]}


@pytest.mark.parametrize("small_server", ONE_FRONT, indirect=True)
@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunks"])
def test_rest_body_above_the_limit_is_refused(is_chunked: bool, small_server: Server) -> None:
    """A length that is too long is refused with the body's first byte; of chunks, the first byte too many."""
    limit = MAX_MESSAGE_MB * MEBIBYTE
    head = "POST /v1/models/id_u8:predict HTTP/1.1\r\nHost: t\r\n"
    if is_chunked:
        head += f"Transfer-Encoding: chunked\r\n\r\n{limit + 1:x}\r\n"
        sent = head.encode() + b" " * (limit + 1)
    else:
        head += f"Content-Length: {limit + 1}\r\n\r\n"
        sent = head.encode() + b" "
    address = ("127.0.0.1", small_server.rest_port)
    with contextlib.closing(socket.create_connection(address, timeout=30)) as connection:
        connection.sendall(sent)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer.lower()
    assert b"--max_message_mb" in answer


@pytest.mark.parametrize("default_server", ONE_FRONT, indirect=True)
def test_rest_body_of_64_mebibytes(default_server: Server) -> None:
    """Every number is read back as it was sent."""
    values = np.random.default_rng(64).random(REST_BODY_BYTES // 20)
    body = json.dumps({"inputs": values.tolist()})
    body += " " * (REST_BODY_BYTES - len(body))
    reply = rest_client.request(default_server.rest_port, "POST", "/v1/models/id_f64:predict", body)
    assert reply.status == 200, reply.text()[:300]
    assert np.array(reply.json()["outputs"]).tobytes() == values.tobytes()
