# SPDX-License-Identifier: Apache-2.0
"""Answers of inference requests: JSON, binary tensors, classes and strings, as they were asked for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest

from ovms_mp.errors import AnswerTooLarge, MalformedPayload
from ovms_mp.front.gathered import Gathered
from ovms_mp.front.kserve.infer_request import InferRequest, RequestedOutput
from ovms_mp.front.kserve.json.encode import encode_infer
from ovms_mp.front.routing import VersionRoute
from ovms_mp.front.strings import Strings
from ovms_mp.front.tensors import ResultTensor
from ovms_mp.model.dtypes import DType
from ovms_mp.model.status import State, VersionStatus

if TYPE_CHECKING:
    from ovms_mp.model.dtypes import AnyArray

ROUTE = VersionRoute("m", VersionStatus(7, State.AVAILABLE), ("e",), 1, 1, "", (), (), None)


def result(array: AnyArray, name: str = "y") -> ResultTensor:
    dtype = next(dtype for dtype in DType if dtype.numpy == array.dtype)
    return ResultTensor(name, dtype, array.shape, memoryview(array.tobytes()))


def strings(*texts: bytes) -> ResultTensor:
    packed = Strings.of(texts)
    place = bytearray(packed.packed_nbytes)
    packed.write_packed(memoryview(place))
    return ResultTensor("y", DType.BYTES, (len(texts),), memoryview(place))


def answered(*results: ResultTensor, **more: Any) -> tuple[Any, bytes]:
    request = InferRequest("m", "", more.pop("id", ""), {}, more.pop("outputs", ()), more)
    body, length = encode_infer(request, ROUTE, results)
    assert not isinstance(body, Gathered)
    return json.loads(body[: length or len(body)]), bytes(body[length:]) if length else b""


def binary(value: Any = True, **more: Any) -> tuple[RequestedOutput, ...]:
    return (RequestedOutput("y", {"binary_data": value, **more}),)


ARRAY = np.array([[1.5, 2]], np.float32)


def test_json() -> None:
    document, rest = answered(result(ARRAY), id='a"')
    assert document == {
        "id": 'a"',
        "model_name": "m",
        "model_version": "7",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1.5, 2.0]}],
    }
    assert (next(iter(document)), rest) == ("id", b"")
    assert "id" not in answered(result(ARRAY))[0]


@pytest.mark.parametrize(
    "array",
    [
        np.array([2**63 - 1, -(2**63)]),
        np.array([2**64 - 1], np.uint64),
        np.array([0.1, 5e-324, 1 / 3]),
        np.array([True, False]),
        np.array([0.1, 65504], np.float16),
        np.array([0.1, 3e38], ml_dtypes.bfloat16),
        np.array(3, np.int8),
        np.zeros((0, 2), np.float32),
        np.array([np.nan, np.inf, -np.inf], np.float32),
    ],
)
def test_numbers_are_exact(array: AnyArray) -> None:
    (output,) = answered(result(array))[0]["outputs"]
    wide = array.dtype if array.dtype.kind in "iub" else np.float64
    found = np.array(output["data"], wide).astype(array.dtype).reshape(output["shape"])
    np.testing.assert_array_equal(found, array)


def test_binary_where_it_is_asked_for() -> None:
    other = result(np.array([9], np.int8), "z")
    outputs = (*binary(), RequestedOutput("z"))
    document, rest = answered(result(ARRAY), other, outputs=outputs)
    assert rest == ARRAY.tobytes()
    assert document["outputs"][0]["parameters"] == {"binary_data_size": 8}
    assert "data" not in document["outputs"][0]
    assert document["outputs"][1]["data"] == [9]


def test_all_binary_but_what_is_asked_for_as_text() -> None:
    other = result(np.array([9], np.int8), "z")
    assert answered(result(ARRAY), other, binary_data_output=True)[1] == ARRAY.tobytes() + b"\x09"
    document, rest = answered(result(ARRAY), outputs=binary(False), binary_data_output=True)
    assert (document["outputs"][0]["data"], rest) == ([1.5, 2.0], b"")


def test_an_empty_tensor_has_a_size_too() -> None:
    document, _ = answered(result(np.zeros((0, 4), np.float32)), outputs=binary())
    assert document["outputs"][0]["parameters"] == {"binary_data_size": 0}


def test_outputs_are_in_the_order_that_was_asked_for() -> None:
    outputs = (RequestedOutput("z"), RequestedOutput("y"), RequestedOutput("z"))
    document, _ = answered(result(ARRAY), result(ARRAY, "z"), outputs=outputs)
    assert [output["name"] for output in document["outputs"]] == ["z", "y"]


def test_strings() -> None:
    assert answered(strings(b"a", "ü\0".encode()))[0]["outputs"][0]["data"] == ["a", "ü\0"]
    assert answered(strings(b"a\xff"), outputs=binary())[1] == b"\2\0\0\0a\xff"
    with pytest.raises(
        MalformedPayload, match=r"string 1 is not UTF-8 .* ask for the output with the parameter 'binary_d"
    ):
        answered(strings(b"a", b"\xff"))


def test_classes() -> None:
    output = RequestedOutput("y", {"classification": 1})
    (found,) = answered(result(ARRAY), outputs=(output,))[0]["outputs"]
    assert found == {"name": "y", "datatype": "BYTES", "shape": [1, 1], "data": ["2.000000:1"]}
    assert answered(result(ARRAY), outputs=binary(classification=1))[1] == b"\x0a\0\0\0002.000000:1"


@pytest.mark.parametrize("value", [1, "true", 0.0])
def test_flags_are_true_or_false(value: Any) -> None:
    with pytest.raises(MalformedPayload, match="parameter 'binary_data' of output 'y' must be true or false"):
        answered(result(ARRAY), outputs=binary(value))
    with pytest.raises(MalformedPayload, match="parameter 'binary_data_output' of the request must be"):
        answered(result(ARRAY), binary_data_output=value)


def test_long_texts_are_refused() -> None:
    request = InferRequest("m", "", "", {})
    with pytest.raises(AnswerTooLarge, match="--max_message_mb"):
        encode_infer(request, ROUTE, [result(np.ones(100_000, np.float32))], 1000)
    with pytest.raises(AnswerTooLarge, match="--max_message_mb"):
        encode_infer(request, ROUTE, [strings(b"a" * 2000)], 1000)
