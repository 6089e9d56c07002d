# SPDX-License-Identifier: Apache-2.0
"""Header blocks, against the ``hpack`` library."""

from __future__ import annotations

import hpack as library
import pytest
from hpack.table import HeaderTable
from hypothesis import given
from hypothesis import strategies as st

from ovms_mp.client import hpack
from ovms_mp.client.errors import Failed

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), max_size=40)
NAMES = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12)
FIELDS = st.lists(st.tuples(NAMES, TEXT), max_size=8, unique_by=lambda field: field[0])


@given(FIELDS)
def test_what_we_write_the_library_reads(fields: list[tuple[str, str]]) -> None:
    read = library.Decoder().decode(hpack.encode(fields), raw=True)

    assert [(name.decode(), value.decode()) for name, value in read] == fields


@given(FIELDS, st.booleans())
def test_what_the_library_writes_we_read(fields: list[tuple[str, str]], is_huffman: bool) -> None:
    """Its encoder has no table, as we have asked for."""
    encoder = library.Encoder()
    encoder.header_table_size = 0
    block = encoder.encode([(name.encode(), value.encode()) for name, value in fields], huffman=is_huffman)

    assert hpack.BlockDecoder().decode(block) == dict(fields)


def test_the_static_table_is_that_of_the_rfc() -> None:
    ours = [(name.encode(), value.encode()) for name, value in hpack._TABLE]

    assert ours == list(HeaderTable.STATIC_TABLE)


def test_values_of_the_same_name_are_one() -> None:
    block = hpack.encode([("a", "1"), ("b", "2"), ("a", "3")])

    assert hpack.BlockDecoder().decode(block) == {"a": "1, 3", "b": "2"}


@pytest.mark.parametrize(
    "block",
    [
        b"\xbe",  # an index of the dynamic table
        b"\x80",  # index 0
        b"\x3f\xe1\x1f",  # a table of 4096
        b"\xff\xff\xff\xff\xff\xff\xff\xff",  # a number that does not end
        b"\x10\x05ab",  # a string that does not end
        b"\x10",  # nothing where a name should be
        b"\x10\x01a\x84\xff\xff\xff\xff",  # Huffman's end within a string
        b"\x10\x01a\x81\x00",  # a string that ends within a code
    ],
    ids=bytes.hex,
)
def test_what_is_no_block_is_refused(block: bytes) -> None:
    with pytest.raises(Failed, match="cannot be read"):
        hpack.BlockDecoder().decode(block)


@given(st.binary(max_size=60))
def test_anything_else_is_read_or_refused(block: bytes) -> None:
    decoder = hpack.BlockDecoder()
    for _ in range(2):
        try:
            decoder.decode(block)
        except Failed:
            pass


def test_headers_are_bounded() -> None:
    with pytest.raises(Failed, match="headers of more than"):
        hpack.BlockDecoder().decode(hpack.encode([(f"a{n}", "b" * 1000) for n in range(80)]))


@pytest.mark.parametrize(
    "block",
    [b"\0" * 300_000, b"\0\1a\xff\x80\x88\x4e" + b"\0" * 1_000_000, b"\x82" * 10_000],
    ids=["of nothing", "of one string", "of indices"],
)
def test_blocks_that_take_long_to_read_are_refused(block: bytes) -> None:
    with pytest.raises(Failed, match=r"headers of more than|a string of"):
        hpack.BlockDecoder().decode(block)
