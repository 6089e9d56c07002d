# SPDX-License-Identifier: Apache-2.0
"""Strings in and out: every octet of them, over both transports of gRPC and over REST."""

from __future__ import annotations

import base64
import json
import threading
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest

from ovms_mp.client import (
    GetModelMetadataRequest,
    PredictionServiceStub,
    PredictRequest,
    SignatureDefMap,
    TensorProto,
    make_ndarray,
    make_tensor_proto,
)
from ovms_mp.front.kserve._proto import kserve_pb2
from ovms_mp.front.strings import Strings, length_prefixed, parse_length_prefixed
from tests.support import rest_client
from tests.support.ledger import Ledger, assert_nothing_left
from tests.support.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ovms_mp.model.dtypes import AnyArray
    from tests.support.models import ModelCache

MODELS = (
    *("words", "table", "word", "three", "named", "mixed", "lengths"),
    *("matrix", "fixed_matrix", "rows", "vector", "image_u8"),
)
ODD = [
    b"plain",
    b"",
    b"\0",
    b"a\0b\0\0",
    b"\xff\xfe\x80",
    "na\u00efve \u6f22 \U0001f600".encode(),
    b"x" * 70_000,
]
DEADLINE_S = 60.0


@pytest.fixture(scope="module", params=["native", "grpcio"])
def server(
    request: pytest.FixtureRequest, model_cache: ModelCache, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    models = model_cache.get("tests.support.build_text_models")
    directory = tmp_path_factory.mktemp("strings")
    config = directory / "config.json"
    listed = [{"config": {"name": name, "base_path": str(models / name)}} for name in MODELS]
    config.write_text(json.dumps({"model_config_list": listed}))
    before = Ledger.take()
    arguments = ["config", "--config_path", str(config), "--grpc_front", request.param]
    with Server(arguments, directory / "server.log") as running:
        yield running
    assert_nothing_left(before)


@pytest.fixture
def stub(server: Server) -> Iterator[PredictionServiceStub]:
    limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{server.port}", options=limits) as channel:
        yield PredictionServiceStub(channel)


def objects(items: Any, shape: tuple[int, ...]) -> AnyArray:
    array = np.empty(len(items), np.object_)
    array[:] = items
    return array.reshape(shape)


def predict(stub: Any, model: str, **inputs: TensorProto | AnyArray) -> dict[str, AnyArray]:
    message = PredictRequest(model_spec={"name": model})
    for name, value in inputs.items():
        tensor = value if isinstance(value, TensorProto) else make_tensor_proto(value)
        message.inputs[name].CopyFrom(tensor)
    answer = stub.Predict(message, timeout=DEADLINE_S)
    return {name: make_ndarray(tensor) for name, tensor in answer.outputs.items()}


def refusal(stub: Any, model: str, **inputs: TensorProto | AnyArray) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        predict(stub, model, **inputs)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    return str(caught.value.details())


def by_rest(server: Server, model: str, body: object) -> Any:
    reply = rest_client.predict(server.rest_port, model, body)
    assert reply.status == 200, reply.text()
    return reply.json()


def rest_refusal(server: Server, model: str, body: object) -> str:
    reply = rest_client.predict(server.rest_port, model, body)
    assert reply.status == 400
    return reply.text()


def as_json(item: bytes) -> object:
    try:
        return item.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(item).decode()}


@pytest.mark.parametrize(
    ("model", "items", "shape"),
    [
        ("words", ODD, (7,)),
        ("words", ODD[::-1], (7,)),
        ("words", [], (0,)),
        ("words", [b""], (1,)),
        ("table", ODD[:6], (2, 3)),
        ("table", [], (0, 3)),
        ("word", [b"alone\0"], ()),
        ("three", ODD[2:5], (3,)),
    ],
)
def test_strings_pass_as_they_are(
    server: Server, stub: PredictionServiceStub, model: str, items: list[bytes], shape: tuple[int, ...]
) -> None:
    for _ in range(2):
        got = predict(stub, model, x=objects(items, shape))["x"]
        assert (got.shape, got.ravel().tolist()) == (shape, items)
    # The column format's lists cannot say what follows a dimension of 0.
    if items:
        document = objects([as_json(item) for item in items], shape)
        column: Any = document.tolist()
        assert by_rest(server, model, {"inputs": column}) == {"outputs": column}
        if shape and model != "three":
            assert by_rest(server, model, {"instances": column}) == {"predictions": column}
            rows = {"instances": [{"x": row} for row in column]}
            assert by_rest(server, model, rows) == {"predictions": column}


