# SPDX-License-Identifier: Apache-2.0
"""Statistics as both forms of KServe's API give them."""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import TYPE_CHECKING, Any, cast

import pytest
from google.protobuf.json_format import MessageToDict

from ovms_mp.errors import (
    MalformedPayload,
    ModelNotFound,
    ModelNotReady,
    OvmsError,
    UnsupportedOperation,
    VersionNotFound,
)
from ovms_mp.front.kserve._proto import kserve_pb2 as kserve
from ovms_mp.front.kserve.statistics import methods, rest
from ovms_mp.front.metrics.page import MetricsPage
from ovms_mp.front.routing import RoutingTable
from ovms_mp.front.served_protocol import MessageParts
from ovms_mp.model.status import State
from ovms_mp.wire.arena import create_arena_file
from ovms_mp.wire.counters import CounterRow, create_counters_file
from ovms_mp.wire.messages import RoutingSnapshot
from ovms_mp.wire.records import CountersHandle, ModelRecord, TensorSpecRecord, VersionRecord
from ovms_mp.wire.version_counters import VersionCounters
from tests.unit.front.core import MIB, Core
from tests.unit.front.workers import context

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ovms_mp.front.endpoints import RestRequest
    from ovms_mp.front.live.feed import PageFeed
    from ovms_mp.front.methods import Unary
    from ovms_mp.front.service import Service

SPECS = (TensorSpecRecord("x", "FP32", ((1, 4), (10, 10))),)


def version(number: int, state: State, page: int, *, has_served: bool = True) -> VersionRecord:
    specs = SPECS if has_served else ()
    return VersionRecord(number, state, 0, "", number, (), 1, "", specs, specs, counters=page)


MODELS = (
    ModelRecord(
        "a/b",
        3,
        (
            version(1, State.UNLOADING, 1),
            version(2, State.LOADING, 2),  # Its worker has died.
            version(3, State.AVAILABLE, 3),
            version(4, State.LOADING, 4, has_served=False),
            version(5, State.END, 0),
        ),
    ),
    ModelRecord("new", 1, (version(1, State.LOADING, 5, has_served=False),)),
    ModelRecord("one too many", 1, (version(1, State.AVAILABLE, 0),)),
    ModelRecord("nothing", 0, ()),
)


class Request:
    """What the handlers ask of a request."""

    def __init__(self, raw_path: str) -> None:
        self.raw_path = raw_path.encode()


