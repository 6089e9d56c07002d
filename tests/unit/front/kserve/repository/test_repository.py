# SPDX-License-Identifier: Apache-2.0
"""The index of models, and what the manager is asked for by loads and unloads."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from ovms_mp.errors import MalformedPayload, ModelNotFound, UnsupportedOperation
from ovms_mp.front.kserve._proto import kserve_pb2 as kserve
from ovms_mp.front.kserve.repository.methods import RepositoryMethods
from ovms_mp.front.kserve.repository.rest import routes
from ovms_mp.wire.changes import LoadNamed, UnloadNamed
from ovms_mp.wire.records import ModelRecord
from tests.unit.front.kserve.state_desk import Desk, version

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ovms_mp.wire.changes import AnyChange

MODELS = (
    ModelRecord(
        "a", 2, (version(1, 50), version(2, 30, note="a note"), version(3, 20, code=2, note="no file"))
    ),
    ModelRecord("b", 0, (version(1, 50), version(2, 40)), is_unloaded=True),
    ModelRecord("c", 0, (version(1, 10),)),
    ModelRecord("d", 0, ()),
)
INDEX = [
    ("a", "1", "UNAVAILABLE", "unloaded"),
    ("a", "2", "READY", "a note"),
    ("a", "3", "UNAVAILABLE", "no file"),
    ("b", "1", "UNAVAILABLE", "unloaded by a client"),
    ("b", "2", "UNLOADING", ""),
    ("c", "1", "LOADING", ""),
    ("d", "", "UNAVAILABLE", "it has no version"),
]


def find(desk: Desk, path: str) -> Any:
    """What answers a POST."""
    for route in routes(desk):  # type: ignore[arg-type]  # all that they need
        prefix = route.template.partition("{")[0]
        if path == route.template or (prefix != route.template and path.startswith(prefix)):
            return route.find("POST", path.encode())
    raise AssertionError(path)


def post(desk: Desk, path: str, body: bytes = b"") -> Any:
    answer = asyncio.run(find(desk, path).handler(desk.request(path, body), desk.context))
    return msgspec.json.decode(answer.body)


def by_grpc(desk: Desk, handler: str, message: Any) -> bytes:
    methods = RepositoryMethods(desk.service)  # type: ignore[arg-type]  # all that they need
    answer: bytes = asyncio.run(getattr(methods, handler)(message.SerializeToString(), desk.context))
    return answer


@pytest.mark.parametrize(
    ("is_ready", "body"),
    [(False, b""), (False, b" "), (False, b"{}"), (False, b'{"ready":false}'), (True, b'{"ready":true}')],
)
def test_the_index(is_ready: bool, body: bytes) -> None:
    desk = Desk(MODELS)
    wanted = [entry for entry in INDEX if not is_ready or entry[2] == "READY"]
    keys = ("name", "version", "state", "reason")
    assert post(desk, "/v2/repository/index", body) == [
        dict(zip(keys, entry, strict=True)) for entry in wanted
    ]
    answer = kserve.RepositoryIndexResponse.FromString(
        by_grpc(desk, "index", kserve.RepositoryIndexRequest(ready=is_ready))
    )
    assert [tuple(getattr(entry, key) for key in keys) for entry in answer.models] == wanted


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"ready":1}', b"\xff", b"[" * 60_000])
def test_a_body_that_is_none(body: bytes) -> None:
    with pytest.raises(MalformedPayload, match="failed to parse the request JSON buffer"):
        post(Desk(MODELS), "/v2/repository/index", body)


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("a/load", LoadNamed("a")),
        ("a/unload", UnloadNamed("a")),
        ("org%2Fname/load", LoadNamed("org/name")),
        ("org/name/unload/", UnloadNamed("org/name")),
        ("load/load", LoadNamed("load")),
    ],
)
@pytest.mark.parametrize("body", [b"", b"{}", b'{"parameters":{}}'])
def test_the_manager_is_asked(path: str, change: AnyChange, body: bytes) -> None:
    desk = Desk(MODELS)
    assert post(desk, f"/v2/repository/models/{path}", body) == {}
    assert desk.asked == [change]


def test_the_manager_is_asked_over_grpc() -> None:
    desk = Desk(MODELS)
    by_grpc(desk, "load", kserve.RepositoryModelLoadRequest(model_name="a"))
    message = kserve.RepositoryModelUnloadRequest(model_name="b")
    message.parameters["unload_dependents"].bool_param = True
    by_grpc(desk, "unload", message)
    assert desk.asked == [LoadNamed("a"), UnloadNamed("b")]


@pytest.mark.parametrize(
    ("call", "parameters", "kind", "text"),
    [
        (
            "load",
            {"config": "{}"},
            UnsupportedOperation,
            "failed to load 'a', a configuration in the request",
        ),
        (
            "load",
            {"file:1/model.xml": "eA=="},
            UnsupportedOperation,
            r"failed to load 'a', a file \(file:1/model",
        ),
        ("load", {"odd": 1}, MalformedPayload, "failed to load 'a', parameter 'odd' is unknown"),
        ("unload", {"odd": 1}, MalformedPayload, "failed to unload 'a', parameter 'odd' is unknown"),
        ("unload", {"unload_dependents": "yes"}, MalformedPayload, "'unload_dependents' is no bool"),
    ],
)
def test_parameters(call: str, parameters: Mapping[str, object], kind: type[Exception], text: str) -> None:
    desk = Desk(MODELS)
    body = msgspec.json.encode({"parameters": parameters})
    with pytest.raises(kind, match=text):
        post(desk, f"/v2/repository/models/a/{call}", body)
    assert desk.asked == []


def test_overrides_over_grpc() -> None:
    message = kserve.RepositoryModelLoadRequest(model_name="a")
    message.parameters["file:1/model.xml"].bytes_param = b"x"
    with pytest.raises(UnsupportedOperation, match="failed to load 'a', "):
        by_grpc(Desk(MODELS), "load", message)


@pytest.mark.parametrize("handler", ["index", "load", "unload"])
def test_repositories_have_no_names(handler: str) -> None:
    kinds = {
        "index": kserve.RepositoryIndexRequest,
        "load": kserve.RepositoryModelLoadRequest,
        "unload": kserve.RepositoryModelUnloadRequest,
    }
    with pytest.raises(UnsupportedOperation, match="'repository_name' specification is not supported"):
        by_grpc(Desk(MODELS), handler, kinds[handler](repository_name="r"))


@pytest.mark.parametrize("path", ["a", "a/", "load", "a/reload", "/load"])
def test_other_paths(path: str) -> None:
    with pytest.raises(ModelNotFound, match="Requested REST resource not found: POST"):
        post(Desk(MODELS), f"/v2/repository/models/{path}")


def test_pages_of_other_sites_load_nothing() -> None:
    endpoint = find(Desk(MODELS), "/v2/repository/models/a/load")
    assert endpoint.changes_server
    assert endpoint.takes_body
