# SPDX-License-Identifier: Apache-2.0
"""The other of the two gRPC fronts beside the server that all tests share."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import pytest

from ovms_mp.config.transports import GrpcConfig
from tests.support import rest_client
from tests.support.ledger import Ledger, assert_nothing_left
from tests.support.server import Server
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FRONTS = ("native", "grpcio")


@pytest.fixture(scope="session")
def fronts(shared_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Server]]:
    """Servers of the same models by what carries their gRPC; the shared one has the default, the other one sockets."""
    default = GrpcConfig().front
    (other,) = (front for front in FRONTS if front != default)
    directory = tmp_path_factory.mktemp(other)
    # It has no sockets of its own.
    hosts = ("--grpc_bind_address", "127.0.0.1", "--rest_bind_address", "127.0.0.1")
    arguments = [
        *shared_server.arguments,
        "--grpc_front",
        other,
        *hosts,
        "--client_shm_socket",
        f"{directory}/shm.sock",
    ]
    before = Ledger.take()
    with Server(arguments, directory / "server.log") as server:
        for front in (shared_server, server):  # What they say is compared, so both have to have loaded all.
            eventually(functools.partial(_has_loaded_all, front), 60.0, "all versions")
        yield {default: shared_server, other: server}
    assert_nothing_left(before)


def _has_loaded_all(server: Server) -> bool:
    documents = rest_client.request(server.rest_port, "GET", "/v1/config").json()
    names = ("versions", *list(documents)[-1:])
    entries = [entry for name in names for entry in documents[name]["model_version_status"]]
    return len(entries) == len(names) + 1 and {entry["state"] for entry in entries} == {"AVAILABLE"}
