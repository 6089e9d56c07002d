# SPDX-License-Identifier: Apache-2.0
"""Protobuf messages byte by byte, as no library writes them, and what tensors that were read are as plain values."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import strategies as st

from ovms_mp.front.tensors import BytesTensor, NumberTensor, RawTensor
from ovms_mp.model.dtypes import DType, element_count

if TYPE_CHECKING:
    from ovms_mp.front.tensors import GivenTensor
    from ovms_mp.model.dtypes import AnyArray

VARINT, FIXED64, BYTES, GROUP, GROUP_END, FIXED32 = range(6)


# Building bytes.


def varint(number: int, surplus: int = 0) -> bytes:
    """The number (of 64 bits) as varint, longer than needed by ``surplus`` bytes."""
    number &= 2**64 - 1
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    if surplus:
        encoded[-1] |= 0x80
        encoded += b"\x80" * (surplus - 1) + b"\x00"
    return bytes(encoded)


def record(field: int, kind: int, payload: bytes, surplus: int = 0) -> bytes:
    """A field with its tag; ``surplus`` makes its length longer than needed."""
    length = varint(len(payload), surplus) if kind == BYTES else b""
    return varint(field << 3 | kind) + length + payload


# What was read, as plain values.


def values_of(given_tensor: GivenTensor) -> memoryview | AnyArray:
    """A tensor's values as they were sent: raw bytes or numbers."""
    assert isinstance(given_tensor, (RawTensor, NumberTensor))
    return given_tensor.values


def elements(given_tensor: GivenTensor) -> tuple[DType, tuple[int, ...], bytes]:
    """A tensor as plain values. NaNs are made equal: a signalling one does not survive Python's double."""
    if isinstance(given_tensor, BytesTensor):
        strings = b"".join(b"%d:%b" % (len(string), bytes(string)) for string in given_tensor.known_strings)
        return given_tensor.dtype, given_tensor.shape, strings
    values = values_of(given_tensor)
    array = np.frombuffer(values, given_tensor.dtype.numpy) if isinstance(values, memoryview) else values
    assert array.ndim == 1
    assert array.dtype == given_tensor.dtype.numpy
    if isinstance(values, memoryview):
        assert (values.format, len(array)) == ("B", element_count(given_tensor.shape))
    if array.dtype == np.float32:
        array = np.where(np.isnan(array), np.float32(np.nan), array)
    return given_tensor.dtype, given_tensor.shape, array.tobytes()


# Random messages.

names = st.sampled_from(["x", "y", "input", "ü", "", "n" * 126, "n" * 127])
rarely = st.integers(0, 23).map(
    lambda number: number == 17
)  # no end of the range: those are drawn more often
surpluses = rarely.flatmap(lambda odd: st.sampled_from([1, 3, 4, 8]) if odd else st.just(0))
numbers = st.one_of(
    st.sampled_from([0, 1, 2, -1, 127, 128, 255, 256, 2**15, 2**31, 2**40]), st.integers(0, 300)
)


@st.composite
def unknown_records(draw: st.DrawFn) -> bytes:
    """A field that no message of ours has, of any wire type."""
    field = draw(st.sampled_from([9, 19, 100, 2**29 - 1]))
    kind = draw(st.sampled_from([VARINT, FIXED64, BYTES, GROUP, FIXED32]))
    payload = {
        VARINT: varint(draw(numbers)),
        FIXED64: b"\x01" * 8,
        BYTES: b"abc",
        GROUP: record(1, VARINT, b"\x05") * draw(st.integers(0, 2)) + varint(field << 3 | GROUP_END),
        FIXED32: b"\x02" * 4,
    }
    return record(field, kind, payload[kind])


@st.composite
def messages(draw: st.DrawFn, records: list[bytes]) -> bytes:
    """Fields in order, or now and then reordered, repeated, left out and among unknown ones."""
    if draw(rarely):
        oddities = [*records, *records, *draw(st.lists(unknown_records(), max_size=2))]
        records = draw(st.lists(st.sampled_from(oddities), max_size=len(records) + 2)) if oddities else []
    return b"".join(records)


def float_bytes(number: int) -> bytes:
    """Four bytes that any number becomes, NaNs among them."""
    return struct.pack("<I", (number * 2654435761) & 0xFFFFFFFF)


def varint_records(pairs: list[tuple[int, int]]) -> list[bytes]:
    """Varint fields from their numbers and values."""
    return [record(field, VARINT, varint(number)) for field, number in pairs]


broken_ends = st.one_of(st.binary(max_size=3), st.sampled_from([b"\xff", b"\x80", b"\x00", b"\xff" * 5]))
"""What is put into a message to break it."""


@st.composite
def broken(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """A message with bytes replaced, inserted, removed or cut off anywhere."""
    body, new = draw(whole), draw(broken_ends)
    removed = draw(st.sampled_from([0, 1, 1, 1, 2, 10**6]))
    at = draw(st.integers(0, 10**6)) % (len(body) + 1)
    return body[:at] + new + body[at + removed :]
