# SPDX-License-Identifier: Apache-2.0
"""Octet strings in one piece of memory: KServe's raw form, and the form in an arena."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovms_mp.errors import MalformedPayload, ProtocolError
from ovms_mp.front.strings import (
    NO_STRINGS,
    STEP_ELEMENTS,
    Strings,
    length_prefixed,
    parse_length_prefixed,
    read_length_prefixed,
)
from ovms_mp.wire.strings import MOST_ELEMENTS, open_packed, packed_nbytes

LISTS = st.lists(st.binary(max_size=300), max_size=200)


def objects(strings: Strings) -> list[bytes]:
    return [bytes(string) for string in strings]


def raw(items: list[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(item)) + item for item in items)


@given(LISTS)
def test_length_prefixed_strings_survive_a_round_trip(items: list[bytes]) -> None:
    strings = parse_length_prefixed(memoryview(raw(items)), len(items), "x")
    assert objects(strings) == items
    assert bytes(length_prefixed(strings)) == raw(items)


@given(LISTS)
def test_strings_survive_an_arena(items: list[bytes]) -> None:
    strings = Strings.of(items)
    place = memoryview(bytearray(b"\xa5" * strings.packed_nbytes))
    if items:
        strings.write_packed(place)
    assert objects(Strings.of_packed(place, len(items))) == items


@given(st.binary(max_size=64), st.integers(0, 20))
def test_any_octets_are_strings_or_an_error(octets: bytes, count: int) -> None:
    try:
        strings = parse_length_prefixed(memoryview(octets), count, "x")
    except MalformedPayload:
        return
    assert raw(objects(strings)) == octets


@given(st.binary(max_size=64), st.integers(1, 20))
def test_any_octets_in_an_arena_are_strings_or_an_error(octets: bytes, count: int) -> None:
    try:
        strings = Strings.of_packed(memoryview(octets), count)
    except ProtocolError:
        return
    assert len(octets) == packed_nbytes(count, strings.total_bytes)


def test_a_million_empty_strings_are_read_in_steps() -> None:
    count = 1 << 20
    steps = read_length_prefixed(memoryview(bytes(4 * count)), count, "x")
    assert sum(1 for _ in steps) == count // STEP_ELEMENTS


def test_many_short_strings_are_copied_as_they_are() -> None:
    items = [str(number).encode() * (number % 7) for number in range(3 * STEP_ELEMENTS)]
    strings = parse_length_prefixed(memoryview(raw(items)), len(items), "x")
    place = memoryview(bytearray(strings.packed_nbytes))
    strings.write_packed(place)
    assert objects(Strings.of_packed(place, len(items))) == items


@pytest.mark.parametrize(
    ("octets", "count", "reason"),
    [
        (b"\x02\0\0\0a", 1, "is said to have 2 bytes, but 1 follow"),
        (b"\xff\xff\xff\xffa", 1, "is said to have 4294967295 bytes"),
        (b"\0\0\0\x80a", 1, "is said to have 2147483648 bytes"),
        (b"\1\0\0\0a\0\0", 1, "2 bytes of data follow the last of 1 strings"),
        (b"\1\0\0\0", 2, "4 bytes of data for 2 strings"),
        (b"\4\0\0\0aaaa", 2, "the data ends at byte 8, before string 1"),
        (b"x", 0, "1 bytes of data follow the last of 0 strings"),
        (b"", MOST_ELEMENTS + 1, f"at most {MOST_ELEMENTS}"),
    ],
)
def test_lengths_that_lie_are_refused(octets: bytes, count: int, reason: str) -> None:
    with pytest.raises(MalformedPayload, match=reason):
        parse_length_prefixed(memoryview(octets), count, "Input 'x'")


def test_bounds_that_fall_are_no_tensor() -> None:
    numbers = np.array([2, 0, 5, 3], np.int32).tobytes()
    with pytest.raises(ProtocolError):
        open_packed(memoryview(numbers + b"abc"), 2)


def test_no_strings_take_no_memory() -> None:
    assert NO_STRINGS.packed_nbytes == 0
    assert objects(Strings.of_packed(memoryview(b""), 0)) == []
    assert NO_STRINGS.longest_bytes == 0
