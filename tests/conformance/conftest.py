# SPDX-License-Identifier: Apache-2.0
"""The other of the two gRPC fronts beside the server that all tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ovms_mp.config import GrpcConfig
from tests.support.ledger import Ledger, assert_nothing_left
from tests.support.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FRONTS = ("wire", "grpcio")


@pytest.fixture(scope="session")
def fronts(shared_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Server]]:
    """Servers of the same models by what carries their gRPC; the shared one has the default."""
    default = GrpcConfig().front.lower()
    (other,) = (front for front in FRONTS if front != default)
    before = Ledger.take()
    with Server(
        [*shared_server.arguments, "--grpc_front", other], tmp_path_factory.mktemp(other) / "server.log"
    ) as server:
        yield {default: shared_server, other: server}
    assert_nothing_left(before)
