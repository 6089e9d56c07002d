# SPDX-License-Identifier: Apache-2.0
"""Sends the table of :mod:`tests.conformance.cases` over REST, and over both gRPC fronts with the real client.

The two fronts must give the same answer in the same words, also where the table is content with less.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import re
import socket
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from google.protobuf.json_format import MessageToDict, ParseDict

from ovms_mp import errors
from ovms_mp.client import Client, ClientError
from ovms_mp.front.kserve._proto import kserve_pb2
from ovms_mp.front.tfs._proto.tensorflow_serving_pb2 import PredictResponse
from tests.conformance.case import (
    GRPC,
    KSERVE_GRPC,
    KSERVE_REST,
    Answer,
    Case,
    Document,
    Expected,
    Form,
    Grpc,
    KServe,
    Predict,
    Refusal,
    Rest,
)
from tests.conformance.cases import CASES
from tests.conformance.cases_protocol import TINY_BODY
from tests.support import kserve_client, kserve_rest, rest_client
from tests.support.tensors import content, typed
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ovms_mp.model.dtypes import AnyArray
    from tests.support.rest_client import HttpReply
    from tests.support.server import Server
    from tests.support.tfs_client import Reply, TfsClient

    AnyReply = Reply | kserve_client.KServeReply

RUNS = [
    (case, form)
    for case in CASES
    for form in (case.request.applicable() if isinstance(case.request, Predict) else (None,))
]
IDS = [case.name if form is None else f"{case.name} [{form.value}]" for case, form in RUNS]

MATRIX: Mapping[type[errors.OvmsError], tuple[str, int]] = {
    errors.MalformedPayload: ("INVALID_ARGUMENT", 400),
    errors.OutputNameMismatch: ("INVALID_ARGUMENT", 400),
    errors.InputNameMismatch: ("INVALID_ARGUMENT", 400),
    errors.ShapeMismatch: ("INVALID_ARGUMENT", 400),
    errors.DtypeMismatch: ("INVALID_ARGUMENT", 400),
    errors.ModelNotFound: ("NOT_FOUND", 404),
    errors.VersionNotFound: ("NOT_FOUND", 404),
    errors.ModelNotReady: ("UNAVAILABLE", 503),
    errors.UnsupportedOperation: ("UNIMPLEMENTED", 501),
}
"""Written out once more, so that a change of the table in errors.py is noticed. Deadlines, full queues and arenas and
long messages need servers of their own: tests/integration/test_deadlines.py and test_large.py."""


@pytest.mark.parametrize(("case", "form"), RUNS, ids=IDS)
def test_case(case: Case, form: Form | None, fronts: Mapping[str, Server], tfs: TfsClient) -> None:
    """The answer, or the code and the words, are the expected ones."""
    request, expected = case.request, case.expected
    server = next(iter(fronts.values()))
    if isinstance(request, Rest):
        check_rest(send_raw_rest(request, server), expected)
    elif isinstance(request, Grpc):
        check_fronts({name: send_raw_grpc(request, front, tfs) for name, front in fronts.items()}, expected)
    elif isinstance(request, KServe):
        check_fronts({name: send_kserve(request, front, tfs) for name, front in fronts.items()}, expected)
    elif form in GRPC:
        check_fronts({name: send_grpc(request, form, front, tfs) for name, front in fronts.items()}, expected)
    else:
        assert form is not None
        check_rest(send_rest(request, form, server), expected)


THROUGH_CLIENT = {
    "grpc": Form.KSERVE_RAW,
    "grpc tfs": Form.CONTENT,
    "rest": Form.KSERVE_BINARY,
    "rest tfs": Form.COLUMN,
}
TRANSPORTS = [
    *THROUGH_CLIENT,
    *(f"unix {transport}" for transport in THROUGH_CLIENT),
    *("shared grpc", "shared rest", "shared unix grpc"),
]
"""Of the client; ``shared``: with inputs in shared memory."""
_SHARED_BYTES = 4 << 20
_ALIGNMENT = 64


def url_of(transport: str, server: Server) -> str:
    carrier, _, api = transport.removeprefix("shared ").removeprefix("unix ").partition(" ")
    query = f"api={api or 'kserve'}"
    if "unix" in transport:
        return f"unix://{server.log_path.parent}/{carrier}.sock?protocol={carrier}&{query}"
    port = server.port if carrier == "grpc" else server.rest_port
    return f"{'grpc' if carrier == 'grpc' else 'http'}://127.0.0.1:{port}?{query}"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_client_hears_the_same(transport: str, shared_server: Server) -> None:
    """Every neutral row that the transport can carry, one after the other, by the client of the package."""
    form = THROUGH_CLIENT[transport.removeprefix("shared ").removeprefix("unix ")]
    is_shared = transport.startswith("shared")
    asked = 0
    with Client(
        url_of(transport, shared_server),
        shared_memory=f"{shared_server.log_path.parent}/shm.sock" if is_shared else None,
    ) as client:
        memory = client.shared_array(_SHARED_BYTES, np.uint8) if is_shared else None
        for case in CASES:
            request = case.request
            if not isinstance(request, Predict) or form not in request.applicable():
                continue
            if (request.version or 0) < 0:
                continue  # Which the client itself refuses.
            asked += 1
            inputs = request.inputs if memory is None else moved_to(memory, request.inputs)
            failure, found = None, dict[str, "AnyArray"]()
            try:
                found = client.predict(request.model, inputs, version=request.version or 0)
            except ClientError as error:
                failure = error.with_traceback(None)  # Which has this frame, and the memory with it.
            check_client(case, failure, found, transport.endswith("rest tfs"))
    assert asked > 50


def moved_to(memory: AnyArray, inputs: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
    """Copies in shared memory, where there can be any."""
    found, at = {}, 0
    for name, array in inputs.items():
        found[name] = array
        if array.nbytes and not array.dtype.hasobject and at + array.nbytes <= len(memory):
            found[name] = memory[at : at + array.nbytes].view(array.dtype).reshape(array.shape)
            found[name][...] = array
            at += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
    return found


def check_client(
    case: Case, failure: ClientError | None, found: Mapping[str, AnyArray], has_no_types: bool
) -> None:
    expected = case.expected
    if isinstance(expected, Refusal):
        assert failure is not None, case.name
        assert expected.error is not None
        assert failure.code.http_status == expected.error.code.http_status, (case.name, failure)
        assert all(text in failure.message for text in expected.texts), (case.name, failure)
        return
    assert failure is None, (case.name, failure)
    assert isinstance(expected, Answer)
    if has_no_types and len(expected.outputs) == 1:  # Nor names.
        found = dict.fromkeys(expected.outputs, next(iter(found.values())))
    assert found.keys() == expected.outputs.keys(), case.name
    for name, array in expected.outputs.items():
        answered = found[name].astype(array.dtype) if has_no_types else found[name]
        assert answered.dtype == array.dtype, case.name
        assert_equal(answered, array)


def test_case_names_are_unique() -> None:
    assert len(set(IDS)) == len(IDS)


@pytest.mark.parametrize("error", MATRIX, ids=lambda error: error.__name__)
def test_same_mistake_has_the_same_meaning_in_both_protocols(
    error: type[errors.OvmsError], shared_server: Server, tfs: TfsClient
) -> None:
    """Each kind of failure is in the table over gRPC and over REST; code and status are two columns of one row."""
    codes: set[str] = set()
    statuses: set[int] = set()
    for case, form in RUNS:
        if not isinstance(case.expected, Refusal) or case.expected.error is not error:
            continue
        request = case.request
        if isinstance(request, Grpc):
            codes.add(send_raw_grpc(request, shared_server, tfs).code)
        elif isinstance(request, KServe):
            codes.add(send_kserve(request, shared_server, tfs).code)
        elif isinstance(request, Rest):
            statuses.add(send_raw_rest(request, shared_server).status)
        elif form in GRPC:
            codes.add(send_grpc(request, form, shared_server, tfs).code)
        elif form is not None:
            statuses.add(send_rest(request, form, shared_server).status)
    code, status = MATRIX[error]
    assert (codes, statuses) == ({code}, {status})
    assert (error.code.name, error("").http_status) == (code, status)


@pytest.mark.parametrize("path", ["/v1/models/tiny", "/v1/models/tiny:predict", "/v1/models/tiny/metadata"])
def test_options_names_the_methods(path: str, shared_server: Server) -> None:
    reply = rest_client.request(shared_server.rest_port, "OPTIONS", path)
    assert reply.status == 200
    assert ("POST" if "predict" in path else "GET") in reply.headers["allow"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/models/tiny", 200),
        ("/v1/models/org%2Ftiny/metadata", 200),
        ("/v1/config", 200),
        ("/v1/models/nobody/metadata", 404),
        ("/v1/models/tiny/labels/stable", 501),
        ("/v1/models/tiny:predict", 405),
    ],
)
def test_head_answers_like_get_without_a_body(path: str, status: int, shared_server: Server) -> None:
    port = shared_server.rest_port
    got, asked = (rest_client.request(port, method, path) for method in ("GET", "HEAD"))
    assert (asked.status, asked.body) == (got.status, b"") == (status, b"")
    assert asked.headers.keys() == got.headers.keys()
    if status != 405:  # Whose words name the method.
        assert asked.headers["content-length"] == got.headers["content-length"]


def test_errors_are_json_objects_with_one_key(shared_server: Server) -> None:
    """Also those that falcon makes itself; clients read ``error``."""
    port = shared_server.rest_port
    for reply in (
        rest_client.request(port, "POST", "/v1/models/tiny:predict", "{"),
        rest_client.request(port, "POST", "/v1/models/nobody:predict", TINY_BODY),
        rest_client.request(port, "GET", "/nowhere"),
        rest_client.request(port, "DELETE", "/v1/models/tiny"),
    ):
        assert reply.headers["content-type"].startswith("application/json")
        assert list(reply.json()) == ["error"]
        assert isinstance(reply.json()["error"], str)


def test_method_not_allowed_names_those_that_are(shared_server: Server) -> None:
    reply = rest_client.request(shared_server.rest_port, "PUT", "/v1/models/tiny", "{}")
    assert reply.status == 405
    assert "GET" in reply.headers["allow"]


def test_broken_version_has_its_reason_in_the_status(shared_server: Server, tfs: TfsClient) -> None:
    """A failed load stays LOADING with UNKNOWN, as every generation reports it, and says why."""
    by_rest = rest_client.request(shared_server.rest_port, "GET", "/v1/models/broken").json()
    by_grpc = tfs.call(shared_server.port, "GetModelStatus", {"modelSpec": {"name": "broken"}}).response
    for document in (by_rest, by_grpc):
        (entry,) = document["model_version_status"]
        assert (entry["version"], entry["state"]) == ("1", "LOADING")


def test_config_is_the_status_of_every_model(shared_server: Server) -> None:
    """Those that serve, the broken one and the absent one, each word for word."""
    port = shared_server.rest_port
    config = rest_client.request(port, "GET", "/v1/config")
    assert (config.status, config.headers["content-type"]) == (200, "application/json")
    assert {"tiny", "versions", "broken", "absent"} < set(config.json())
    for model in ("tiny", "versions", "absent"):
        assert config.json()[model] == rest_client.request(port, "GET", f"/v1/models/{model}").json()
    (entry,) = config.json()["broken"]["model_version_status"]
    assert (entry["version"], entry["state"]) == ("1", "LOADING")


def test_status_says_what_runs_where(shared_server: Server) -> None:
    reply = rest_client.request(shared_server.rest_port, "GET", "/v1/status")
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    document = reply.json()
    assert set(document) == {"server", "configuration", "plan", "workers", "models"}
    assert document["configuration"] is None
    assert document["plan"]
    assert all(isinstance(line, str) for line in document["plan"])
    assert sorted(worker["pid"] for worker in document["workers"]) == sorted(shared_server.pids("worker"))
    assert all(set(worker) == {"name", "device", "pid", "cores"} for worker in document["workers"])
    versions = document["models"]["versions"]
    assert versions["default_version"] == 3
    assert [(entry["version"], entry["state"]) for entry in versions["versions"]] == [
        (1, "AVAILABLE"),
        (3, "AVAILABLE"),
    ]
    for entry in versions["versions"]:
        assert (entry["is_failed"], entry["is_being_loaded"], entry["next_try_in_s"]) == (False, False, None)
        assert entry["nireq"] >= 1
        assert entry["workers"] == len(document["workers"])
    # What is odd about a base path would name the path.
    assert document["models"]["absent"] == {"default_version": 0, "versions": [], "is_unloaded": False}


# --- sending ---


def send_grpc(request: Predict, form: Form, server: Server, tfs: TfsClient) -> AnyReply:
    if form in KSERVE_GRPC:
        message = kserve_client.infer_request(
            request.model,
            request.inputs,
            version="" if request.version is None else str(request.version),
            request_id="number 7",
            is_raw=form is not Form.KSERVE_CONTENTS,
        )
        send = kserve_client.infer_in_stream if form is Form.KSERVE_STREAM else kserve_client.infer
        reply = send(tfs, server.port, message)
        assert reply.response.get("id", "number 7") == "number 7"
        return reply
    write = content if form is Form.CONTENT else typed
    spec: dict[str, Any] = {"name": request.model}
    if request.version is not None:
        spec["version"] = str(request.version)
    inputs = {name: write(array) for name, array in request.inputs.items()}
    return tfs.call(server.port, "Predict", {"modelSpec": spec, "inputs": inputs})


def send_rest(request: Predict, form: Form, server: Server) -> HttpReply:
    if form in KSERVE_REST:
        return kserve_rest.infer(
            server.rest_port,
            request.model,
            request.inputs,
            version=request.version,
            is_binary=form is Form.KSERVE_BINARY,
            id="number 7",
            parameters={"binary_data_output": form is Form.KSERVE_BINARY},
        )
    inputs = {name: _json_value(array) for name, array in request.inputs.items()}
    body: Any
    match form:
        case Form.COLUMN:
            body = {"inputs": inputs}
        case Form.COLUMN_BARE:
            body = {"inputs": next(iter(inputs.values()))}
        case Form.ROW:
            rows = zip(*inputs.values(), strict=True)
            body = {"instances": [dict(zip(inputs, row, strict=True)) for row in rows]}
        case _:
            body = {"instances": next(iter(inputs.values()))}
    place = f"/v1/models/{request.model}"
    if request.version is not None:
        place += f"/versions/{request.version}"
    return rest_client.request(server.rest_port, "POST", f"{place}:predict", json.dumps(body))


def send_raw_grpc(request: Grpc, server: Server, tfs: TfsClient) -> Reply:
    if request.path:
        reply = tfs.start_raw(server.port, request.path, request.body).wait()
        body = base64.b64decode(reply.response.get("body", ""))
        return dataclasses.replace(reply, response=MessageToDict(PredictResponse.FromString(body)))
    return tfs.call(server.port, request.method, request.message)


def send_kserve(request: KServe, server: Server, tfs: TfsClient) -> kserve_client.KServeReply:
    asked, answered = (
        getattr(kserve_pb2, f"{request.method}{kind}", None) for kind in ("Request", "Response")
    )
    kinds = asked or kserve_pb2.ModelInferRequest, answered or kserve_pb2.ModelInferResponse
    body = request.message if isinstance(request.message, bytes) else ParseDict(request.message, kinds[0]())
    return kserve_client.call(tfs, server.port, request.method, body, kinds[1])


def send_raw_rest(request: Rest, server: Server) -> HttpReply:
    if request.is_chunked:
        assert isinstance(request.body, str)
        pieces = [request.body[at : at + 7].encode() for at in range(0, len(request.body), 7)]
        return rest_client.request_chunked(server.rest_port, request.path, pieces, request.headers)
    return rest_client.request(server.rest_port, request.method, request.path, request.body, request.headers)


def _json_value(array: AnyArray) -> Any:
    """What a client would write: numbers as Python reads them; the narrow floats are numbers too."""
    return array.astype(np.float64).tolist() if array.dtype.kind not in "iub" else array.tolist()


# --- checking ---


def check_fronts(replies: Mapping[str, AnyReply], expected: Expected) -> None:
    """Each is the expected one, and they are equal."""
    native, grpcio = replies["native"], replies["grpcio"]
    for reply in (grpcio, native):
        check_grpc(reply, expected)
    assert (native.code, native.details, native.response) == (grpcio.code, grpcio.details, grpcio.response)


def check_grpc(reply: AnyReply, expected: Expected) -> None:
    if isinstance(expected, Refusal):
        code = expected.error.code.name if expected.error else expected.code
        assert (reply.code, bool(code)) == (code, True), reply.details
        for text in expected.texts:
            assert text in reply.details
        return
    assert reply.code == "OK", reply.details
    if isinstance(expected, Document):
        assert comparable(reply.response) == comparable(expected.value)
        return
    found = reply.outputs()
    assert found.keys() == expected.outputs.keys()
    for name, array in expected.outputs.items():
        assert found[name].dtype == array.dtype
        assert_equal(found[name], array)


def check_rest(reply: HttpReply, expected: Expected) -> None:
    if isinstance(expected, Refusal):
        status = expected.error("").http_status if expected.error else expected.status
        assert reply.status == status, reply.text()
        for text in expected.texts:
            assert text in reply.text()
        return
    assert reply.status == 200, reply.text()
    if isinstance(expected, Document):
        # As text, because 1, 1.0 and true are equal to Python.
        assert json.dumps(reply.json(), sort_keys=True) == json.dumps(expected.value, sort_keys=True)
        for name, value in expected.headers.items():
            assert reply.headers[name] == value
        return
    if kserve_rest.HEADER.lower() in reply.headers or "model_name" in reply.json():
        check_kserve_rest(reply, expected.outputs)
        return
    ((key, answered),) = reply.json().items()
    outputs: dict[str, Any] = {}
    if len(expected.outputs) == 1:
        outputs = dict.fromkeys(expected.outputs, answered)
    elif key == "predictions":
        assert all(row.keys() == expected.outputs.keys() for row in answered)
        outputs = {name: [row[name] for row in answered] for name in expected.outputs}
    else:
        outputs = answered
    assert outputs.keys() == expected.outputs.keys()
    for name, array in expected.outputs.items():
        wanted = np.float64 if array.dtype.kind not in "iub" else array.dtype
        assert_equal(np.array(outputs[name], wanted).astype(array.dtype), array)


def check_kserve_rest(reply: HttpReply, outputs: Mapping[str, AnyArray]) -> None:
    assert kserve_rest.split(reply)[0]["id"] == "number 7"
    found = kserve_rest.outputs(reply)
    assert found.keys() == outputs.keys()
    for name, array in outputs.items():
        assert found[name].dtype == array.dtype
        assert_equal(found[name], array)


def assert_equal(found: AnyArray, expected: AnyArray) -> None:
    """Same shape and bits; any NaN equals any other."""
    assert found.shape == expected.shape
    if expected.dtype.kind in "iubO":
        assert found.tolist() == expected.tolist()
        return
    np.testing.assert_array_equal(found.astype(np.float64), expected.astype(np.float64), strict=True)
    assert (np.signbit(found.astype(np.float64)) == np.signbit(expected.astype(np.float64))).all()


def comparable(document: Any) -> Any:
    """The document without what ``MessageToDict`` leaves out: defaults. Numbers by value."""
    if isinstance(document, dict):
        entries = {key: comparable(value) for key, value in document.items()}
        return {
            key: value for key, value in entries.items() if value not in ("", "OK", {}) and value is not False
        }
    if isinstance(document, list):
        return [comparable(value) for value in document]
    return document


TLS_HELLO = bytes.fromhex("1603010200010001fc0303") + bytes(200)
STRANGERS = (TLS_HELLO, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\0" * 64, b"SSH-2.0-OpenSSH_9.2\r\n")


@pytest.mark.parametrize("front", ["native", "grpcio"])
def test_strangers_on_the_grpc_port_are_counted_and_not_logged_one_by_one(
    front: str, fronts: Mapping[str, Server]
) -> None:
    """The front of grpcio does not log them at all."""
    server = fronts[front]
    before = len(server.log().splitlines())
    for octets in STRANGERS * 13:
        speak_and_leave(server.port, octets)
    if front == "native":
        eventually(lambda: logged_strangers(server, before) == (13, 39), 20.0, "all are counted")
    lines = server.log().splitlines()[before:]
    assert not [line for line in lines if "connection_fault" in line]
    assert len([line for line in lines if "limits_hit" in line]) <= 26


def speak_and_leave(port: int, octets: bytes) -> None:
    """Send octets, and hear the server out."""
    with socket.create_connection(("127.0.0.1", port), timeout=20.0) as connection:
        connection.sendall(octets)
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while connection.recv(4096):
                pass


def logged_strangers(server: Server, before: int) -> tuple[int, int]:
    """TLS hellos and others of all fronts together, by the log's lines."""
    text = "\n".join(server.log().splitlines()[before:])
    hellos, others = (
        sum(map(int, re.findall(rf"{kind}=(\d+)", text))) for kind in ("tls_hello", "not_http2")
    )
    return hellos, others
