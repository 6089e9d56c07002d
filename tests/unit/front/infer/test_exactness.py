# SPDX-License-Identifier: Apache-2.0
"""Values beyond an input's exact range are found, wherever they are, and named."""

from __future__ import annotations

import numpy as np
import pytest

from ovms_mp.errors import ValueNotExact
from ovms_mp.front.infer.exactness import refuse_inexact
from ovms_mp.model.dtypes import AnyArray, DType
from ovms_mp.model.tensors import ExactRange, TensorSpec

INT32 = (-(2.0**31), 2.0**31 - 1)
UINT31 = (0.0, 2.0**31 - 1)
FP32 = (-float(np.finfo(np.float32).max), float(np.finfo(np.float32).max))


def check(dtype: DType, values: AnyArray, exact: ExactRange | None) -> None:
    spec = TensorSpec.of("x", dtype, ((0, -1),) * values.ndim, exact)
    refuse_inexact(spec, values.shape, memoryview(values.tobytes()))


@pytest.mark.parametrize(
    ("dtype", "values", "exact"),
    [
        (DType.INT64, [2**31 - 1, -(2**31), 0], INT32),
        (DType.INT64, [2**63 - 1], None),
        (DType.UINT64, [0, 2**31 - 1], UINT31),
        (DType.INT32, [2**24, -(2**24)], (-(2.0**24), 2.0**24)),
        (DType.FP64, [0.1, 1e-300, -3.4e38, 16777217.0, float("nan")], FP32),
        (DType.FP64, [float("nan")], FP32),
        (DType.INT64, [], INT32),
        (DType.FP64, [], FP32),
    ],
)
def test_values_in_range_pass(dtype: DType, values: list[float], exact: ExactRange | None) -> None:
    check(dtype, np.array(values, dtype.numpy), exact)


@pytest.mark.parametrize(
    ("dtype", "values", "exact", "found"),
    [
        (DType.INT64, [1, 2**31, 2**40], INT32, "2147483648 at index [1]"),
        (DType.INT64, [0, 0, -(2**31) - 1], INT32, "-2147483649 at index [2]"),
        (DType.INT64, [[1, 2], [3, 2**63 - 1]], INT32, "9223372036854775807 at index [1, 1]"),
        (DType.INT64, [-(2**63)], INT32, "-9223372036854775808 at index [0]"),
        (DType.UINT64, [7, 2**64 - 1], UINT31, "18446744073709551615 at index [1]"),
        (DType.UINT64, [2**31], UINT31, "2147483648 at index [0]"),
        (DType.UINT32, [2**31 - 1, 2**31], UINT31, "2147483648 at index [1]"),
        (DType.INT32, [2**24 + 1], (-(2.0**24), 2.0**24), "16777217 at index [0]"),
        (DType.FP64, [0.0, 1e300], FP32, "1e+300 at index [1]"),
        (DType.FP64, [float("nan"), -1e39], FP32, "-1e+39 at index [1]"),
        (DType.FP64, [float("nan"), float("-inf")], FP32, "-inf at index [1]"),
    ],
)
def test_the_first_value_beyond_is_named(
    dtype: DType, values: list[object], exact: ExactRange, found: str
) -> None:
    with pytest.raises(ValueNotExact) as caught:
        check(dtype, np.array(values, dtype.numpy), exact)

    text = caught.value.message
    low, high = (exact[0], exact[1]) if dtype is DType.FP64 else (int(exact[0]), int(exact[1]))
    for piece in ("input 'x'", found, dtype.name, f"{low} to {high}", "--lossy_integers allow"):
        assert piece in text


def test_a_scalar_has_no_index() -> None:
    spec = TensorSpec.of("x", DType.INT64, (), INT32)

    with pytest.raises(ValueNotExact, match=r"2147483648 at index \[\]"):
        refuse_inexact(spec, (), memoryview(np.int64(2**31).tobytes()))


def test_a_signalling_nan_is_none_of_our_business() -> None:
    """Warnings are errors here."""
    values = np.array([0x7FF4000000000000, 0], np.uint64).view(np.float64)

    check(DType.FP64, values, FP32)


def test_one_value_among_many_is_found() -> None:
    values = np.arange(1 << 20, dtype=np.int64)
    values[-1] = 2**31

    with pytest.raises(ValueNotExact, match=r"at index \[1048575\]"):
        check(DType.INT64, values, INT32)
