# SPDX-License-Identifier: Apache-2.0
"""Conversion on the way into the arena: right, rounded as NumPy rounds, or refused; never silently wrong."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovms_mp.errors import DtypeMismatch
from ovms_mp.front.tensors import NumberTensor, RawTensor
from ovms_mp.model.dtypes import NUMERIC_DTYPES, DType, Kind
from ovms_mp.model.tensors import TensorSpec

if TYPE_CHECKING:
    from ovms_mp.model.dtypes import AnyArray

FROM_EACH = pytest.mark.parametrize("source", NUMERIC_DTYPES, ids=lambda dtype: dtype.name)
"""A test of every pair goes through what is wanted by itself."""
FLOATS = [dtype for dtype in DType if dtype.kind is Kind.FLOAT]
GREATEST = {
    DType.FP16: 65504.0,
    DType.BF16: 3.3895313892515355e38,
    DType.FP32: 3.4028234663852886e38,
    DType.FP64: 1.7976931348623157e308,
    DType.FP8_E5M2: 57344.0,
    DType.FP8_E4M3: 448.0,
}


def write(values: AnyArray | memoryview, source: DType, wanted: DType, count: int | None = None) -> AnyArray:
    """What is in the arena afterwards; the bytes around it must not change."""
    if count is None:
        count = len(values) // (source.itemsize if isinstance(values, memoryview) else 1)
    spec = TensorSpec.of("x", wanted, ((count, count),))
    arena = bytearray(b"\xa5" * (count * wanted.itemsize + 128))
    place = memoryview(arena)[64 : 64 + count * wanted.itemsize]
    shape = (count,)
    tensor = (
        RawTensor(source, shape, values)
        if isinstance(values, memoryview)
        else NumberTensor(source, shape, values)
    )
    tensor.write(spec, place)
    assert arena[:64] == arena[-64:] == b"\xa5" * 64
    return np.frombuffer(bytes(place), wanted.numpy)


def refusal(values: AnyArray | memoryview, source: DType, wanted: DType) -> str:
    with pytest.raises(DtypeMismatch) as caught:
        write(values, source, wanted)
    return caught.value.message


def integer_limits(dtype: DType) -> tuple[int, int]:
    """Least and greatest value."""
    is_signed = dtype.name.startswith("INT")
    bits = dtype.itemsize * 8 - is_signed
    return -(2**bits) if is_signed else 0, 2**bits - 1


def array(values: list[Any], dtype: DType) -> AnyArray:
    with np.errstate(all="ignore"):
        made = (
            np.array(values, dtype=np.float64) if dtype.kind is Kind.FLOAT else np.array(values, dtype.numpy)
        )
        return made.astype(dtype.numpy)


def values_of(dtype: DType) -> st.SearchStrategy[AnyArray]:
    """Arrays of any bits, and of numbers near the places where something ends."""
    bits = st.binary(max_size=6 * dtype.itemsize).map(
        lambda data: np.frombuffer(data[: len(data) // dtype.itemsize * dtype.itemsize], dtype.numpy)
    )
    if dtype.kind is Kind.BOOL:
        return st.lists(st.booleans(), max_size=6).map(lambda values: array(values, dtype))
    edges = [0, 1, -1, 2, *(sign * 2**power + step for power in (7, 8, 9, 11, 15, 16, 24, 31, 32, 53, 63, 64)
                            for sign in (1, -1) for step in (-1, 0, 1))]  # fmt: skip
    if dtype.kind is Kind.INTEGER:
        low, high = integer_limits(dtype)
        edges = [edge for edge in edges if low <= edge <= high]
        one: st.SearchStrategy[Any] = st.sampled_from(edges) | st.integers(low, high)
    else:
        special = [
            0.5,
            -0.0,
            448.0,
            464.0,
            465.0,
            57344.0,
            65504.0,
            65519.0,
            65520.0,
            3.4028235e38,
            1e300,
            1e-46,
        ]
        one = st.sampled_from([*map(float, edges), *special, math.inf, -math.inf, math.nan]) | st.floats()
    return bits | st.lists(one, max_size=6).map(lambda values: array(values, dtype))


def exact(value: Any, dtype: DType) -> float | int:
    """The element as a Python number, without rounding."""
    return float(value) if dtype.kind is Kind.FLOAT else int(value)


def is_convertible(value: float, source: DType, wanted: DType) -> bool:
    """The rule of the module's docstring, element by element, in exact arithmetic."""
    if source is wanted:
        return True
    match wanted.kind:
        case Kind.BOOL:
            return value in (0, 1)
        case Kind.INTEGER:
            low, high = integer_limits(wanted)
            return math.isfinite(value) and value == int(value) and low <= int(value) <= high
        case Kind.FLOAT:
            if math.isinf(value):
                return wanted is not DType.FP8_E4M3  # Which has none.
            # Beyond the greatest finite number by less than half a step, rounding still gives it.
            return math.isnan(value) or bool(np.isfinite(rounded(value, source, wanted)))
        case Kind.STRING:
            raise AssertionError("no number becomes a string")


