# SPDX-License-Identifier: Apache-2.0
"""``encode_predict`` against the generated classes."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovms_mp.errors import ProtocolError
from ovms_mp.front.tensors import ResultTensor
from ovms_mp.front.tfs._proto.tensorflow_serving_pb2 import PredictResponse
from ovms_mp.front.tfs.protobuf import encode
from ovms_mp.front.tfs.protobuf.encode import encode_predict
from ovms_mp.model.dtypes import NUMERIC_DTYPES, DType, element_count


def result(name: str, dtype: DType, shape: tuple[int, ...], byte: int = 1) -> ResultTensor:
    """An output whose elements are all made of the same byte."""
    return ResultTensor(
        name, dtype, shape, memoryview(bytes([byte]) * (element_count(shape) * dtype.itemsize))
    )


def by_the_classes(model_name: str, version: int, outputs: list[ResultTensor]) -> PredictResponse:
    """The response as protobuf builds it."""
    response = PredictResponse()
    response.model_spec.name = model_name
    response.model_spec.version.value = version
    response.model_spec.signature_name = "serving_default"
    for output in outputs:
        tensor = response.outputs[output.name]
        tensor.dtype = output.dtype.tf_number  # type: ignore[assignment] # the stub wants the enum's own type
        tensor.tensor_shape.SetInParent()
        for size in output.shape:
            tensor.tensor_shape.dim.add(size=size)
        tensor.tensor_content = bytes(output.data)
    return response


results = st.builds(
    result,
    name=st.one_of(st.text(max_size=5), st.just("n" * 200)),
    dtype=st.sampled_from(NUMERIC_DTYPES),
    shape=st.lists(st.sampled_from([0, 1, 2, 3, 40]), max_size=3).map(tuple),
    byte=st.integers(0, 255),
)


@settings(max_examples=150, deadline=None)
@given(
    model_name=st.one_of(st.text(max_size=5), st.just("m" * 200)),
    version=st.integers(1, 2**63 - 1),
    outputs=st.lists(results, max_size=3, unique_by=lambda output: output.name),
)
def test_the_classes_read_what_was_meant(model_name: str, version: int, outputs: list[ResultTensor]) -> None:
    """Any response reads back as built; one with a single output is the same to the byte."""
    expected = by_the_classes(model_name, version, outputs)
    for _fresh_then_remembered in range(2):
        encoded = encode_predict(model_name, version, outputs)
        assert PredictResponse.FromString(encoded) == expected
        if len(outputs) < 2:
            assert encoded == expected.SerializeToString()


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1, 1000)], ids=str)
@pytest.mark.parametrize("dtype", NUMERIC_DTYPES)
def test_every_dtype_and_odd_shapes(dtype: DType, shape: tuple[int, ...]) -> None:
    """Scalars and tensors without elements included: the shape is always present."""
    outputs = [result("y", dtype, shape)]
    encoded = encode_predict("m", 1, outputs)
    assert encoded == by_the_classes("m", 1, outputs).SerializeToString()
    assert PredictResponse.FromString(encoded).outputs["y"].HasField("tensor_shape")


def test_dtypes_of_one_name_and_shape_are_told_apart() -> None:
    """What is remembered of one output is not used for another."""
    for version, dtype in enumerate(NUMERIC_DTYPES, start=1):
        response = PredictResponse.FromString(encode_predict("m", version, [result("y", dtype, (2, 3))]))
        assert response.outputs["y"].dtype == dtype.tf_number
        assert response.model_spec.version.value == version


def test_the_bytes_are_copied_once() -> None:
    """8 MB of output take 8 MB, and a later change of the arena does not show."""
    arena = bytearray(8_000_000)
    output = ResultTensor("y", DType.FP32, (2, 1000, 1000), memoryview(arena))
    encode_predict("m", 1, [output])
    tracemalloc.start()
    try:
        encoded = encode_predict("m", 1, [output])
        assert tracemalloc.get_traced_memory()[1] < 8_020_000
    finally:
        tracemalloc.stop()
    arena[:] = b"\xff" * len(arena)
    assert PredictResponse.FromString(encoded).outputs["y"].tensor_content == bytes(8_000_000)


def test_remembered_pieces_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes and versions that never come back take no memory."""
    monkeypatch.setattr(encode, "_REMEMBERED_PIECES", 8)
    for size in range(1, 30):
        outputs = [result("y", DType.INT8, (size,))]
        encoded = encode_predict("m", size, outputs)
        assert encoded == by_the_classes("m", size, outputs).SerializeToString()
    assert len(encode._heads) <= 8
    assert len(encode._specs) <= 8


@pytest.mark.parametrize("nbytes", [0, 39, 41])
def test_a_wrong_number_of_bytes_is_our_defect(nbytes: int) -> None:
    """Lengths on the wire come from the shape, so bytes that disagree must not leave."""
    output = ResultTensor("y", DType.FP32, (1, 10), memoryview(bytes(nbytes)))
    with pytest.raises(ProtocolError, match=rf"'y'.*\(1, 10\).*{nbytes} bytes, not 40"):
        encode_predict("m", 1, [output])
