# SPDX-License-Identifier: Apache-2.0
"""NumPy arrays as protobuf JSON of ``tensorflow.TensorProto``, and back; by a table of the tests' own."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, TypeAlias

import ml_dtypes
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ovms_mp.model.dtypes import AnyArray

Document: TypeAlias = dict[str, Any]
"""A protobuf message as ``json_format`` reads and writes it; its values have any JSON type."""

NUMPY = {
    "boolean": np.dtype(np.bool_),
    "u8": np.dtype(np.uint8),
    "u16": np.dtype(np.uint16),
    "u32": np.dtype(np.uint32),
    "u64": np.dtype(np.uint64),
    "i8": np.dtype(np.int8),
    "i16": np.dtype(np.int16),
    "i32": np.dtype(np.int32),
    "i64": np.dtype(np.int64),
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "f32": np.dtype(np.float32),
    "f64": np.dtype(np.float64),
    "f8e4m3": np.dtype(ml_dtypes.float8_e4m3fn),
    "f8e5m2": np.dtype(ml_dtypes.float8_e5m2),
}
"""By OpenVINO's name, as in the zoo's ``id_*`` models."""

_TF = {
    "boolean": ("DT_BOOL", "boolVal"),
    "u8": ("DT_UINT8", "intVal"),
    "u16": ("DT_UINT16", "intVal"),
    "u32": ("DT_UINT32", "uint32Val"),
    "u64": ("DT_UINT64", "uint64Val"),
    "i8": ("DT_INT8", "intVal"),
    "i16": ("DT_INT16", "intVal"),
    "i32": ("DT_INT32", "intVal"),
    "i64": ("DT_INT64", "int64Val"),
    "f16": ("DT_HALF", "halfVal"),
    "bf16": ("DT_BFLOAT16", "halfVal"),
    "f32": ("DT_FLOAT", "floatVal"),
    "f64": ("DT_DOUBLE", "doubleVal"),
    "f8e4m3": ("DT_FLOAT8_E4M3FN", "float8Val"),
    "f8e5m2": ("DT_FLOAT8_E5M2", "float8Val"),
}
_OV_NAME = {dtype: name for name, dtype in NUMPY.items()}
_NUMPY_OF_TF = {tf_name: NUMPY[name] for name, (tf_name, _) in _TF.items()}


def content(array: AnyArray) -> Document:
    """The tensor with its elements in ``tensor_content``."""
    return {**_head(array), "tensorContent": base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()}


def typed(array: AnyArray, count: int | None = None) -> Document:
    """The tensor with its first ``count`` elements (None: all) in the field of its dtype."""
    field = _TF[_OV_NAME[array.dtype]][1]
    flat = array.ravel()[:count]
    values: Any  # a list of whatever the field holds, or text
    if field == "float8Val":
        values = base64.b64encode(flat.tobytes()).decode()
    elif field == "halfVal":
        values = flat.view(np.uint16).tolist()
    elif field in ("int64Val", "uint64Val"):
        values = [str(value) for value in flat.tolist()]
    elif field in ("floatVal", "doubleVal"):
        values = [value if np.isfinite(value) else _word(value) for value in flat.tolist()]
    else:
        values = flat.tolist()
    return {**_head(array), field: values}


def array_of(tensor: Mapping[str, Any]) -> AnyArray:
    """The array of an answered tensor, whose elements must be in ``tensor_content``."""
    shape = [int(dimension.get("size", 0)) for dimension in tensor.get("tensorShape", {}).get("dim", [])]
    data = base64.b64decode(tensor.get("tensorContent", ""))
    found: AnyArray = np.frombuffer(data, _NUMPY_OF_TF[tensor["dtype"]]).reshape(shape)
    return found


def _head(array: AnyArray) -> Document:
    dimensions = [{"size": str(size)} for size in array.shape]
    return {"dtype": _TF[_OV_NAME[array.dtype]][0], "tensorShape": {"dim": dimensions}}


def _word(value: float) -> str:
    if np.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"
