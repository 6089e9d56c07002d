# SPDX-License-Identifier: Apache-2.0
"""Where the inputs of a task come to lie: one after another in one region, but for those that are there already."""

from __future__ import annotations

import numpy as np
import pytest

from ovms_mp.errors import DtypeMismatch, RequestTooLarge, ShapeMismatch, ValueNotExact
from ovms_mp.front.infer.inputs import Inputs
from ovms_mp.front.infer.leases import Lease
from ovms_mp.front.tensors import GivenTensor, NumberTensor, PlacedTensor, RawTensor
from ovms_mp.model.dtypes import DType
from ovms_mp.model.tensors import TensorSpec
from ovms_mp.wire.records import TensorRef

ARENA_BYTES = 4096
FLOATS = TensorSpec.of("a", DType.FP32, ((2, 2), (3, 3)))
INTEGERS = TensorSpec.of("b", DType.INT64, ((0, -1),))
REGION = Lease(1024, 512)


def floats(value: float = 1.5) -> GivenTensor:
    return RawTensor(DType.FP32, (2, 3), memoryview(np.full(6, value, np.float32).tobytes()))


def laid_out(*pairs: tuple[TensorSpec, GivenTensor]) -> Inputs:
    return Inputs([spec for spec, _ in pairs], [tensor for _, tensor in pairs], ARENA_BYTES, 0)


def test_tensors_follow_each_other_at_aligned_places() -> None:
    memory = memoryview(bytearray(ARENA_BYTES))
    integers = NumberTensor(DType.INT32, (9,), np.arange(9, dtype=np.int32))
    inputs = laid_out((FLOATS, floats()), (INTEGERS, integers), (FLOATS, floats(2.5)))

    assert inputs.nbytes == 64 + 128 + 64
    assert inputs.placed == ()
    assert inputs.shapes == ((2, 3), (9,), (2, 3))
    assert inputs.write(memory, REGION) == (
        TensorRef(1024, 24, (2, 3)),
        TensorRef(1088, 72, (9,)),
        TensorRef(1216, 24, (2, 3)),
    )
    assert np.frombuffer(memory, np.float32, 6, 1024).tolist() == [1.5] * 6
    assert np.frombuffer(memory, np.int64, 9, 1088).tolist() == list(range(9))
    assert np.frombuffer(memory, np.float32, 6, 1216).tolist() == [2.5] * 6
    assert not any(memory[:1024])
    assert not any(memory[1240:])


def test_what_is_in_the_arena_takes_nothing_of_the_region_and_is_not_touched() -> None:
    memory = memoryview(bytearray(ARENA_BYTES))
    lease = Lease(256, 24)
    memory[256:280] = b"\x01" * 24
    placed = PlacedTensor(DType.FP32, (2, 3), memory[256:280], lease)
    inputs = laid_out((FLOATS, placed), (FLOATS, floats()))

    assert inputs.nbytes == 64
    assert inputs.placed == (lease,)
    assert inputs.write(memory, REGION) == (TensorRef(256, 24, (2, 3)), TensorRef(1024, 24, (2, 3)))
    assert bytes(memory[256:280]) == b"\x01" * 24


def test_a_tensor_without_elements_is_not_written() -> None:
    empty = NumberTensor(DType.FP32, (0,), np.empty(0, np.float32))
    inputs = laid_out((INTEGERS, empty), (FLOATS, floats()))

    assert inputs.nbytes == 64
    assert inputs.write(memoryview(bytearray(ARENA_BYTES)), REGION)[0] == TensorRef(1024, 0, (0,))


def test_no_inputs_take_nothing() -> None:
    inputs = laid_out()

    assert (inputs.nbytes, inputs.placed, inputs.shapes) == (0, (), ())
    assert inputs.write(memoryview(b""), REGION) == ()


def test_sizes_are_refused_before_anything_is_leased() -> None:
    none = np.empty(0, np.int64)
    with pytest.raises(ShapeMismatch, match="which no tensor can have"):
        laid_out((INTEGERS, NumberTensor(DType.INT64, (1 << 50,), none)))
    with pytest.raises(RequestTooLarge, match="max_unpacked_mb"):
        laid_out((INTEGERS, NumberTensor(DType.INT64, (1 << 20,), none)))


def test_values_are_refused_when_they_are_written() -> None:
    memory = memoryview(bytearray(ARENA_BYTES))
    with pytest.raises(DtypeMismatch, match="input 'b'"):
        laid_out((INTEGERS, NumberTensor(DType.FP32, (1,), np.array([0.5], np.float32)))).write(
            memory, REGION
        )
    exact = TensorSpec.of("c", DType.INT64, ((0, -1),), (-100.0, 100.0))
    with pytest.raises(ValueNotExact, match="input 'c'"):
        laid_out((exact, NumberTensor(DType.INT64, (2,), np.array([1, 101])))).write(memory, REGION)


def test_values_that_are_in_the_arena_are_held_against_the_exact_range_too() -> None:
    memory = memoryview(bytearray(ARENA_BYTES))
    memory[256:264] = np.int64(101).tobytes()
    exact = TensorSpec.of("c", DType.INT64, ((0, -1),), (-100.0, 100.0))
    inputs = laid_out((exact, PlacedTensor(DType.INT64, (1,), memory[256:264], Lease(256, 8))))
    with pytest.raises(ValueNotExact, match="101 at index"):
        inputs.write(memory, REGION)