def rounded(value: float, source: DType, wanted: DType) -> Any:
    """NumPy's own conversion of one element."""
    with np.errstate(all="ignore"):
        return np.array([value], source.numpy).astype(wanted.numpy)[0]


def is_known_gap(values: AnyArray, source: DType, wanted: DType) -> bool:
    """What is not decided here: no value at all to a boolean, and NaNs of unusual bits to integers."""
    if wanted.kind is Kind.BOOL:
        return not len(values)
    if source.kind is not Kind.FLOAT or wanted.kind is not Kind.INTEGER:
        return False
    usual = {array([sign * math.nan], source).tobytes() for sign in (1, -1)}
    return any(math.isnan(float(value)) and value.tobytes() not in usual for value in values)


def check(values: AnyArray, source: DType, wanted: DType) -> None:
    """Hold the conversion against the rule."""
    numbers = [exact(value, source) for value in values]
    outside = [index for index, value in enumerate(numbers) if not is_convertible(value, source, wanted)]
    if outside:
        message = refusal(values, source, wanted)
        assert f"input 'x' is {wanted.name}; value " in message
        assert f"(element {outside[0]}, sent as {source.name}) cannot be converted: " in message
        return
    written = write(values, source, wanted)
    for value, got in zip(numbers, written, strict=True):
        check_one(value, exact(got, wanted), rounded(value, source, wanted), wanted)


def check_one(value: float, got: float, numpys: Any, wanted: DType) -> None:
    if wanted.kind is not Kind.FLOAT:
        assert got == value
        return
    if math.isnan(value):
        assert math.isnan(got)
        return
    assert got == float(numpys)
    if math.isfinite(value):
        # Not only what NumPy says: no representable number lies between.
        low, high = neighbours(got, wanted)
        assert low <= value <= high
        assert math.copysign(1, got) == math.copysign(1, value) or value == 0


def neighbours(number: float, dtype: DType) -> tuple[float, float]:
    """The next representable numbers on either side; beyond the greatest there is infinity."""
    own = np.array([number], np.float64).astype(dtype.numpy)
    greatest = np.array([GREATEST[dtype]], np.float64).astype(dtype.numpy)
    with np.errstate(all="ignore"):
        low = float(np.nextafter(own, -greatest)[0]) if number > -GREATEST[dtype] else -math.inf
        high = float(np.nextafter(own, greatest)[0]) if number < GREATEST[dtype] else math.inf
    return low, high


@FROM_EACH
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_every_pair_against_numpy(source: DType, data: st.DataObject) -> None:
    values = data.draw(values_of(source))
    for wanted in NUMERIC_DTYPES:
        if not is_known_gap(values, source, wanted):
            check(values, source, wanted)


@FROM_EACH
def test_bytes_and_arrays_are_converted_alike(source: DType) -> None:
    values = array([0, 1, 1, 0], source)
    data = memoryview(values.tobytes())

    for wanted in NUMERIC_DTYPES:
        assert write(data, source, wanted).tobytes() == write(values, source, wanted).tobytes(), wanted
        assert [exact(got, wanted) for got in write(data, source, wanted)] == [0, 1, 1, 0], wanted


@pytest.mark.parametrize(
    "dtype", [dtype for dtype in NUMERIC_DTYPES if dtype is not DType.BOOL], ids=lambda d: d.name
)
def test_bytes_of_the_models_own_dtype_are_not_looked_at(dtype: DType) -> None:
    data = bytes(range(256))

    assert write(memoryview(data), dtype, dtype).tobytes() == data


@pytest.mark.parametrize("wanted", NUMERIC_DTYPES, ids=lambda dtype: dtype.name)
def test_any_byte_but_zero_is_true(wanted: DType) -> None:
    data = memoryview(bytes([0, 1, 2, 128, 255]))

    assert [exact(got, wanted) for got in write(data, DType.BOOL, wanted)] == [0, 1, 1, 1, 1]
    if wanted is DType.BOOL:
        assert write(data, DType.BOOL, wanted).tobytes() == b"\0\1\1\1\1"


