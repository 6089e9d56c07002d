# SPDX-License-Identifier: Apache-2.0
"""Which call answers which path below ``/v1/models/``; and predict's way: the version first, then the body."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import pytest

from ovms_mp.errors import ModelNotFound
from ovms_mp.front.budget import BodyBudget
from ovms_mp.front.gathered import Gathered
from ovms_mp.front.metrics.page import MetricsPage
from ovms_mp.front.routing import RoutingTable
from ovms_mp.front.tfs.rest import routes
from ovms_mp.wire.messages import RoutingSnapshot
from ovms_mp.wire.records import ModelRecord, TensorSpecRecord, VersionRecord
from tests.unit.front.workers import context

if TYPE_CHECKING:
    from ovms_mp.front.endpoints import Route
    from ovms_mp.front.live.feed import PageFeed
    from ovms_mp.front.predict_request import Decode
    from ovms_mp.front.service import Service


def route_to(*names: str) -> RoutingTable:
    """A table with a version 1 of model m, whose one input has each of the names in turn: versions 1, 2 and so on."""
    versions = tuple(
        VersionRecord(
            version=number,
            state=30,
            error_code=0,
            error_message="",
            handle=number,
            endpoints=("ipc://@a",),
            nireq=1,
            detail="",
            inputs=(TensorSpecRecord(name, "FP32", ((1, 1), (2, 2))),),
            outputs=(),
        )
        for number, name in enumerate(names, start=1)
    )
    return RoutingTable(RoutingSnapshot(1, False, (), (), (ModelRecord("m", 1, versions),)))


class PlayedService:
    """Decodes for each version in turn, and answers with the names of the inputs."""

    def __init__(self, table: RoutingTable) -> None:
        self.table = table

    async def predict(self, name: str, version: int, decode: Decode, *_: Any) -> bytes:
        self.table.find(name, version)
        found = [
            list((await decode(route)).inputs)
            for model in self.table.models()
            for route in model.versions.values()
        ]
        return repr(found).encode()


class Front:
    def __init__(self, table: RoutingTable) -> None:
        self.service = cast("Service", PlayedService(table))
        self.metrics = MetricsPage((), ())
        self.page = cast("PageFeed", None)


class Request:
    """Counts how often its body is read."""

    def __init__(self, path: str, body: bytes = b"") -> None:
        self.verb, self.path, self.raw_path = "POST", path, path.encode()
        self.share = BodyBudget(1 << 20).share()
        self.bounds: list[int | None] = []
        self._body = body

    def header(self, name: str) -> str | None:
        return None

    async def read_body(self, bound_bytes: int | None) -> bytes:
        self.bounds.append(bound_bytes)
        return self._body

    async def receive_body(self, bound_bytes: int | None, least_bytes: int, make_sink: object) -> None:
        """No sink takes it."""


def model_route(table: RoutingTable) -> Route:
    (route,) = routes(Front(table))
    return route


@pytest.mark.parametrize(
    ("verb", "path", "name", "allowed"),
    [
        ("POST", "m:predict", "Predict", ("POST",)),
        ("GET", "m:predict", None, ("POST",)),
        ("PUT", "m:predict", None, ("POST",)),
        ("GET", "m", "GetModelStatus", ("GET", "HEAD")),
        ("GET", "m/versions/1", "GetModelStatus", ("GET", "HEAD")),
        ("GET", "m/metadata", "GetModelMetadata", ("GET", "HEAD")),
        ("POST", "m/metadata", None, ("GET", "HEAD")),
        ("POST", "m", "Unknown", ("GET", "HEAD")),
        ("POST", "m:classify", "Unknown", ("GET", "HEAD")),
        ("GET", "m:classify", "GetModelStatus", ("GET", "HEAD")),
        ("DELETE", "m", None, ("GET", "HEAD")),
    ],
)
def test_who_answers(verb: str, path: str, name: str | None, allowed: tuple[str, ...]) -> None:
    route = model_route(route_to("x"))
    raw_path = f"/v1/models/{path}".encode()
    endpoint = route.find(verb, raw_path)

    assert (endpoint and endpoint.name) == name
    assert endpoint is None or (endpoint.protocol, endpoint.takes_body) == ("tfs", name == "Predict")
    assert route.allowed(raw_path) == allowed


def predict(table: RoutingTable, request: Request) -> bytes | bytearray:
    endpoint = model_route(table).find("POST", request.raw_path)
    assert endpoint is not None

    async def ask() -> bytes | bytearray:
        body = (await endpoint.handler(request, context())).body
        assert not isinstance(body, Gathered)
        return body

    return asyncio.run(ask())


def test_the_body_is_read_when_there_is_a_version_for_it() -> None:
    table = route_to("x")
    request = Request("/v1/models/m:predict", b'{"inputs": [[1, 2]]}')

    assert predict(table, request) == b"[['x']]"
    assert request.bounds == [table.find("m", 1).body_bound_bytes]


def test_no_body_is_read_for_a_model_that_there_is_not() -> None:
    request = Request("/v1/models/other:predict")
    with pytest.raises(ModelNotFound):
        predict(route_to("x"), request)

    assert request.bounds == []


def test_a_body_is_read_once_for_all_versions_that_it_is_decoded_for() -> None:
    request = Request("/v1/models/m:predict", b'{"inputs": [[1, 2]]}')

    assert predict(route_to("x", "y"), request) == b"[['x'], ['y']]"
    assert len(request.bounds) == 1
