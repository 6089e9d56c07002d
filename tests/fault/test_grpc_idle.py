# SPDX-License-Identifier: Apache-2.0
"""More idle connections than a gRPC front has descriptors for: whoever has something to ask is still answered."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.support.http2_attacks import predict
from tests.support.http2_peer import PREDICT, settings
from tests.support.server import Server
from tests.support.waiting import eventually
from tests.unit.front.grpc.http2.peer import PREFACE, SETTINGS_ACK

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.models import ModelZoo

DESCRIPTORS = 256
CONNECTIONS = 600
SERVED_WITHIN_S = {"native": 10.0, "grpcio": 30.0}
"""Of grpcio's connections only those that say nothing go soon, after the ten seconds that a greeting may take."""


def ask(channel: grpc.Channel) -> bool:
    """Whether a request is answered."""
    try:
        return bool(channel.unary_unary(PREDICT, None, None)(predict("tiny", 10), timeout=5))
    except grpc.RpcError:
        return False


@pytest.mark.timeout(120)
@pytest.mark.parametrize("front", ["native", "grpcio"])
def test_idle_connections_shut_nobody_out(zoo: ModelZoo, log_path: Path, front: str) -> None:
    arguments = [
        "model",
        "--model_name",
        "tiny",
        "--model_path",
        str(zoo.base_path("tiny")),
        "--grpc_front",
        front,
    ]
    server = Server(arguments, log_path, descriptor_limit=DESCRIPTORS)
    with server, contextlib.ExitStack() as stack:
        pids = server.pids("grpc")
        options = (("grpc.use_local_subchannel_pool", 1),)
        early = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{server.port}", options))
        assert ask(early)
        for number in range(CONNECTIONS):
            with contextlib.suppress(OSError):
                idle = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 5))
                if number % 2:  # The others say nothing.
                    idle.sendall(PREFACE + settings() + SETTINGS_ACK)
        late = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{server.port}", options))
        eventually(lambda: ask(late), SERVED_WITHIN_S[front], "a new client is served")
        eventually(lambda: ask(early), SERVED_WITHIN_S[front], "an earlier client is served")
        assert server.pids("grpc") == pids
        assert "Traceback" not in server.log()
        if front == "native":
            assert 0 < server.log().count("event=connection_limit most=") < 100
            assert "closed_idle=" in server.log()
