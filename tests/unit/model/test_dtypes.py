# SPDX-License-Identifier: Apache-2.0
"""The dtype table holds together, within itself and with TensorFlow's numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovms_mp.model.dtypes import NUMERIC_DTYPES, DType, Kind, dtype_of_openvino, dtype_of_tf, element_count

ROWS = {
    # KServe name: (openvino.Type, tensorflow DataType, its number, bytes, kind)
    "BOOL": ("boolean", "DT_BOOL", 10, 1, Kind.BOOL),
    "UINT8": ("u8", "DT_UINT8", 4, 1, Kind.INTEGER),
    "UINT16": ("u16", "DT_UINT16", 17, 2, Kind.INTEGER),
    "UINT32": ("u32", "DT_UINT32", 22, 4, Kind.INTEGER),
    "UINT64": ("u64", "DT_UINT64", 23, 8, Kind.INTEGER),
    "INT8": ("i8", "DT_INT8", 6, 1, Kind.INTEGER),
    "INT16": ("i16", "DT_INT16", 5, 2, Kind.INTEGER),
    "INT32": ("i32", "DT_INT32", 3, 4, Kind.INTEGER),
    "INT64": ("i64", "DT_INT64", 9, 8, Kind.INTEGER),
    "FP16": ("f16", "DT_HALF", 19, 2, Kind.FLOAT),
    "BF16": ("bf16", "DT_BFLOAT16", 14, 2, Kind.FLOAT),
    "FP32": ("f32", "DT_FLOAT", 1, 4, Kind.FLOAT),
    "FP64": ("f64", "DT_DOUBLE", 2, 8, Kind.FLOAT),
    "FP8_E5M2": ("f8e5m2", "DT_FLOAT8_E5M2", 24, 1, Kind.FLOAT),
    "FP8_E4M3": ("f8e4m3", "DT_FLOAT8_E4M3FN", 25, 1, Kind.FLOAT),
    "BYTES": ("string", "DT_STRING", 7, 4, Kind.STRING),
}


def test_the_table_has_these_rows() -> None:
    assert {
        dtype.name: (dtype.ov_name, dtype.tf_name, dtype.tf_number, dtype.itemsize, dtype.kind)
        for dtype in DType
    } == ROWS


def test_no_two_rows_share_a_name_or_number() -> None:
    for column in ("ov_name", "tf_name", "tf_number", "numpy"):
        assert len({getattr(dtype, column) for dtype in DType}) == len(ROWS)


@pytest.mark.parametrize("dtype", NUMERIC_DTYPES)
def test_numpy_agrees(dtype: DType) -> None:
    assert dtype.itemsize == dtype.numpy.itemsize
    digits = "".join(letter for letter in dtype.ov_name.partition("e")[0] if letter.isdigit())
    if dtype.kind is not Kind.BOOL and not dtype.name.startswith("FP8"):
        assert dtype.itemsize * 8 == int(digits)
    # Little-endian, or of one byte.
    assert dtype.numpy.newbyteorder("<") == dtype.numpy
    if dtype.kind is Kind.INTEGER:
        assert np.dtype(dtype.numpy).kind == ("u" if dtype.name.startswith("U") else "i")


@pytest.mark.parametrize("dtype", DType)
def test_found_by_either_name(dtype: DType) -> None:
    assert dtype_of_tf(dtype.tf_number) is dtype
    assert dtype_of_openvino(dtype.ov_name) is dtype


@pytest.mark.parametrize("number", [0, 8, 11, 12, 13, 15, 16, 18, 20, 21, 101, -1])
def test_other_tensorflow_types_have_no_row(number: int) -> None:
    assert dtype_of_tf(number) is None


@pytest.mark.parametrize("name", ["", "u1", "u4", "i4", "nf4", "f4e2m1", "f8e8m0", "F32", "dynamic"])
def test_other_openvino_types_have_no_row(name: str) -> None:
    assert dtype_of_openvino(name) is None


@given(shape=st.lists(st.integers(0, 1 << 40), max_size=6))
def test_element_count_is_exact(shape: list[int]) -> None:
    assert element_count(shape) == math.prod(shape)


@pytest.mark.parametrize("dtype", NUMERIC_DTYPES, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("shape", [(), (0, 7), (2, 3)])
def test_size_is_that_of_numpy_s_array(dtype: DType, shape: tuple[int, ...]) -> None:
    assert dtype.nbytes(shape) == np.zeros(shape, dtype.numpy).nbytes