# TensorFlow's compact form.


@FROM_EACH
def test_compact_form_repeats_the_last_value(source: DType) -> None:
    for wanted in NUMERIC_DTYPES:
        got = write(array([0, 1], source), source, wanted, count=5)
        assert [exact(value, wanted) for value in got] == [0, 1, 1, 1, 1], wanted


@pytest.mark.parametrize("wanted", NUMERIC_DTYPES, ids=lambda dtype: dtype.name)
def test_no_value_at_all_means_zeros(wanted: DType) -> None:
    got = write(array([], DType.FP32), DType.FP32, wanted, count=4)

    assert got.tobytes() == bytes(4 * wanted.itemsize)


# Cases by name.


@pytest.mark.parametrize("wanted", FLOATS, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("source", [DType.FP32, DType.FP64], ids=lambda dtype: dtype.name)
def test_a_finite_number_never_becomes_infinite(source: DType, wanted: DType) -> None:
    if GREATEST[source] <= GREATEST[wanted]:
        return
    greatest = GREATEST[wanted]
    assert float(write(array([greatest, -greatest], source), source, wanted)[1]) == -greatest
    message = refusal(array([0, 1, min(greatest * 1.1, GREATEST[source]), 2], source), source, wanted)

    assert "(element 2, " in message
    assert f"it is beyond the range of {wanted.name}" in message


@pytest.mark.parametrize(
    "wanted", [dtype for dtype in FLOATS if dtype is not DType.FP8_E4M3], ids=lambda d: d.name
)
@pytest.mark.parametrize(
    "source", [dtype for dtype in FLOATS if dtype is not DType.FP8_E4M3], ids=lambda d: d.name
)
def test_infinities_and_nan_stay_what_they_are(source: DType, wanted: DType) -> None:
    got = write(array([math.inf, -math.inf, math.nan, 1], source), source, wanted).astype(np.float64)

    assert [float(got[0]), float(got[1]), float(got[3])] == [math.inf, -math.inf, 1.0]
    assert math.isnan(got[2])


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_an_infinity_is_refused_where_there_is_none(value: float) -> None:
    message = refusal(array([1.0, math.nan, value], DType.FP32), DType.FP32, DType.FP8_E4M3)

    assert f"value {value} (element 2, sent as FP32)" in message
    assert message.endswith("it is beyond the range of FP8_E4M3")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.5, -1.0, 256.0])
def test_floats_that_are_no_uint8(value: float) -> None:
    message = refusal(array([1.0, value], DType.FP32), DType.FP32, DType.UINT8)

    assert message.startswith("input 'x' is UINT8; value ")
    assert "(element 1, sent as FP32)" in message
    assert message.endswith("it is no whole number within 0 to 255")


@pytest.mark.parametrize(
    ("value", "source", "wanted"),
    [
        (-1, DType.INT64, DType.UINT64),
        (2**63, DType.UINT64, DType.INT64),
        (256, DType.INT32, DType.UINT8),
        (-129, DType.INT16, DType.INT8),
    ],
)
def test_integers_out_of_range(value: int, source: DType, wanted: DType) -> None:
    low, high = integer_limits(wanted)
    message = refusal(np.array([0, value], source.numpy), source, wanted)

    assert f"value {value} (element 1, sent as {source.name})" in message
    assert message.endswith(f"it is not within {low} to {high}")


@pytest.mark.parametrize("value", [2.0, -1.0, 0.5, math.nan])
def test_only_zero_and_one_become_booleans(value: float) -> None:
    assert refusal(array([value], DType.FP32), DType.FP32, DType.BOOL).endswith("only 0 and 1 are booleans")
    assert write(array([0.0, 1.0, -0.0], DType.FP32), DType.FP32, DType.BOOL).tobytes() == b"\0\1\0"


def test_the_largest_integers_keep_their_last_bit() -> None:
    values = np.array([2**63 - 1, 2**53 + 1], np.int64)

    assert write(values, DType.INT64, DType.UINT64).tolist() == [2**63 - 1, 2**53 + 1]
    assert "2**63" not in refusal(array([2.0**63], DType.FP64), DType.FP64, DType.INT64)
    assert write(array([-(2.0**63)], DType.FP64), DType.FP64, DType.INT64).tolist() == [-(2**63)]