def test_strings_pass_through_operations(server: Server, stub: PredictionServiceStub) -> None:
    got = predict(stub, "named", x=objects(ODD, (7,)))
    assert [output.tolist() for output in got.values()] == [ODD, ODD]
    ends = predict(stub, "lengths", x=objects(ODD, (7,)))["ends"]
    assert ends.tolist() == np.cumsum([len(item) for item in ODD]).tolist()
    answer = by_rest(server, "named", {"instances": ["text"]})
    assert answer == {"predictions": [{"words": "text", "octets_bytes": {"b64": "dGV4dA=="}}]}


def test_strings_and_numbers_in_one_request(server: Server, stub: PredictionServiceStub) -> None:
    got = predict(stub, "mixed", x=objects([b"a", b""], (2,)), n=np.array([1, 2.5, 3], np.float32))
    assert (got["x"].tolist(), got["twice"].tolist()) == ([b"a", b""], [2, 5, 6])
    answer = by_rest(server, "mixed", {"inputs": {"x": ["a", {"b64": "AA"}], "n": [1]}})
    assert answer == {"outputs": {"x": ["a", "\0"], "twice": [2.0]}}


def test_fewer_strings_than_elements_are_repeated(stub: PredictionServiceStub) -> None:
    shape = {"dim": [{"size": 4}]}
    few = TensorProto(dtype="DT_STRING", tensor_shape=shape, string_val=[b"a", b"bc"])
    assert predict(stub, "words", x=few)["x"].tolist() == [b"a", b"bc", b"bc", b"bc"]
    none = TensorProto(dtype="DT_STRING", tensor_shape=shape)
    assert predict(stub, "words", x=none)["x"].tolist() == [b""] * 4
    bomb = TensorProto(dtype="DT_STRING", tensor_shape={"dim": [{"size": 1 << 24}]}, string_val=[b"a" * 1000])
    with pytest.raises(grpc.RpcError) as caught:
        predict(stub, "words", x=bomb)
    assert "16777216000 bytes of strings; at most 2147483647 are taken" in str(caught.value.details())
    bomb.string_val[0] = b"a" * 100
    with pytest.raises(grpc.RpcError) as caught:
        predict(stub, "words", x=bomb)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "would be repeated to fill" in str(caught.value.details())


def test_rows_of_a_matrix(server: Server, stub: PredictionServiceStub) -> None:
    got = predict(stub, "matrix", x=objects([b"abc", b"", b"d\0e"], (3,)))["x"]
    assert got.tolist() == [[97, 98, 99, 0], [0, 0, 0, 0], [100, 0, 101, 0]]
    fixed = predict(stub, "fixed_matrix", x=objects([b"abcde", b"f"], (2,)))["x"]
    assert fixed.tolist() == [[97, 98, 99, 100, 101], [102, 0, 0, 0, 0]]
    rows = predict(stub, "rows", x=objects([b"abc", b"", b"d\0e"], (3,)))["y_string"]
    assert rows.tolist() == [b"abc", b"", b"d"]
    assert by_rest(server, "rows", {"instances": ["abc", "\u00e9"]}) == {"predictions": ["abc", "\u00e9"]}
    assert by_rest(server, "matrix", {"inputs": ["a"]}) == {"outputs": [[97, 0]]}
    assert by_rest(server, "matrix", {"inputs": [[1, 2]]}) == {"outputs": [[1, 2]]}


def test_metadata_says_strings(server: Server, stub: PredictionServiceStub) -> None:
    answer = stub.GetModelMetadata(
        GetModelMetadataRequest(model_spec={"name": "table"}, metadata_field=["signature_def"]),
        timeout=DEADLINE_S,
    )
    signatures = SignatureDefMap()
    answer.metadata["signature_def"].Unpack(signatures)
    info = signatures.signature_def["serving_default"].inputs["x"]
    assert (info.dtype, [dim.size for dim in info.tensor_shape.dim]) == (7, [-1, -1])
    assert (
        rest_client.request(server.rest_port, "GET", "/v1/models/words/metadata").body.count(b"DT_STRING")
        == 2
    )


@pytest.mark.parametrize(
    ("model", "value", "reason"),
    [
        ("words", np.ones(1, np.float32), "it takes strings; the request's tensor is FP32"),
        ("three", objects([b"a"] * 2, (2,)), "required shape [3]|batch size 2, required batch size 3"),
        ("words", objects([b"a"] * 2, (1, 2)), "Obtained shape [1, 2]"),
        ("vector", objects([b"a"], (1,)), "strings are taken by inputs of strings"),
        ("fixed_matrix", objects([b"abcdef", b""], (2,)), "strings of at most 5 bytes"),
        ("fixed_matrix", objects([b"a"], (1,)), "batch size 1, required batch size 2"),
        ("matrix", objects([b"a"], (1, 1)), "Expected number of input shape dimensions: 1; Actual: 2"),
        ("words", TensorProto(dtype="DT_STRING", tensor_content=b"a"), "belong in string_val"),
        (
            "words",
            TensorProto(dtype="DT_STRING", tensor_shape={"dim": [{"size": 1}]}, string_val=[b"a", b"b"]),
            "string_val has 2 values for 1 elements",
        ),
        (
            "words",
            TensorProto(dtype="DT_STRING", tensor_shape={"dim": [{"size": 1 << 40}]}),
            "at most 33554432|which no tensor can have",
        ),
    ],
)
def test_refusals(stub: PredictionServiceStub, model: str, value: Any, reason: str) -> None:
    said = refusal(stub, model, x=value)
    assert any(part in said for part in reason.split("|")), said


