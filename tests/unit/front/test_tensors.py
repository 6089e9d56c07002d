# SPDX-License-Identifier: Apache-2.0
"""Kinds of given tensors: what each takes in the arena and where it can be read; writing is in ``test_convert.py``."""

from __future__ import annotations

import numpy as np
import pytest

from ovms_mp.errors import RequestTooLarge
from ovms_mp.front.infer.leases import Lease
from ovms_mp.front.tensors import GivenTensor, NumberTensor, PlacedTensor, RawTensor
from ovms_mp.model.dtypes import DType
from ovms_mp.model.tensors import TensorSpec

MIB = 1 << 20
LEASE = Lease(128, 24)
STATIC = TensorSpec.of("x", DType.FP32, ((2, 2), (3, 3)))
DYNAMIC = TensorSpec.of("x", DType.FP32, ((0, -1), (3, 3)))
BOUNDED = TensorSpec.of("x", DType.FP32, ((0, 1000), (3, 3)))
KINDS = [
    RawTensor(DType.INT64, (2, 3), memoryview(bytes(48))),
    PlacedTensor(DType.INT64, (2, 3), memoryview(bytes(48)), LEASE),
    NumberTensor(DType.INT64, (2, 3), np.zeros(6, np.int64)),
    NumberTensor(DType.INT64, (2, 3), np.zeros(1, np.int64)),
]


@pytest.mark.parametrize("tensor", KINDS)
@pytest.mark.parametrize("spec", [STATIC, DYNAMIC], ids=["static", "dynamic"])
def test_size_is_that_of_the_model_s_dtype(tensor: GivenTensor, spec: TensorSpec) -> None:
    assert tensor.nbytes(spec) == 24


@pytest.mark.parametrize(
    ("dtype", "wanted", "is_there"),
    [
        (DType.FP32, DType.FP32, True),
        (DType.FP64, DType.FP32, False),
        (DType.UINT8, DType.BOOL, False),
        (DType.BOOL, DType.BOOL, False),
    ],
)
def test_what_is_in_the_arena_is_read_there_if_it_needs_no_conversion(
    dtype: DType, wanted: DType, is_there: bool
) -> None:
    tensor = PlacedTensor(dtype, (2, 3), memoryview(bytes(dtype.nbytes((2, 3)))), LEASE)

    assert tensor.lease_for(TensorSpec.of("x", wanted, ((2, 2), (3, 3)))) == (LEASE if is_there else None)


@pytest.mark.parametrize("tensor", [KINDS[0], KINDS[2]])
def test_others_are_nowhere_in_the_arena(tensor: GivenTensor) -> None:
    spec = TensorSpec.of("x", tensor.dtype, ((2, 2), (3, 3)))

    assert tensor.lease_for(spec) is None


def test_a_placed_tensor_of_another_dtype_is_written_as_a_raw_one() -> None:
    values = np.arange(6, dtype=np.float64)
    tensor = PlacedTensor(DType.FP64, (2, 3), memoryview(values.tobytes()), LEASE)
    place = bytearray(24)
    tensor.write(STATIC, memoryview(place))

    assert np.frombuffer(place, np.float32).tolist() == values.tolist()


@pytest.mark.parametrize(
    ("spec", "rows", "count", "max_unpacked_bytes"),
    [
        (DYNAMIC, 400_000, 1, 0),
        (BOUNDED, 1001, 1, 0),
        (DYNAMIC, 1000, 2999, 11_999),
        (DYNAMIC, 1 << 20, 0, 0),
    ],
    ids=["no bound", "beyond the model's", "beyond the setting", "none at all"],
)
def test_a_few_values_are_not_repeated_without_end(
    spec: TensorSpec, rows: int, count: int, max_unpacked_bytes: int
) -> None:
    tensor = NumberTensor(DType.FP32, (rows, 3), np.zeros(count, np.float32))
    with pytest.raises(
        RequestTooLarge, match=f"{count} values for shape .* fill {rows * 12} bytes, more than"
    ):
        tensor.refuse_inflated(spec, tensor.nbytes(spec), max_unpacked_bytes)


@pytest.mark.parametrize(
    ("spec", "rows", "count", "max_unpacked_bytes"),
    [
        (DYNAMIC, 300_000, 1, 0),
        (BOUNDED, 1000, 1, 0),
        (DYNAMIC, 1000, 2999, 12_000),
        (DYNAMIC, 400_000, 1_200_000, 12),
    ],
    ids=["little", "as large as the model's", "within the setting", "all values"],
)
def test_what_may_be_repeated(spec: TensorSpec, rows: int, count: int, max_unpacked_bytes: int) -> None:
    tensor = NumberTensor(DType.FP32, (rows, 3), np.zeros(count, np.float32))
    tensor.refuse_inflated(spec, tensor.nbytes(spec), max_unpacked_bytes)


def test_raw_bytes_are_all_there_and_never_refused() -> None:
    tensor = RawTensor(DType.UINT8, (MIB, 3), memoryview(bytes(3 * MIB)))
    tensor.refuse_inflated(DYNAMIC, tensor.nbytes(DYNAMIC), 1)
