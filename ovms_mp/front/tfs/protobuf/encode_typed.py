# SPDX-License-Identifier: Apache-2.0
"""Results to a ``PredictResponse`` with the values in TensorFlow's typed fields instead of ``tensor_content``.

What the legacy server did with ``SERIALIZATION_FUNCTION=_prepare_output_as_AppendArrayToTensorProto``, for clients
that read ``float_val`` and nothing else. It makes a Python object of every element, so it is some hundred times
slower than :mod:`~ovms_mp.front.tfs.protobuf.encode` on large tensors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ovms_mp.front.tfs._proto.tensorflow_serving_pb2 import PredictResponse
from ovms_mp.front.tfs.protobuf.encode import SIGNATURE
from ovms_mp.front.tfs.protobuf.values import VALUE_FIELD
from ovms_mp.model.dtypes import DType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.front.tensors import ResultTensor


def encode_predict_typed(model_name: str, version: int, outputs: Sequence[ResultTensor]) -> bytes:
    """Write a predict response with typed fields.

    Args:
        model_name: The model that answered.
        version: The version that answered, positive.
        outputs: Its outputs. Their values are copied; the leases may end afterwards.
    """
    response = PredictResponse()
    response.model_spec.name = model_name
    response.model_spec.version.value = version
    response.model_spec.signature_name = SIGNATURE
    for output in outputs:
        tensor = response.outputs[output.name]
        tensor.dtype = output.dtype.tf_number  # type: ignore[assignment]  # an enum's number, which protobuf takes
        tensor.tensor_shape.SetInParent()
        for size in output.shape:
            tensor.tensor_shape.dim.add(size=size)
        field = VALUE_FIELD[output.dtype]
        if output.dtype is DType.BYTES:
            tensor.string_val.extend([bytes(string) for string in output.strings()])
        elif field == "float8_val":
            tensor.float8_val = bytes(output.data)
        elif field == "half_val":
            tensor.half_val.extend(np.frombuffer(output.data, dtype=np.uint16).tolist())
        else:
            getattr(tensor, field).extend(output.array().ravel().tolist())
    return response.SerializeToString()
