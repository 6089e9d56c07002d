# SPDX-License-Identifier: Apache-2.0
"""Arrays as each API writes them, against protobuf's own classes; URLs; when calls are tried again."""

from __future__ import annotations

import contextlib
import gc
import json
import subprocess
import sys
import weakref
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from google.protobuf import message
from hypothesis import given
from hypothesis import strategies as st

from ovms_mp.client import calls, datatypes, errors, retries, target
from ovms_mp.client.exchange import Exchange, Reply, not_sent
from ovms_mp.client.fields import fields, varint
from ovms_mp.client.grpc_framing import deadline_headers, failure_of, framed
from ovms_mp.client.kserve_grpc import KServeGrpc
from ovms_mp.client.kserve_rest import KServeRest
from ovms_mp.client.places import Place
from ovms_mp.client.tfs_grpc import TfsGrpc, tensor_array
from ovms_mp.client.tfs_rest import TfsRest
from ovms_mp.codes import Code
from ovms_mp.front.endpoints import TIMEOUT_HEADER
from ovms_mp.front.kserve._proto import kserve_pb2
from ovms_mp.front.rest import waiting
from ovms_mp.front.tfs._proto import tensorflow_serving_pb2
from ovms_mp.front.tfs._proto.tensorflow_framework_pb2 import TensorProto

ARRAYS = [
    *(
        np.array([[0, 1], [1, 0]], dtype)
        for dtype in ("?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8")
    ),
    np.array([1, 2], ml_dtypes.bfloat16),
    np.array([1, 2], ml_dtypes.float8_e4m3fn),
    np.array([b"a\0", "ü", b""], np.object_),
    np.zeros((0, 3), np.float32),
    np.float32(1.5),
]


def body(operation: object) -> bytes:
    return b"".join(operation.request.body)[5:]  # type: ignore[attr-defined]


@pytest.mark.parametrize("value", ARRAYS, ids=lambda array: f"{array.dtype}{array.shape}")
def test_kserve_messages_are_what_protobuf_reads(value: datatypes.AnyArray) -> None:
    array = datatypes.as_array(np.asarray(value))
    call = calls.Predict("m", 3, {"a": array}, ("y",), "id 1", {"priority": 1, "b": True, "c": 1.5, "d": "x"})
    request = kserve_pb2.ModelInferRequest.FromString(body(KServeGrpc().predict(call)))

    assert (request.model_name, request.model_version, request.id) == ("m", "3", "id 1")
    assert request.parameters["priority"].int64_param == 1
    assert request.parameters["b"].bool_param
    assert (request.parameters["c"].double_param, request.parameters["d"].string_param) == (1.5, "x")
    assert [output.name for output in request.outputs] == ["y"]
    (given_input,) = request.inputs
    response = kserve_pb2.ModelInferResponse(model_name="m")
    response.outputs.add(name="y", datatype=given_input.datatype, shape=given_input.shape)
    response.raw_output_contents.extend(request.raw_input_contents)
    back = KServeGrpc().outputs(response.SerializeToString(), {})["y"]
    assert_same(back, array)


@pytest.mark.parametrize("value", ARRAYS, ids=lambda array: f"{array.dtype}{array.shape}")
def test_tfs_messages_are_what_protobuf_reads(value: datatypes.AnyArray) -> None:
    array = datatypes.as_array(np.asarray(value))
    call = calls.Predict("m", 3, {"a": array}, ("y",))
    request = tensorflow_serving_pb2.PredictRequest.FromString(body(TfsGrpc().predict(call)))

    assert (request.model_spec.name, request.model_spec.version.value) == ("m", 3)
    assert list(request.output_filter) == ["y"]
    assert_same(tensor_array(request.inputs["a"].SerializeToString()), array)


