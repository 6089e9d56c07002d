# SPDX-License-Identifier: Apache-2.0
"""Long answers as JSON: written piece by piece they are what they would be in one, and not longer than allowed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ovms_mp.errors import AnswerTooLarge
from ovms_mp.front.json import writer
from ovms_mp.front.tensors import ResultTensor
from ovms_mp.front.tfs.json import encode
from ovms_mp.front.tfs.json.encode import encode_predict
from ovms_mp.front.tfs.json.reader import JsonFormat
from ovms_mp.model.dtypes import DType

if TYPE_CHECKING:
    from ovms_mp.model.dtypes import AnyArray


def result(array: AnyArray, dtype: DType = DType.FP32, name: str = "y") -> ResultTensor:
    return ResultTensor(name, dtype, array.shape, memoryview(array.tobytes()))


@settings(max_examples=200, deadline=None)
@given(
    arrays=st.integers(1, 40).flatmap(
        lambda rows: st.lists(
            hnp.array_shapes(min_dims=0, max_dims=3, max_side=9).flatmap(
                lambda rest: hnp.arrays(np.float32, (rows, *rest), elements=st.floats(width=32))
            ),
            min_size=1,
            max_size=2,
        )
    ),
    most=st.integers(1, 50),
    fmt=st.sampled_from(JsonFormat),
)
def test_pieces_make_the_same_text(arrays: list[AnyArray], most: int, fmt: JsonFormat) -> None:
    outputs = [result(array, name=f"y{index}") for index, array in enumerate(arrays)]
    whole = encode_predict(fmt, outputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "PIECE_ELEMENTS", most)
        patch.setattr(encode, "PIECE_ELEMENTS", most)
        assert encode_predict(fmt, outputs) == whole


@pytest.mark.parametrize("dtype", [DType.FP32, DType.INT32, DType.UINT8])
@pytest.mark.parametrize("shape", [(140_000,), (1, 140_000), (140_000, 1), (2, 3, 24_000)])
def test_long_ones(dtype: DType, shape: tuple[int, ...]) -> None:
    array = (np.arange(np.prod(shape)) % 200).astype(dtype.numpy).reshape(shape)
    assert json.loads(encode_predict(JsonFormat.COLUMN, [result(array, dtype)]))["outputs"] == array.tolist()


@pytest.mark.parametrize("shape", [(140_000,), (1, 140_000), (70_000, 2), (2, 2, 35_000)])
def test_longer_than_allowed(shape: tuple[int, ...]) -> None:
    output = result(np.ones(shape, np.float32))
    length = len(encode_predict(JsonFormat.COLUMN, [output]))
    assert len(encode_predict(JsonFormat.COLUMN, [output], length)) == length
    for limit in (200_000, length - 100):  # By their number alone, and by their text.
        with pytest.raises(AnswerTooLarge, match=rf"limit is {limit} \(--max_message_mb\)"):
            encode_predict(JsonFormat.COLUMN, [output], limit)
