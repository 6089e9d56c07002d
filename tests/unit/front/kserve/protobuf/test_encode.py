# SPDX-License-Identifier: Apache-2.0
"""Answers of inference, read back by the generated classes."""

from __future__ import annotations

import re

import numpy as np
import pytest

from ovms_mp.client.kserve_grpc import KServeGrpc
from ovms_mp.codes import Code
from ovms_mp.errors import ProtocolError
from ovms_mp.front.kserve._proto.kserve_pb2 import ModelInferResponse, ModelStreamInferResponse
from ovms_mp.front.kserve.protobuf import encode
from ovms_mp.front.kserve.protobuf.encode import encode_stream_failure, infer_pieces, stream_pieces
from ovms_mp.front.strings import Strings
from ovms_mp.front.tensors import ResultTensor
from ovms_mp.model.dtypes import NUMERIC_DTYPES, DType
from tests.support.kserve_client import outputs_of


def result(name: str, dtype: DType, shape: tuple[int, ...]) -> ResultTensor:
    return ResultTensor(name, dtype, shape, memoryview(bytes(range(1, dtype.nbytes(shape) + 1))))


def answer(request_id: str, *outputs: ResultTensor) -> ModelInferResponse:
    return ModelInferResponse.FromString(b"".join(infer_pieces("m", 3, request_id, outputs)))


@pytest.mark.parametrize("dtype", NUMERIC_DTYPES, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("shape", [(), (3,), (2, 0, 5), (1, 2, 3)])
def test_an_answer_is_what_the_classes_write(dtype: DType, shape: tuple[int, ...]) -> None:
    output = result("y", dtype, shape)
    expected = ModelInferResponse(model_name="m", model_version="3", id="number 7")
    expected.outputs.add(name="y", datatype=dtype.name, shape=shape)
    expected.raw_output_contents.append(bytes(output.data))

    for _ in range(2):  # The second one from memory.
        assert answer("number 7", output) == expected


def test_outputs_come_in_the_order_given_and_their_values_behind_them() -> None:
    outputs = [result("b", DType.FP32, (2,)), result("", DType.BOOL, (0,)), result("a", DType.INT64, (1, 1))]
    response = answer("", *outputs)

    assert [output.name for output in response.outputs] == ["b", "", "a"]
    assert list(response.raw_output_contents) == [bytes(output.data) for output in outputs]
    assert response.id == ""


def test_tensors_are_not_copied() -> None:
    output = result("y", DType.UINT8, (200,))
    assert any(piece is output.data for piece in infer_pieces("m", 1, "", [output]))


def test_strings_have_their_lengths_before_them() -> None:
    strings = Strings.of([b"a", b"", b"\xff" * 300])
    place = memoryview(bytearray(strings.packed_nbytes))
    strings.write_packed(place)
    response = answer("", ResultTensor("y", DType.BYTES, (3, 1), place), result("z", DType.UINT8, (1,)))

    assert response.outputs[0].datatype == "BYTES"
    assert outputs_of(response)["y"].tolist() == [[b"a"], [b""], [b"\xff" * 300]]


def test_an_output_of_another_size_is_a_defect() -> None:
    wrong = ResultTensor("y", DType.FP32, (2,), memoryview(bytes(7)))
    with pytest.raises(ProtocolError, match=re.escape("Output 'y' of shape (2,): 7 bytes, not 8")):
        infer_pieces("m", 1, "", [wrong])


@pytest.mark.parametrize("size", [1, 200, 70_000])
def test_an_answer_in_a_stream_is_marked_as_the_last(size: int) -> None:
    output = result("y", DType.UINT8, (1,))
    long = ResultTensor("z", DType.UINT8, (size,), memoryview(bytes(size)))
    response = ModelStreamInferResponse.FromString(b"".join(stream_pieces("m", 3, "i", [output, long])))

    inner = response.infer_response
    assert (response.error_message, inner.id, inner.model_version) == ("", "i", "3")
    assert inner.parameters["triton_final_response"].bool_param
    assert np.array_equal(outputs_of(inner)["z"], np.zeros(size, np.uint8))


def test_a_failure_in_a_stream_says_which_it_is_and_of_which_request() -> None:
    octets = encode_stream_failure("i", "why", Code.NOT_FOUND)
    response = ModelStreamInferResponse.FromString(octets)
    assert (response.error_message, response.infer_response.id) == ("why", "i")
    assert response.infer_response.parameters["grpc_status"].string_param == "NOT_FOUND"
    assert KServeGrpc().stream_answer(memoryview(octets)) == ("why", Code.NOT_FOUND, {})


def test_remembered_pieces_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "_MOST_REMEMBERED", 8)
    for size in range(30):
        response = answer("", result(f"y{size}", DType.UINT8, (size,)))
        assert response.outputs[0].shape == [size]
    assert len(encode._heads) <= 8
