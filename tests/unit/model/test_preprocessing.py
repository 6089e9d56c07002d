# SPDX-License-Identifier: Apache-2.0
"""The words of precision and color_format."""

from __future__ import annotations

import pytest

from ovms_mp.model.dtypes import DType, dtype_of_openvino
from ovms_mp.model.preprocessing import CLIENT_PRECISIONS, COLOR_FORMATS, PRECISIONS


def test_every_word_that_ovms_has_is_known() -> None:
    assert set(PRECISIONS) == {
        *("fp64", "fp32", "fp16", "bf16", "int64", "int32", "int16", "int8", "int4"),
        *("uint64", "uint32", "uint16", "uint8", "uint4", "uint1"),
    }


@pytest.mark.parametrize("word", PRECISIONS)
def test_clients_can_send_what_is_a_dtype(word: str) -> None:
    dtype = dtype_of_openvino(PRECISIONS[word])

    assert (dtype is not None) is (word in CLIENT_PRECISIONS)
    assert dtype is None or dtype is DType[word.upper()]


def test_formats_in_one_plane_have_no_names_for_planes() -> None:
    assert {word for word, color in COLOR_FORMATS.items() if color.planes} == {"NV12_2", "I420_3"}
    assert {word for word, color in COLOR_FORMATS.items() if color.is_for_models} == {"RGB", "BGR", "GRAY"}
