# SPDX-License-Identifier: Apache-2.0
"""Deadlines, clients that give up, and bounds: each caller is answered in time and nothing stays leased.

The arena is as long as one request for ``id_u8`` with ``FILLING`` in and out, so such a request succeeds exactly when
no other lease is left in its front.
"""

from __future__ import annotations

import contextlib
import json
import socket
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support import rest_client
from tests.support.ledger import Ledger, assert_nothing_left
from tests.support.server import Server
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.models import ModelZoo
    from tests.support.tfs_client import Call, Reply, TfsClient

FILLING = np.arange(1 << 19, dtype=np.uint32).astype(np.uint8)
ONE = {"x": np.ones(1, np.float32)}
MAX_QUEUE_TASKS = 2
PATIENCE_S = 20.0
"""A slow run takes one second here; on a busy machine a few."""


@pytest.fixture(scope="module")
def server(zoo: ModelZoo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One front each, arenas of 1 MiB, one infer request, and room for two waiting requests."""
    directory = tmp_path_factory.mktemp("deadlines")
    config = zoo.config_file(directory, ["slow", "id_u8", "tiny"], nireq=1)
    limits = ["--arena_size_mb", "1", "--max_queue_tasks", str(MAX_QUEUE_TASKS)]
    before = Ledger.take()
    with Server(["config", "--config_path", str(config), *limits], directory / "server.log") as server:
        yield server
    assert_nothing_left(before)


@pytest.fixture(autouse=True)
def whole_arenas(server: Server, tfs: TfsClient) -> Iterator[None]:
    """Before and after each test a request that needs all of an arena succeeds in both fronts, which live on."""
    fronts = server.pids("grpc"), server.pids("rest")
    assert_arenas_are_free(server, tfs)
    yield
    assert_arenas_are_free(server, tfs)
    assert fronts == (server.pids("grpc"), server.pids("rest"))


def assert_arenas_are_free(server: Server, tfs: TfsClient) -> None:
    body = json.dumps({"inputs": FILLING.tolist()})
    eventually(lambda: fill_grpc(server, tfs).code == "OK", PATIENCE_S, "a gRPC request has the whole arena")
    eventually(lambda: fill_rest(server, body) == 200, PATIENCE_S, "a REST request has the whole arena")


def fill_grpc(server: Server, tfs: TfsClient) -> Reply:
    reply = tfs.predict(server.port, "id_u8", {"x": FILLING})
    assert reply.code in ("OK", "RESOURCE_EXHAUSTED"), reply.details
    if reply.code == "OK":
        assert reply.outputs()["y"].tobytes() == FILLING.tobytes()
    return reply


def fill_rest(server: Server, body: str) -> int:
    reply = rest_client.request(server.rest_port, "POST", "/v1/models/id_u8:predict", body)
    assert reply.status in (200, 429), reply.text()
    return reply.status


def test_grpc_deadline_ends_the_call_in_time(server: Server, tfs: TfsClient) -> None:
    reply = tfs.predict(server.port, "slow", ONE, timeout_s=0.2)
    assert reply.code == "DEADLINE_EXCEEDED"
    assert reply.seconds > 0.15
    assert tfs.predict(server.port, "tiny", {"x": np.zeros((1, 10), np.float32)}).code == "OK"


def test_memory_is_leased_as_long_as_the_worker_may_write(server: Server, tfs: TfsClient) -> None:
    """The deadline ends the call, not the lease; who finds the arena in use is told so."""
    refused: list[Reply] = []

    def is_refused() -> bool:
        code = tfs.predict(server.port, "slow", ONE, timeout_s=0.2).code
        assert code in ("DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")  # The latter beside the one before it.
        reply = fill_grpc(server, tfs)
        refused.extend([reply] if reply.code == "RESOURCE_EXHAUSTED" else [])
        return bool(refused)

    eventually(is_refused, PATIENCE_S, "the arena is in use")
    assert "--arena_size_mb" in refused[0].details
    assert "try again later" in refused[0].details


def test_who_cannot_be_answered_in_time_beside_others_is_told_so(server: Server, tfs: TfsClient) -> None:
    before = [tfs.start_predict(server.port, "slow", ONE) for _ in range(2)]
    late = tfs.start_predict(server.port, "slow", ONE, timeout_s=0.4).wait()
    assert late.code == "RESOURCE_EXHAUSTED"
    assert "2 requests wait or run already" in late.details
    assert [call.wait().code for call in before] == ["OK"] * 2


def test_cancelled_call_is_dropped(server: Server, tfs: TfsClient) -> None:
    running, waiting = (tfs.start_predict(server.port, "slow", ONE) for _ in range(2))
    waiting.cancel()
    running.cancel()
    assert (running.wait().code, waiting.wait().code) == ("CANCELLED", "CANCELLED")
    # What other tests have left in the queue counts until the worker comes to it.
    eventually(lambda: tfs.predict(server.port, "slow", ONE).code == "OK", 30.0, "room in the queue")


def test_rest_client_leaves_while_it_waits(server: Server) -> None:
    body = json.dumps({"inputs": [1.0]}).encode()
    head = b"POST /v1/models/slow:predict HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % len(body)
    for _ in range(2):
        with contextlib.closing(socket.create_connection(("127.0.0.1", server.rest_port))) as connection:
            connection.sendall(head + body)
    assert rest_client.predict(server.rest_port, "tiny", {"inputs": [[0] * 10]}).status == 200


def test_rest_client_leaves_within_its_body(server: Server) -> None:
    head = b"POST /v1/models/tiny:predict HTTP/1.1\r\nHost: t\r\nContent-Length: 1000\r\n\r\n"
    for _ in range(3):
        with contextlib.closing(socket.create_connection(("127.0.0.1", server.rest_port))) as connection:
            connection.sendall(head + b'{"inputs": [[1, 2')
    assert rest_client.predict(server.rest_port, "tiny", {"inputs": [[0] * 10]}).status == 200
    assert "Traceback" not in server.log()


def test_full_queue_is_refused_at_once(server: Server, tfs: TfsClient) -> None:
    calls: list[Call] = []
    replies: list[Reply] = []
    by_rest: list[rest_client.HttpReply] = []
    body = b'{"inputs": [1.0]}'
    request = b"POST /v1/models/slow:predict HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )

    def is_refused() -> bool:
        # The last one that is refused tells that the queue is full; then it is, until the run that goes on has ended.
        calls.extend(tfs.start_predict(server.port, "slow", ONE) for _ in range(2 * MAX_QUEUE_TASKS + 3))
        replies.append(calls.pop().wait())
        if replies[-1].code == "RESOURCE_EXHAUSTED":
            # The first one has the place of one that came over gRPC, where several wait.
            connection = held.enter_context(socket.create_connection(("127.0.0.1", server.rest_port)))
            connection.sendall(request)
            by_rest.append(rest_client.predict(server.rest_port, "slow", {"inputs": [1.0]}))
        return bool(by_rest) and by_rest[-1].status == 429

    with contextlib.ExitStack() as held:
        eventually(is_refused, PATIENCE_S, "REST is refused")
    assert {reply.status for reply in by_rest} <= {200, 429}
    assert "--max_queue_tasks" in by_rest[-1].text()
    assert 1 <= int(by_rest[-1].headers["retry-after"]) <= 10 * MAX_QUEUE_TASKS
    replies += [call.wait() for call in calls]
    assert {reply.code for reply in replies} == {"OK", "RESOURCE_EXHAUSTED"}
    for reply in replies:
        if reply.code == "RESOURCE_EXHAUSTED":
            assert "--max_queue_tasks" in reply.details