@pytest.mark.parametrize(
    ("model", "body", "reason"),
    [
        ("words", {"inputs": [1, 2]}, "expected a string"),
        ("words", {"inputs": ["a", 2]}, "inputs[1] is the number 2"),
        ("words", {"inputs": [{"b64": "!"}]}, "not base64"),
        ("words", {"inputs": [{"b64": 5}]}, "expected a string"),
        ("words", {"inputs": [["a"], ["b", "c"]]}, "expected a list of 1"),
        ("words", {"inputs": ["\ud800"]}, "surrogate|Invalid JSON"),
        ("vector", {"inputs": ["a"]}, "strings are taken by inputs of strings"),
    ],
)
def test_refusals_over_rest(server: Server, model: str, body: object, reason: str) -> None:
    said = rest_refusal(server, model, body)
    assert any(part in said for part in reason.split("|")), said


def test_a_million_empty_strings(server: Server, stub: PredictionServiceStub) -> None:
    """They come back, and others are answered meanwhile."""
    count = 1_000_000
    many = TensorProto(dtype="DT_STRING", tensor_shape={"dim": [{"size": count}]}, string_val=[b""] * count)
    got: list[AnyArray] = []
    asking = threading.Thread(target=lambda: got.append(predict(stub, "words", x=many)["x"]))
    asking.start()
    answered = 0
    while asking.is_alive():
        assert by_rest(server, "three", {"inputs": ["a", "b", "c"]}) == {"outputs": ["a", "b", "c"]}
        assert predict(stub, "three", x=objects([b"a"] * 3, (3,)))["x"].tolist() == [b"a"] * 3
        answered += 1
    asking.join()
    assert answered
    assert got
    assert (got[0] == b"").all()
    assert got[0].shape == (count,)


def kserve_grpc(
    channel: grpc.Channel, model: str, items: list[bytes], shape: tuple[int, ...], how: str
) -> list[bytes]:
    """The only output's strings, of values sent in this way."""
    tensor = kserve_pb2.ModelInferRequest.InferInputTensor(name="x", datatype="BYTES", shape=shape)
    message = kserve_pb2.ModelInferRequest(model_name=model, inputs=[tensor])
    if how == "raw":
        message.raw_input_contents.append(bytes(length_prefixed(Strings.of(items))))
    else:
        message.inputs[0].contents.bytes_contents.extend(items)
    call = channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        request_serializer=kserve_pb2.ModelInferRequest.SerializeToString,
        response_deserializer=kserve_pb2.ModelInferResponse.FromString,
    )
    answer = call(message, timeout=DEADLINE_S)
    assert (answer.outputs[0].datatype, tuple(answer.outputs[0].shape)) == ("BYTES", shape)
    raw = memoryview(answer.raw_output_contents[0])
    return [bytes(string) for string in parse_length_prefixed(raw, len(items), "x")]


@pytest.mark.parametrize("how", ["raw", "contents"])
@pytest.mark.parametrize(
    ("model", "count", "shape"), [("words", 7, (7,)), ("table", 6, (3, 2)), ("words", 0, (0,))]
)
def test_strings_pass_over_kserve(
    server: Server, model: str, count: int, shape: tuple[int, ...], how: str
) -> None:
    limits = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{server.port}", options=limits) as channel:
        assert kserve_grpc(channel, model, ODD[:count], shape, how) == ODD[:count]
        many = [b"%d" % number for number in range(100_000)]
        assert kserve_grpc(channel, "words", many, (len(many),), how) == many


def test_strings_pass_over_kserve_rest(server: Server) -> None:
    texts = [item.decode() for item in ODD if item.isascii() or b"\xc3" in item]
    tensor: dict[str, object] = {"name": "x", "datatype": "BYTES", "shape": [len(texts)], "data": texts}
    body = json.dumps({"inputs": [tensor]})
    reply = rest_client.request(server.rest_port, "POST", "/v2/models/words/infer", body)
    assert reply.status == 200, reply.text()
    assert reply.json()["outputs"][0]["data"] == texts
    raw = bytes(length_prefixed(Strings.of(ODD)))
    del tensor["data"]
    tensor |= {"shape": [len(ODD)], "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    reply = rest_client.request(server.rest_port, "POST", "/v2/models/words/infer", head + raw, headers)
    assert reply.status == 200, reply.text()
    assert reply.body.endswith(raw)
