# SPDX-License-Identifier: Apache-2.0
"""Tensors of predict requests: where each dtype's values are, and what is refused in which words.

All is asked of ``decode_predict``, so that its way around the generated classes is held to the same answers.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ovms_mp.errors import DtypeMismatch, MalformedPayload
from ovms_mp.front.tfs._proto.tensorflow_framework_pb2 import DataType, TensorProto
from ovms_mp.front.tfs._proto.tensorflow_serving_pb2 import PredictRequest
from ovms_mp.front.tfs.protobuf.decode import decode_predict
from ovms_mp.model.dtypes import NUMERIC_DTYPES, DType, element_count
from tests.support.predict_messages import tensor
from tests.support.protobuf_messages import values_of

if TYPE_CHECKING:
    from ovms_mp.front.tensors import GivenTensor


def request(**inputs: TensorProto) -> bytes:
    """A request as a protobuf library writes it."""
    return PredictRequest(inputs=inputs).SerializeToString()


def elements(given_tensor: GivenTensor) -> tuple[DType, tuple[int, ...], bytes]:
    """A tensor as plain values."""
    values = values_of(given_tensor)
    array = np.frombuffer(values, given_tensor.dtype.numpy) if isinstance(values, memoryview) else values
    assert array.ndim == 1
    assert array.dtype == given_tensor.dtype.numpy
    if isinstance(values, memoryview):
        assert (values.format, len(array)) == ("B", element_count(given_tensor.shape))
    return given_tensor.dtype, given_tensor.shape, array.tobytes()


def field_of(dtype: DType, values: list[int]) -> dict[str, object]:
    """The values in the dtype's own field of a tensor."""
    match dtype:
        case DType.FP16 | DType.BF16:
            return {"half_val": np.array(values, dtype.numpy).view(np.uint16).tolist()}
        case DType.FP8_E5M2 | DType.FP8_E4M3:
            return {"float8_val": np.array(values, dtype.numpy).tobytes()}
        case DType.UINT8 | DType.UINT16 | DType.INT8 | DType.INT16 | DType.INT32:
            return {"int_val": values}
        case DType.BOOL:
            return {"bool_val": [bool(value) for value in values]}
    fields = {"FP32": "float", "FP64": "double", "INT64": "int64", "UINT32": "uint32", "UINT64": "uint64"}
    return {f"{fields[dtype.name]}_val": values}


@pytest.mark.parametrize("dtype", NUMERIC_DTYPES)
@pytest.mark.parametrize("values", [[], [1], [0, 1], [1, 0, 2]], ids=len)
def test_typed_values(dtype: DType, values: list[int]) -> None:
    """Each dtype's own field gives its values, as they are: fewer than elements are not expanded."""
    given_tensor = decode_predict(request(x=tensor(dtype.tf_number, [3], **field_of(dtype, values)))).inputs[
        "x"
    ]
    assert elements(given_tensor) == (dtype, (3,), np.array(values, dtype.numpy).tobytes())


@pytest.mark.parametrize("dtype", [DType.INT8, DType.INT16, DType.INT32, DType.INT64])
def test_least_and_greatest_integers(dtype: DType) -> None:
    """The ends of the range fit, negative numbers as ten-byte varints included."""
    limits = np.iinfo(dtype.numpy.name)
    body = request(x=tensor(dtype.tf_number, [2], **field_of(dtype, [limits.min, limits.max])))
    expected = np.array([limits.min, limits.max], dtype.numpy).tobytes()
    assert elements(decode_predict(body).inputs["x"]) == (dtype, (2,), expected)


def test_content_wins_over_values() -> None:
    """As TensorFlow decides it."""
    body = request(x=tensor(1, [1], struct.pack("<f", 2.0), float_val=[1.0]))
    assert elements(decode_predict(body).inputs["x"])[2] == struct.pack("<f", 2.0)


@pytest.mark.parametrize("dtype", NUMERIC_DTYPES)
@pytest.mark.parametrize("shape", [[], [0], [2, 0, 3], [2, 3]], ids=str)
def test_content(dtype: DType, shape: list[int]) -> None:
    """Scalars and zero-sized tensors are tensors."""
    content = bytes(i & 1 for i in range(element_count(shape) * dtype.itemsize))
    body = request(x=tensor(dtype.tf_number, shape, content))
    assert elements(decode_predict(body).inputs["x"]) == (dtype, tuple(shape), content)


def test_an_enormous_shape_takes_no_memory() -> None:
    """2**124 elements of the compact form are one value to this module."""
    given_tensor = decode_predict(request(x=tensor(1, [2**62, 2**62], float_val=[0.5]))).inputs["x"]
    assert elements(given_tensor) == (DType.FP32, (2**62, 2**62), struct.pack("<f", 0.5))


@pytest.mark.parametrize(
    ("proto", "said"),
    [
        (tensor(1, [2, 3], bytes(20)), ["'x'", "20 bytes", "[2, 3]", "DT_FLOAT", "24"]),
        (tensor(1, [0], bytes(4)), ["'x'", "4 bytes", "takes 0"]),
        (tensor(9, [2**62, 4], bytes(8)), ["'x'", "8 bytes", str(2**67)]),
        (tensor(1, [2], float_val=[1, 2, 3]), ["'x'", "float_val", "3 values", "2 elements"]),
        (tensor(24, [], float8_val=b"12"), ["'x'", "float8_val", "2 values", "1 elements"]),
        (tensor(1, [0], float_val=[1]), ["1 values", "0 elements"]),
        (tensor(4, [2], int_val=[1, 300]), ["'x'", "int_val[1]", "300", "uint8"]),
        (tensor(4, [1], int_val=[-1]), ["-1", "uint8"]),
        (tensor(5, [1], int_val=[2**15]), ["32768", "int16"]),
        (tensor(19, [1], half_val=[2**16]), ["half_val[0]", "65536"]),
        (tensor(14, [1], half_val=[-1]), ["half_val[0]", "-1"]),
        (tensor(1, [-1, 2], bytes(8)), ["'x'", "[-1, 2]", "negative"]),
        (tensor(3, [1], float_val=[1.0]), ["'x'", "DT_INT32", "int_val", "float_val"]),
        (tensor(1, [1], string_val=[b"1"]), ["'x'", "DT_FLOAT", "float_val", "string_val"]),
        (TensorProto(dtype="DT_FLOAT", tensor_shape={"unknown_rank": True}), ["'x'", "unknown rank"]),
    ],
    ids=lambda value: None if isinstance(value, TensorProto) else " ".join(value),
)
def test_malformed_tensors(proto: TensorProto, said: list[str]) -> None:
    """The message names the input, what was given and what would fit."""
    with pytest.raises(MalformedPayload) as caught:
        decode_predict(request(x=proto))
    for part in said:
        assert part in caught.value.message


@pytest.mark.parametrize(
    ("number", "type_name"),
    [
        *((DataType.Value(name), name) for name in ["DT_INVALID", "DT_COMPLEX64", "DT_QUINT8"]),
        (DataType.Value("DT_RESOURCE"), "DT_RESOURCE"),
        (101, "DT_FLOAT_REF"),
        (77, "unknown dtype 77"),
    ],
)
def test_refused_dtypes(number: int, type_name: str) -> None:
    """The message names the input, its type and all that are supported."""
    with pytest.raises(DtypeMismatch) as caught:
        decode_predict(request(x=tensor(number, [1], bytes(4))))
    assert f"'x' is {type_name}" in caught.value.message.replace("of unknown", "unknown")
    assert all(dtype.tf_name in caught.value.message for dtype in DType)
