# SPDX-License-Identifier: Apache-2.0
"""Lists of cores in the kernel's form, read and written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovms_mp.model.core_lists import core_text, parse_core_list


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("0\n", {0}),
        ("0-3\n", {0, 1, 2, 3}),
        ("0-1,8,10-11\n", {0, 1, 8, 10, 11}),
        ("", set()),
        ("\n", set()),
        ("abc", set()),
        ("0-", {0}),
        ("-3", set()),
        ("1,x", set()),
        ("0-3:1/2", set()),
    ],
)
def test_core_lists(text: str, cores: set[int]) -> None:
    assert parse_core_list(text) == cores


@pytest.mark.parametrize(
    ("cores", "text"),
    [
        ((), ""),
        ((3,), "3"),
        ((0, 1), "0-1"),
        ((0, 1, 2, 8), "0-2,8"),
        ((7, 0, 2, 1, 8), "0-2,7-8"),
        ((5, 1, 3), "1,3,5"),
        ((0, 2, 3), "0,2-3"),
    ],
)
def test_core_text(cores: tuple[int, ...], text: str) -> None:
    assert core_text(cores) == core_text(set(cores)) == text


@given(cores=st.sets(st.integers(0, 300)))
def test_core_text_is_what_the_kernel_writes(cores: set[int]) -> None:
    assert parse_core_list(core_text(cores)) == cores
