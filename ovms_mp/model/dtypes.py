# SPDX-License-Identifier: Apache-2.0
"""The one dtype table: OpenVINO's element types beside TensorFlow's and NumPy's.

Every other module asks here; none keeps a table of its own. Numbers are those of TensorFlow's
``types.proto``, names those of ``openvino.Type``. bfloat16 and the 8-bit floats are NumPy extension types of
the ``ml_dtypes`` package, the one that TensorFlow and JAX use.

Element types without a whole number of bytes (u1, u2, i4, u4, nf4, f4e2m1) and f8e8m0 have no row: no
protocol of ours carries them, so a model that has one at its boundary fails to load with
:class:`~ovms_mp.errors.ModelLoadFailed`.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterable

AnyArray: TypeAlias = npt.NDArray[np.generic]
"""An array of whichever dtype the table holds."""


_LEAST_STRING_BYTES = 4
"""See :mod:`ovms_mp.wire.strings`."""


class Kind(enum.Enum):
    """What a dtype's values are; conversions are decided by kind."""

    BOOL = "bool"
    INTEGER = "integer"
    FLOAT = "float"
    STRING = "string"


class DType(enum.Enum):
    """An element type. The member's name is KServe's; the value is (OpenVINO, TensorFlow, NumPy, kind)."""

    BOOL = ("boolean", 10, np.dtype(np.bool_), Kind.BOOL)
    UINT8 = ("u8", 4, np.dtype(np.uint8), Kind.INTEGER)
    UINT16 = ("u16", 17, np.dtype(np.uint16), Kind.INTEGER)
    UINT32 = ("u32", 22, np.dtype(np.uint32), Kind.INTEGER)
    UINT64 = ("u64", 23, np.dtype(np.uint64), Kind.INTEGER)
    INT8 = ("i8", 6, np.dtype(np.int8), Kind.INTEGER)
    INT16 = ("i16", 5, np.dtype(np.int16), Kind.INTEGER)
    INT32 = ("i32", 3, np.dtype(np.int32), Kind.INTEGER)
    INT64 = ("i64", 9, np.dtype(np.int64), Kind.INTEGER)
    FP16 = ("f16", 19, np.dtype(np.float16), Kind.FLOAT)
    BF16 = ("bf16", 14, np.dtype(ml_dtypes.bfloat16), Kind.FLOAT)
    FP32 = ("f32", 1, np.dtype(np.float32), Kind.FLOAT)
    FP64 = ("f64", 2, np.dtype(np.float64), Kind.FLOAT)
    FP8_E5M2 = ("f8e5m2", 24, np.dtype(ml_dtypes.float8_e5m2), Kind.FLOAT)
    FP8_E4M3 = ("f8e4m3", 25, np.dtype(ml_dtypes.float8_e4m3fn), Kind.FLOAT)
    BYTES = ("string", 7, np.dtype(np.object_), Kind.STRING)
    """Strings of octets. Their size does not follow from a shape; ``itemsize`` is the least that one takes."""

    # Plain attributes, not properties: the request path reads them several times a tensor.
    ov_name: str
    tf_number: int
    numpy: np.dtype[np.generic]
    kind: Kind
    itemsize: int

    def __init__(self, ov_name: str, tf_number: int, numpy: np.dtype[np.generic], kind: Kind) -> None:
        self.ov_name = ov_name
        self.tf_number = tf_number
        self.numpy = numpy
        self.kind = kind
        self.itemsize = _LEAST_STRING_BYTES if kind is Kind.STRING else numpy.itemsize

    def nbytes(self, shape: Iterable[int]) -> int:
        """Size in bytes of a dense tensor of this dtype and a static shape; of strings the least size."""
        return element_count(shape) * self.itemsize

    @property
    def tf_name(self) -> str:
        """Name in TensorFlow's ``DataType`` enum, e.g. ``DT_FLOAT``."""
        return _TF_NAMES.get(self, f"DT_{self.name}")


NUMERIC_DTYPES = tuple(dtype for dtype in DType if dtype.kind is not Kind.STRING)
_TF_NAMES = {
    DType.FP16: "DT_HALF",
    DType.BF16: "DT_BFLOAT16",
    DType.FP32: "DT_FLOAT",
    DType.FP64: "DT_DOUBLE",
    DType.FP8_E5M2: "DT_FLOAT8_E5M2",
    DType.FP8_E4M3: "DT_FLOAT8_E4M3FN",
    DType.BYTES: "DT_STRING",
}
_BY_TF_NUMBER = {dtype.tf_number: dtype for dtype in DType}
_BY_OV_NAME = {dtype.ov_name: dtype for dtype in DType}


def dtype_of_tf(number: int) -> DType | None:
    """The dtype of a ``tensorflow.DataType`` number, or None where no tensor of ours has it (complex...)."""
    return _BY_TF_NUMBER.get(number)


def dtype_of_openvino(type_name: str) -> DType | None:
    """The dtype of an ``openvino.Type`` name such as ``f32``, or None where it has no row."""
    return _BY_OV_NAME.get(type_name)


def element_count(shape: Iterable[int]) -> int:
    """Number of elements of a static shape; 1 for a scalar, 0 as soon as one dimension is 0."""
    count = 1
    for dimension in shape:
        count *= dimension
    return count