def assert_same(back: datatypes.AnyArray, array: datatypes.AnyArray) -> None:
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    if array.dtype.kind == "O":
        assert back.ravel().tolist() == list(datatypes.strings_of(array))
    else:
        assert back.tobytes() == array.tobytes()


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        ({"dtype": "DT_FLOAT", "float_val": [1.5, 2.5]}, [1.5, 2.5, 2.5]),
        ({"dtype": "DT_DOUBLE", "double_val": [1.5]}, [1.5, 1.5, 1.5]),
        ({"dtype": "DT_INT32", "int_val": [-1, 2, 3]}, [-1, 2, 3]),
        ({"dtype": "DT_INT8", "int_val": [-1]}, [-1, -1, -1]),
        ({"dtype": "DT_INT64", "int64_val": [-(1 << 62), 2, 3]}, [-(1 << 62), 2, 3]),
        ({"dtype": "DT_UINT64", "uint64_val": [(1 << 64) - 1]}, [(1 << 64) - 1] * 3),
        ({"dtype": "DT_BOOL", "bool_val": [True, False]}, [True, False, False]),
        ({"dtype": "DT_HALF", "half_val": [0x3C00, 0xBC00]}, [1.0, -1.0, -1.0]),
        ({"dtype": "DT_BFLOAT16", "half_val": [0x3F80]}, [1.0, 1.0, 1.0]),
        ({"dtype": "DT_FLOAT8_E4M3FN", "float8_val": b"\x38\xb8\x38"}, [1.0, -1.0, 1.0]),
        ({"dtype": "DT_STRING", "string_val": [b"a", b"b"]}, [b"a", b"b", b"b"]),
        ({"dtype": "DT_FLOAT"}, [0.0, 0.0, 0.0]),
    ],
    ids=str,
)
def test_typed_fields_are_read(tensor: dict[str, object], expected: list[object]) -> None:
    proto = TensorProto(**tensor)  # type: ignore[arg-type]  # names of enums
    proto.tensor_shape.dim.add(size=3)

    assert tensor_array(proto.SerializeToString()).tolist() == expected


@pytest.mark.parametrize(
    ("datatype", "contents", "expected"),
    [
        ("FP32", {"fp32_contents": [1.5, 2.5]}, [1.5, 2.5]),
        ("INT64", {"int64_contents": [-1, 2]}, [-1, 2]),
        ("INT8", {"int_contents": [-1, 2]}, [-1, 2]),
        ("BOOL", {"bool_contents": [True, False]}, [True, False]),
        ("BYTES", {"bytes_contents": [b"a", b""]}, [b"a", b""]),
    ],
)
def test_contents_that_are_not_raw_are_read(
    datatype: str, contents: dict[str, object], expected: object
) -> None:
    response = kserve_pb2.ModelInferResponse()
    response.outputs.add(name="y", datatype=datatype, shape=[2], contents=contents)

    assert KServeGrpc().outputs(response.SerializeToString(), {})["y"].tolist() == expected


def test_bfloat16_is_float32_where_numpy_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    octets = np.array([1.5, -2.0], ml_dtypes.bfloat16).tobytes()

    assert datatypes.array_of(octets, "BF16", (2,)).tolist() == [1.5, -2.0]
    with pytest.raises(errors.Failed, match="pip install ml_dtypes"):
        datatypes.array_of(octets, "FP8_E5M2", (4,))


@given(st.binary(max_size=60))
def test_any_answer_is_read_or_refused(octets: bytes) -> None:
    grpc = framed([octets])
    for read, headers in (
        (KServeGrpc().predict(calls.Predict("m", 0, {})).read, {"grpc-status": "0"}),
        (TfsGrpc().predict(calls.Predict("m", 0, {})).read, {"grpc-status": "0"}),
        (TfsGrpc().metadata("m", 0).read, {"grpc-status": "0"}),
        (KServeGrpc().metadata("m", 0).read, {"grpc-status": "0"}),
        (KServeRest("").predict(calls.Predict("m", 0, {})).read, {}),
    ):
        try:
            read(Reply(200, headers, b"".join(grpc) if headers else octets))
        except errors.ClientError:
            pass


@given(st.integers(-(1 << 63), (1 << 64) - 1))
def test_varints_are_those_of_protobuf(number: int) -> None:
    name, value = ("int64_param", number) if number < 1 << 63 else ("uint64_param", number)
    parameter = kserve_pb2.InferParameter(**{name: value})  # type: ignore[arg-type]  # one of its fields

    assert parameter.SerializeToString()[1:] == varint(number)


@given(st.binary(max_size=40))
def test_messages_that_protobuf_refuses_are_refused(octets: bytes) -> None:
    try:
        kserve_pb2.ServerLiveRequest.FromString(octets)
    except message.DecodeError:
        return  # We may be content with what protobuf is not.
    if not any(octet & 7 in (3, 4) for octet in octets):  # groups
        list(fields(octets))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("grpc://h:1", ("grpc", "kserve", False, "h:1", "")),
        ("grpcs://h", ("grpc", "kserve", True, "h:9000", "")),
        ("http://[::1]:8000?api=tfs", ("rest", "tfs", False, "[::1]:8000", "")),
        ("http://[fe80::1%25eth0]:1", ("rest", "kserve", False, "[fe80::1]:1", "")),
        ("https://h/prefix/", ("rest", "kserve", True, "h:443", "")),
        ("grpc://bücher.example", ("grpc", "kserve", False, "xn--bcher-kva.example:9000", "")),
        ("unix:///run/a%20b", ("grpc", "kserve", False, "localhost", "/run/a b")),
        ("unix:///run/a?protocol=rest&api=tfs", ("rest", "tfs", False, "localhost", "/run/a")),
    ],
)
def test_urls(url: str, expected: tuple[object, ...]) -> None:
    found = target.parse(url)

    assert (found.protocol, found.api, found.is_secure, found.authority, found.path) == expected


