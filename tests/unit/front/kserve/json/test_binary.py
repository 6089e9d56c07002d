# SPDX-License-Identifier: Apache-2.0
"""Binary tensors behind the JSON, and bodies that are nothing else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ovms_mp.errors import MalformedPayload
from ovms_mp.front.kserve.json.assemble import assemble, header_length, raw_request
from ovms_mp.front.kserve.json.binary import Binary, Part
from ovms_mp.front.kserve.json.decode import decode_json
from ovms_mp.front.protobuf.turns import at_one_go
from ovms_mp.front.tensors import BytesTensor, RawTensor
from ovms_mp.model.dtypes import DType
from ovms_mp.model.tensors import TensorSpec

if TYPE_CHECKING:
    from ovms_mp.front.kserve.infer_request import InferRequest


def item(name: str, size: Any, shape: Any = (2,), datatype: str = "FP32", **more: Any) -> dict[str, Any]:
    parameters = {"binary_data_size": size}
    return {"name": name, "shape": shape, "datatype": datatype, "parameters": parameters, **more}


def request_of(binary: bytes | None, *inputs: Any) -> InferRequest:
    text = json.dumps({"inputs": inputs}).encode()
    rest = None if binary is None else memoryview(binary)
    return at_one_go(assemble(decode_json(text), None if rest is None else Binary([Part(rest)]), (), "m", ""))


def test_tensors_are_slices_in_the_order_of_the_inputs() -> None:
    octets = bytes(range(10))
    text = {"name": "b", "shape": [1], "datatype": "FP32", "data": [1]}
    request = request_of(octets, item("a", 8), text, item("c", 0, [0, 3]), item("d", 2, [1], "BF16"))
    values = {
        name: bytes(tensor.values) for name, tensor in request.inputs.items() if isinstance(tensor, RawTensor)
    }

    assert values == {"a": octets[:8], "c": b"", "d": octets[8:10]}


def test_strings_are_behind_their_lengths() -> None:
    request = request_of(b"\2\0\0\0ab\0\0\0\0", item("x", 10, [2], "BYTES"))
    tensor = request.inputs["x"]

    assert isinstance(tensor, BytesTensor)
    assert [bytes(text) for text in tensor.strings or ()] == [b"ab", b""]


@pytest.mark.parametrize(
    ("binary", "inputs", "message"),
    [
        (
            b"1234567",
            [item("x", 8)],
            "smaller than binary_data_size parameter indicates: input 'x' takes 8 bytes, and 7",
        ),
        (b"123456789", [item("x", 8)], "1 bytes of the body belong to no input"),
        (
            b"1234",
            [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}],
            "4 bytes of the body belong to no",
        ),
        (None, [item("x", 8)], "without the header Inference-Header-Content-Length the whole body is JSON"),
        (b"12345678", [item("x", 8, [3])], "Expected: 12 bytes; Actual: 8 bytes; input name: 'x'"),
        (b"12345678", [item("x", 8, [2], "INT64")], "Expected: 16 bytes; Actual: 8 bytes"),
        (b"", [item("x", 0)], "Expected: 8 bytes; Actual: 0 bytes"),
        (b"", [item("x", -1)], "binary_data_size parameter is invalid and cannot be parsed"),
        (b"", [item("x", "8")], "binary_data_size parameter is invalid"),
        (b"", [item("x", 8.0)], "binary_data_size parameter is invalid"),
        (b"", [item("x", True)], "binary_data_size parameter is invalid"),
        (b"", [item("x", 2**63)], "smaller than binary_data_size"),
        (b"12345678", [item("x", 8, data=[1, 2])], "both in binary data and in content value"),
        (b"\5\0\0\0ab", [item("x", 6, [1], "BYTES")], "string 0 is said to have 5 bytes, but 2 follow"),
    ],
)
def test_what_does_not_add_up(binary: bytes | None, inputs: list[Any], message: str) -> None:
    with pytest.raises(MalformedPayload, match=message):
        request_of(binary, *inputs)


@pytest.mark.parametrize("text", ["", "-1", "+1", "1.0", "x", "1 2", "\u0663", "9" * 30])
def test_a_header_that_is_no_number(text: str) -> None:
    with pytest.raises(MalformedPayload, match="header is invalid and couldn't be parsed"):
        header_length(text, 100)


def test_a_header_beyond_the_body() -> None:
    assert header_length("100", 100) == 100
    with pytest.raises(
        MalformedPayload, match="exceeds actual payload length: it is 101, and the body has 100"
    ):
        header_length("101", 100)


FREE, ONE = (0, -1), (1, 1)


@pytest.mark.parametrize(
    ("bounds", "shape"),
    [((ONE, (3, 3)), (1, 3)), ((FREE, (3, 3)), (1, 3)), ((FREE,), (3,)), (((1, 9), ONE), (3, 1))],
)
def test_a_raw_body_is_the_only_input(bounds: tuple[tuple[int, int], ...], shape: tuple[int, ...]) -> None:
    body = np.arange(3, dtype=np.float32).tobytes()
    request = raw_request(Part(memoryview(body)), [TensorSpec.of("x", DType.FP32, bounds)], "m", "")

    assert request.inputs["x"].shape == shape
    assert request.parameters == {"binary_data_output": True}


def test_a_raw_body_for_strings_is_one_string() -> None:
    tensor = raw_request(
        Part(memoryview(b"abc")), [TensorSpec.of("x", DType.BYTES, (FREE,))], "m", ""
    ).inputs["x"]
    assert isinstance(tensor, BytesTensor)
    assert (tensor.shape, [bytes(text) for text in tensor.strings or ()]) == ((1,), [b"abc"])


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([], "this model has 0"),
        ([TensorSpec.of(name, DType.FP32, (FREE,)) for name in "ab"], r"this model has 2: \['a', 'b'\]"),
        ([TensorSpec.of("x", DType.FP32, (FREE, FREE))], "in which 2 dimensions may vary"),
        ([TensorSpec.of("x", DType.FP32, (FREE, (2, 2)))], "needs a multiple of 8"),
        (
            [TensorSpec.of("x", DType.FP32, ((2, 2),))],
            r"the body has 12 bytes, and input 'x' \(FP32\) .* needs 8",
        ),
    ],
)
def test_raw_bodies_that_say_no_shape(specs: list[TensorSpec], message: str) -> None:
    with pytest.raises(MalformedPayload, match=message):
        raw_request(Part(memoryview(bytes(12))), specs, "m", "")