class Front:
    """A REST front and what a gRPC front is made of, on one service."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.metrics = MetricsPage((), ())
        self.page = cast("PageFeed", None)

    async def rest(self, path: str) -> Any:
        """The document."""
        (all_models,) = rest.routes(self)
        endpoint = all_models.find("GET", b"") if path == all_models.template else None
        endpoint = endpoint or rest.model_endpoints(self)["stats", "GET"]
        answer = await endpoint.handler(cast("RestRequest", Request(path)), context())
        assert (answer.status, answer.content_type) == (200, "application/json")
        assert isinstance(answer.body, bytes)
        return json.loads(answer.body)

    async def grpc(self, name: str, number: str) -> kserve.ModelStatisticsResponse:
        """The message."""
        parts = cast("MessageParts", self)
        (method,) = methods.methods(parts)
        message = kserve.ModelStatisticsRequest(name=name, version=number).SerializeToString()
        reply = await cast("Unary", method).handler(message, context())
        assert method.path == "/inference.GRPCInferenceService/ModelStatistics"
        return kserve.ModelStatisticsResponse.FromString(cast("bytes", reply))


@pytest.fixture
def descriptors() -> Iterator[tuple[int, CountersHandle]]:
    arena, counters = create_arena_file(0, MIB), create_counters_file(2)
    yield arena, counters
    os.close(arena)
    os.close(counters.descriptor)


def make_front(descriptors: tuple[int, CountersHandle]) -> Front:
    """Versions 2 and 3 have been asked."""
    arena, counters = descriptors
    service = Core(arena, counters=counters).service
    service.replace_table(
        RoutingTable(RoutingSnapshot(1, False, (), (), MODELS), service.counting.counters_of)
    )
    three = service.table.model("a/b").versions[3].counters
    worker = VersionCounters(CounterRow(counters, 1), three.page)
    now_ns = time.monotonic_ns()
    for batch_size in (2, 1, 2):
        three.answered(now_ns, now_ns + 100, now_ns + 800, now_ns + 1000, 30, 500, batch_size)
    worker.executed(1, 1, 400)
    worker.executed(4, 2, 700)
    three.failed(50)
    three.cancelled(5)
    worker.executed()
    service.table.model("a/b").versions[2].counters.failed(7)
    return Front(service)


def duration(count: int, ns: int) -> dict[str, int]:
    return {"count": count, "ns": ns}


def computes(count: int) -> dict[str, dict[str, int]]:
    return {
        "compute_input": duration(count, 100 * count),
        "compute_infer": duration(count, 500 * count),
        "compute_output": duration(count, 200 * count),
    }


def test_what_was_counted_is_told_in_the_words_of_the_extension(
    descriptors: tuple[int, CountersHandle],
) -> None:
    async def body() -> None:
        front = make_front(descriptors)
        document = await front.rest("/v2/models/a/b/versions/3/stats")
        (found,) = document["model_stats"]
        assert abs(time.time() * 1000 - found.pop("last_inference")) < 60_000
        assert found == {
            "name": "a/b",
            "version": "3",
            "inference_count": 5,
            "execution_count": 3,
            "inference_stats": {
                "success": duration(3, 3000),
                "fail": duration(2, 55),
                "queue": duration(3, 90),
                **computes(3),
                "cache_hit": duration(0, 0),
                "cache_miss": duration(0, 0),
            },
            "batch_stats": [
                {
                    "batch_size": 1,
                    "compute_input": duration(1, 100),
                    "compute_infer": duration(1, 400),
                    "compute_output": duration(1, 200),
                },
                {
                    "batch_size": 4,
                    "compute_input": duration(1, 200),
                    "compute_infer": duration(1, 700),
                    "compute_output": duration(1, 400),
                },
            ],
        }

    asyncio.run(body())


def test_both_forms_say_the_same(descriptors: tuple[int, CountersHandle]) -> None:
    async def body() -> None:
        front = make_front(descriptors)
        message = await front.grpc("a/b", "")
        by_grpc = MessageToDict(
            message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        by_rest = await front.rest("/v2/models/a%2Fb/stats")

        def texts(value: Any) -> Any:
            """Numbers of 64 bits are strings in protobuf's JSON."""
            match value:
                case dict():
                    return {key: texts(entry) for key, entry in value.items() if key != "last_inference"}
                case list():
                    return [texts(entry) for entry in value]
                case _:
                    return str(value)

        assert texts(by_grpc) == texts(by_rest)

    asyncio.run(body())


@pytest.mark.parametrize(
    ("path", "name", "number", "expected"),
    [
        ("/v2/models/stats", "", "", [("a/b", "2"), ("a/b", "3")]),
        ("/v2/models/a/b/stats", "a/b", "", [("a/b", "2"), ("a/b", "3")]),
        ("/v2/models/a/b/versions/0/stats", "a/b", "0", [("a/b", "2"), ("a/b", "3")]),
        ("/v2/models/a/b/versions/2/stats", "a/b", "2", [("a/b", "2")]),
    ],
)
def test_versions_that_are_meant(
    descriptors: tuple[int, CountersHandle],
    path: str,
    name: str,
    number: str,
    expected: list[tuple[str, str]],
) -> None:
    async def body() -> None:
        front = make_front(descriptors)
        document = await front.rest(path)
        assert [(entry["name"], entry["version"]) for entry in document["model_stats"]] == expected
        message = await front.grpc(name, number)
        assert [(entry.name, entry.version) for entry in message.model_stats] == expected

    asyncio.run(body())


@pytest.mark.parametrize(
    ("name", "number", "error"),
    [
        ("c", "", ModelNotFound),
        ("a/b", "9", VersionNotFound),
        ("a/b", "1", VersionNotFound),
        ("a/b", "5", VersionNotFound),
        ("a/b", "4", ModelNotReady),
        ("a/b", "x", MalformedPayload),
        ("a/b", "-1", MalformedPayload),
        ("", "1", MalformedPayload),
        ("new", "", ModelNotReady),
        ("nothing", "", VersionNotFound),
        ("one too many", "1", UnsupportedOperation),
    ],
)
def test_what_there_are_no_statistics_of(
    descriptors: tuple[int, CountersHandle], name: str, number: str, error: type[OvmsError]
) -> None:
    async def body() -> None:
        front = make_front(descriptors)
        with pytest.raises(error):
            await front.grpc(name, number)
        if name:
            with pytest.raises(error):
                await front.rest(f"/v2/models/{name}" + (f"/versions/{number}" if number else "") + "/stats")

    asyncio.run(body())