def test_an_address_keeps_its_zone_and_does_not_send_it() -> None:
    """RFC 6874, 2 and 4."""
    for url in ("grpc://[fe80::1%25Eth0]:9000", "grpc://[fe80::1%Eth0]:9000"):
        found = target.parse(url)
        assert (found.host, found.authority) == ("fe80::1%Eth0", "[fe80::1]:9000")


@pytest.mark.parametrize(
    "url", ["", "h:1", "ftp://h", "grpc://", "grpc://h:99999", "grpc://h/path", "unix://h/a", "grpc://h?x=1",
            "grpc://u@h", "grpc://h?api=v1", "http://h?protocol=grpc", "http://[::1", "grpc://h:0", "grpc://h:x",
            "unix:///" + 107 * "a", "unix:///a%00", None, f"grpc://{64 * 'ü'}"],
)  # fmt: skip
def test_urls_that_name_no_server(url: Any) -> None:
    with pytest.raises(errors.InvalidRequest):
        target.parse(url)


def failed(code: Code, after: float | None = None) -> errors.ClientError:
    error = errors.error_of(code, "")
    error.retry_after_s = after
    return error


@pytest.mark.parametrize(
    ("error", "tries", "expected"),
    [
        (not_sent(""), 1, 0.0),
        (failed(Code.UNAVAILABLE), 1, 0.05),
        (failed(Code.UNAVAILABLE), 4, 0.4),
        (failed(Code.UNAVAILABLE, 2.0), 1, 2.0),
        (failed(Code.UNAVAILABLE), 5, None),
        (failed(Code.UNAVAILABLE, -1.0), 1, None),
        (failed(Code.UNAVAILABLE, 20.0), 1, None),
        (failed(Code.RESOURCE_EXHAUSTED), 1, None),
        (failed(Code.RESOURCE_EXHAUSTED, 1.0), 1, 1.0),
        (failed(Code.INTERNAL), 1, None),
        (errors.NotSecure(Code.UNAVAILABLE, ""), 1, None),
        (failed(Code.DEADLINE_EXCEEDED), 1, None),
        (ValueError(), 1, None),
    ],
    ids=lambda value: str(value) or type(value).__name__,
)
def test_what_is_tried_again_and_when(error: Exception, tries: int, expected: float | None) -> None:
    pause = retries.Retries().pause_s(error, tries, 10.0)

    assert (pause is None) == (expected is None)
    if pause is not None and expected is not None:
        assert expected / 2 <= pause <= expected


@pytest.mark.parametrize(
    ("headers", "code", "after"),
    [
        (
            {"grpc-status": "14", "grpc-message": "a%20b", "grpc-retry-pushback-ms": "1500"},
            Code.UNAVAILABLE,
            1.5,
        ),
        ({"grpc-status": "8", "grpc-retry-pushback-ms": "-1"}, Code.RESOURCE_EXHAUSTED, -1.0),
        ({"grpc-status": "x"}, Code.UNKNOWN, None),
        ({"grpc-status": "9" * 5000}, Code.UNKNOWN, None),
        ({}, Code.UNAVAILABLE, None),
    ],
    ids=str,
)
def test_statuses(headers: dict[str, str], code: Code, after: float | None) -> None:
    error = failure_of(503, headers)

    assert (error.code, error.retry_after_s, error.was_answered) == (code, after, True)


def test_nothing_is_tried_again_when_the_time_is_over() -> None:
    assert retries.Retries().pause_s(not_sent(""), 1, 0.0) is None


@pytest.mark.parametrize(
    ("headers", "document"),
    [
        ({"inference-header-content-length": "9" * 5000}, b"{}"),
        ({}, b'{"outputs":[{"name":"y","datatype":"FP32","shape":[%d],"data":[]}]}' % (1 << 80)),
        ({}, b'{"outputs":[{"name":"y","datatype":"INT8","shape":[1],"data":[%d]}]}' % (1 << 80)),
    ],
    ids=["length", "shape", "value"],
)
def test_numbers_that_are_too_large_are_refused(headers: dict[str, str], document: bytes) -> None:
    read = KServeRest("").predict(calls.Predict("m", 0, {})).read
    with pytest.raises(errors.Failed, match="cannot be read"):
        read(Reply(200, headers, document))


