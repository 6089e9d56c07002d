# SPDX-License-Identifier: Apache-2.0
"""Long lists of numbers: read in pieces they are what they are in one, and others have their turn in between."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ovms_mp.errors import MalformedPayload
from ovms_mp.front.budget import BodyBudget
from ovms_mp.front.json import lists
from ovms_mp.front.json.lists import count_values
from ovms_mp.front.tfs.json.decode import decode_predict
from ovms_mp.front.tfs.json.decode_long import decode_long
from ovms_mp.front.tfs.json.lists import read_predict_list
from ovms_mp.model.dtypes import DType
from ovms_mp.model.tensors import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ovms_mp.front.tfs.json.reader import JsonFormat

    Decoded = tuple[JsonFormat, Mapping[str, Any]]

FORMS = ('{"instances": %s}', '{"inputs": %s}', '{"inputs": {"x": %s}}')


def spec(dtype: DType = DType.FP32, name: str = "x") -> TensorSpec:
    return TensorSpec.of(name, dtype, ((0, -1),))


def read(text: str, *inputs: TensorSpec) -> Decoded | None:
    body = text.encode()
    return asyncio.run(read_predict_list(body, inputs or (spec(),), count_values(body) + 1))


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "_PIECE_BYTES", 20)


def assert_same(found: Decoded | None, expected: Decoded) -> None:
    assert found is not None
    assert found[0] is expected[0]
    assert found[1].keys() == expected[1].keys()
    for name, tensor in expected[1].items():
        assert (found[1][name].dtype, found[1][name].shape) == (tensor.dtype, tensor.shape)
        np.testing.assert_array_equal(np.asarray(found[1][name].values), np.asarray(tensor.values))


@settings(max_examples=200, deadline=None)
@given(
    array=hnp.array_shapes(min_dims=1, max_dims=4, max_side=6).flatmap(
        lambda shape: (
            hnp.arrays(np.float64, shape, elements=st.floats(allow_nan=False, allow_infinity=False))
            | hnp.arrays(np.int64, shape)
        )
    ),
    form=st.sampled_from(FORMS),
    separators=st.sampled_from([(",", ":"), (", ", ": ")]),
    dtype=st.sampled_from([DType.FP32, DType.INT64]),
)
def test_pieces_are_the_whole(array: Any, form: str, separators: tuple[str, str], dtype: DType) -> None:
    text = form % json.dumps(array.tolist(), separators=separators)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lists, "_PIECE_BYTES", 20)
        found = read(text, spec(dtype))
    if found is not None:
        assert_same(found, decode_predict(text.encode(), (spec(dtype),)))
    else:
        # Integers among floats, or beyond what floats hold exactly: for the reader of the whole.
        assert dtype is DType.INT64


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(
    "text",
    [
        '{"signature_name": "a", "instances": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]}',
        '{"instances": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], "signature_name": "]}"}',
        '\n{ "inputs" : { "x" : [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]] } }\n',
        '{"inputs": [[[[1, 2], [3, 4], [5, 6], [7, 8], [9, 10], [11, 12]]]]}',
        '{"inputs": [1]}',
    ],
)
def test_forms_that_clients_send(text: str) -> None:
    assert_same(read(text), decode_predict(text.encode(), (spec(),)))


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(
    "text",
    [
        '{"instances": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, [11, 12]]}',
        '{"instances": [[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11]]}',
        '{"instances": [[1, 2, 3], [4, 5, 6], [7, 8, 9], 10]}',
        '{"instances": [[[1, 2], [3]], [[4, 5], [6]]]}',
        '{"instances": [1, 2, 3, 4, 5, 6, 7, 8, 9, "10"]}',
        '{"instances": [1, 2, 3, 4, 5, 6, 7, 8, 9, NaN]}',
        '{"instances": [1, 2, 3, 4, 5, 6, 7, 8, 9,]}',
        '{"instances": [1, 2, 3, 4, 5, 6, 7, 8, 9], "inputs": [1]}',
        '{"instances": [1, 2, 3, 4, 5, 6, 7, 8], "instances": [9]}',
        '{"instances": [1, 2, 3, 4, 5, 6, 7, 8]] }',
        '{"instances": [1, 2, 3, 4, 5, 6, 7], [8]}',
        '{"instances": {"x": [1, 2, 3, 4, 5, 6, 7]}}',
        '{"inputs": {"y": [1, 2, 3, 4, 5, 6, 7]}}',
        '{"inputs": {"x": [1, 2, 3, 4], "x": [5, 6, 7]}}',
        '{"inputs": [[1, 2, 3, 4]], [[5, 6, 7]]}',
        '{"inputs": [ [ [1, 2], [3, 4], [5, 6], [7, 8], [9, 10], [11, 12] ] ]}',
        '{"inputs": []}',
        '{"inputs": [[]]}',
        '{"inputs": [',
        "[1, 2]",
    ],
)
def test_anything_else_is_left_to_the_reader_of_the_whole(text: str) -> None:
    found = read(text)
    if found is not None:  # As it may be where the whole is plain, too.
        assert_same(found, decode_predict(text.encode(), (spec(),)))


PAIR = (spec(DType.FP32, "a"), spec(DType.INT64, "b"))
NUMBERS = "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]"


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(
    "text",
    [
        '{"inputs": {"a": %s, "b": [%s]}}',
        '{"inputs":{"b":[%s],"a":[[%s]]},"signature_name":"]}"}',
        ' { "signature_name": "a:[" , "inputs" :{"a" : [ %s], "b"\t: %s } , "c": 1 } ',
    ],
)
def test_columns_of_several_inputs_are_read_in_pieces(text: str) -> None:
    text %= (NUMBERS, NUMBERS)
    found = read(text, *PAIR)
    assert_same(found, decode_predict(text.encode(), PAIR))


@pytest.mark.parametrize(
    "text",
    [
        '{"inputs": {"a": %s}}',
        '{"signature_name": [1], "inputs": {"a": %s, "b": [1]}}',
        '{"signature_name": "\\": [", "inputs": {"a": %s, "b": [1]}}',
        '{"inputs": {"a": %s, "c": [1]}}',
        '{"inputs": {"a": %s, "b": 1}}',
        '{"inputs": {"a": 1, "b": 0}, "c": [%s], "d": [1]}',
        '{"inputs": {"a": %s, "b": [1], "a": [1]}}',
        '{"inputs": {"a": %s, "b": [1]}, "inputs": {"a": [1], "b": [1]}}',
        '{"instances": {"a": %s, "b": [1]}}',
        '{"instances": [{"a": %s, "b": [1]}]}',
        '{"instances": [1], "inputs": {"a": %s, "b": [1]}}',
        '{"inputs": {"a": %s, "b": [1]]}}',
        '{"inputs": {"a": %s, "b": ["1"]}}',
        '{"inputs": {"a": %s, "b": [1]',
        '{"inputs": {"a": %s, "b',
        '{"inputs": %s}',
        "%s",
    ],
)
def test_other_columns_are_left_to_the_reader_of_the_whole(text: str) -> None:
    assert read(text % NUMBERS, *PAIR) is None


def test_what_is_wrong_is_told_with_its_place_in_the_whole() -> None:
    body = b'{"instances": [' + b"[1, 2], " * 90_000 + b'["a", 1]]}'
    with pytest.raises(MalformedPayload, match="plain lists of numbers"):
        asyncio.run(decode_long(body, (spec(),), BodyBudget(1 << 30).share()))
    body = b'{"instances": [' + b"[1.0000000000000, 2], " * 20_000 + b'["a", 1]]}'
    with pytest.raises(MalformedPayload, match=r"instances\[20000\]\[0\] is the string"):
        asyncio.run(decode_long(body, (spec(),), BodyBudget(1 << 30).share()))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(240_000,), (240, 1000), (1, 240_000), (240_000, 1), (1, 1, 240, 1000)])
def test_others_have_their_turn(form: str, shape: tuple[int, ...]) -> None:
    body = (form % json.dumps((np.arange(240_000) / 7).reshape(shape).tolist())).encode()
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def both() -> Decoded:
        beside = asyncio.create_task(other())
        found = await decode_long(body, (spec(),), BodyBudget(1 << 30).share())
        beside.cancel()
        return found

    assert_same(asyncio.run(both()), decode_predict(body, (spec(),)))
    assert turns >= len(body) // (2 * lists._PIECE_BYTES)
