# SPDX-License-Identifier: Apache-2.0
"""The typed form says the same as the raw one; the decoder for requests is the witness."""

from __future__ import annotations

import numpy as np
import pytest

from ovms_mp.front.tensors import BytesTensor, ResultTensor
from ovms_mp.front.tfs._proto.tensorflow_serving_pb2 import PredictResponse
from ovms_mp.front.tfs.protobuf.encode_typed import encode_predict_typed
from ovms_mp.front.tfs.protobuf.values import VALUE_FIELD, given_tensor
from ovms_mp.model.dtypes import NUMERIC_DTYPES, DType


@pytest.mark.parametrize("dtype", NUMERIC_DTYPES)
@pytest.mark.parametrize("shape", [(2, 3), (), (0, 4)])
def test_values_come_back_bit_by_bit(dtype: DType, shape: tuple[int, ...]) -> None:
    values = np.arange(int(np.prod(shape))).reshape(shape).astype(dtype.numpy)
    output = ResultTensor("y", dtype, shape, memoryview(values.tobytes()))

    response = PredictResponse.FromString(encode_predict_typed("m", 7, [output]))

    tensor = response.outputs["y"]
    assert (response.model_spec.name, response.model_spec.version.value) == ("m", 7)
    assert not tensor.tensor_content
    assert bool(getattr(tensor, VALUE_FIELD[dtype])) == bool(values.size)
    given = given_tensor("y", tensor)
    assert (given.dtype, given.shape) == (dtype, shape)
    assert not isinstance(given, BytesTensor)
    assert np.asarray(given.values).tobytes() == values.tobytes()