def test_an_output_is_in_the_array_that_it_was_written_to() -> None:
    """As much of it as the answer says, which may be less than there is room for."""
    memory = np.arange(12, dtype=np.float32).reshape(3, 4)
    place = Place("r", 0, memory.nbytes, memory)
    for dialect in (KServeGrpc(), KServeRest("")):
        for datatype, shape in (("FP32", [3, 4]), ("FP32", [2, 4]), ("FP64", [3, 2]), ("FP32", [4, 4])):
            call = calls.Predict("m", 0, {}, ("y",), output_places={"y": place})
            read = dialect.predict(call).read
            reply = placed_answer(datatype, shape, is_grpc=isinstance(dialect, KServeGrpc))
            if datatype == "FP64":
                with pytest.raises(
                    errors.InvalidRequest, match="has elements FP64, and its array is of FP32"
                ):
                    read(reply)
            elif shape == [4, 4]:
                with pytest.raises(errors.Failed, match="cannot be read"):
                    read(reply)
            else:
                found = read(reply)["y"]
                assert (found is memory) == (shape == [3, 4])
                assert found.tolist() == memory[: shape[0]].tolist()


def placed_answer(datatype: str, shape: list[int], *, is_grpc: bool) -> Reply:
    parameters = {"shared_memory_region": "r"}
    if not is_grpc:
        document = {"name": "y", "datatype": datatype, "shape": shape, "parameters": parameters}
        return Reply(200, {}, json.dumps({"outputs": [document]}).encode())
    response = kserve_pb2.ModelInferResponse()
    output = response.outputs.add(name="y", datatype=datatype, shape=shape)
    output.parameters["shared_memory_region"].string_param = "r"
    return Reply(200, {"grpc-status": "0"}, b"".join(framed([response.SerializeToString()])))


def test_heads_of_requests_that_are_kept_are_those_of_their_places() -> None:
    dialect, array = KServeGrpc(), np.zeros(4, np.float32)
    messages = set()
    for _ in range(2):
        for name, offset in (("r", 0), ("r", 64), ("s", 0)):
            place = Place(name, offset, array.nbytes, array)
            for call in (
                calls.Predict("m", 0, {"x": array}, ("y",), input_places={"x": place}),
                calls.Predict("m", 0, {"x": array}, ("y",), output_places={"y": place}),
            ):
                messages.add(b"".join(dialect.message(call)))

    assert len(messages) == 6


@pytest.mark.parametrize("dialect", [KServeGrpc(), KServeRest("")], ids=["grpc", "rest"])
def test_failures_are_gone_when_nobody_has_them_any_more(dialect: calls.Dialect) -> None:
    """And with them what callers have in their frames, such as arrays in shared memory."""

    def fail() -> weakref.ref[object]:
        array = np.zeros(1)
        operation = dialect.predict(calls.Predict("m", 0, {}))
        with contextlib.suppress(errors.ClientError):
            operation.read(Reply(404, {"grpc-status": "5"}, b"{}"))
        exchange = Exchange(operation.request, 0.0)
        exchange.fail(not_sent("gone"))
        with contextlib.suppress(errors.NotSent):
            exchange.reply()
        return weakref.ref(array)

    gc.disable()
    try:
        assert fail()() is None
    finally:
        gc.enable()


def test_a_version_that_could_not_be_loaded_is_not_said_to_be_loading() -> None:
    entries = [
        {"version": "1", "state": "LOADING", "status": {"error_code": "UNKNOWN", "error_message": "broken"}},
        {"version": "2", "state": "LOADING", "status": {"error_code": "OK", "error_message": "OK"}},
        {"version": "3", "state": "AVAILABLE"},
    ]
    body = json.dumps({"m": {"model_version_status": entries}}).encode()
    states = TfsRest("").models().read(Reply(200, {}, body))
    assert [(state.state, state.is_ready) for state in states] == [
        ("FAILED", False),
        ("LOADING", False),
        ("AVAILABLE", True),
    ]
    assert states[0].reason == "broken"


@pytest.mark.parametrize("seconds", [0.001, 1 / 3, 30.0, 1e6])
def test_deadlines_are_such_as_our_server_reads_over_rest(seconds: float) -> None:
    ((name, value),) = TfsRest("").deadline_headers(seconds)
    assert name == TIMEOUT_HEADER.lower()
    assert waiting._seconds(value) == pytest.approx(seconds, abs=0.001)


def test_deadlines_fit_their_header() -> None:
    assert [deadline_headers(seconds)[0][1] for seconds in (0.0001, 30.0, 1e6)] == [
        "1m",
        "30000m",
        "1000000S",
    ]


def test_the_package_is_imported_with_next_to_nothing() -> None:
    code = """
import sys
import ovms_mp.client
first = set(sys.modules)
ovms_mp.client.Client, ovms_mp.client.AsyncClient
heavy = {"openvino", "tensorflow", "grpc", "google.protobuf", "ml_dtypes"}
print(sorted(heavy & first), sorted(heavy & set(sys.modules)), "numpy" in first)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[] [] False\n"
