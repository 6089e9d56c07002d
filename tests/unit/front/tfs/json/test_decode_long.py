# SPDX-License-Identifier: Apache-2.0
"""Long JSON bodies say what short ones say, and what reading one takes is bounded before it is read."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ovms_mp.errors import BodyMemoryFull, MalformedPayload, RequestTooLarge
from ovms_mp.front.budget import BodyBudget
from ovms_mp.front.json import scanner
from ovms_mp.front.json.lists import LONG_BYTES
from ovms_mp.front.json.reader import load_json
from ovms_mp.front.tfs.json.decode import decode_predict
from ovms_mp.front.tfs.json.decode_long import decode_long
from ovms_mp.front.tfs.json.reader import JsonFormat, read_predict
from ovms_mp.model.dtypes import DType
from ovms_mp.model.tensors import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Decoded = tuple[JsonFormat, Mapping[str, Any]]

MIB = 1 << 20


def _values(tensor: Any) -> Any:
    """Of numbers; whichever array the reader made."""
    return np.asarray(tensor.values)


ANY = (0, -1)


def spec(name: str = "x", dtype: DType = DType.FP32) -> TensorSpec:
    return TensorSpec.of(name, dtype, (ANY, ANY))


def long(body: bytes, *inputs: TensorSpec, budget: int = 256 * MIB) -> Mapping[str, Any]:
    form, given = asyncio.run(decode_long(body, inputs, BodyBudget(budget).share()))
    assert form is JsonFormat.ROW
    return given


def rows(*each: Any, count: int = 20_000) -> bytes:
    return json.dumps({"instances": [each[index % len(each)] for index in range(count)]}).encode()


def assert_same(given: Mapping[str, Any], body: bytes, *inputs: TensorSpec) -> None:
    """As the reader says that decides what a request says."""
    _, expected = read_predict(load_json(body, is_strict_json=False), inputs)
    assert given.keys() == expected.keys()
    for name, tensor in given.items():
        assert (tensor.dtype, tensor.shape) == (expected[name].dtype, expected[name].shape)
        np.testing.assert_array_equal(_values(tensor), _values(expected[name]))


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        (DType.FP32, [[1.5, 2]]),
        (DType.FP32, [[1, 2], [1.5, float("nan")]]),
        (DType.FP32, [[2**53 + 1, 1], [0.5, 1]]),
        (DType.INT64, [[2**60 + 1, -5]]),
        (DType.INT64, [[1, 2], [3.0, 4.0]]),
        (DType.BOOL, [[True, False]]),
        (DType.UINT8, [[1, 255]]),
    ],
)
def test_rows_in_pieces_say_what_they_say_in_one(dtype: DType, values: list[list[Any]]) -> None:
    inputs = spec("x", dtype), spec("y")
    body = rows(*[{"x": value, "y": [0.25]} for value in values])

    assert len(body) >= LONG_BYTES
    assert_same(long(body, *inputs), body, *inputs)


@pytest.mark.parametrize(
    "change",
    [
        (b'{"inst', b'{"signature_name": "a",\n "inst'),
        (b", ", b"\n ,\t"),
        (b"}]}", b'}], "signature_name": "]}" } '),
    ],
)
def test_rows_are_found_behind_what_clients_send(change: tuple[bytes, bytes]) -> None:
    body = rows({"x": [1, 2]}).replace(*change)

    assert_same(long(body, spec()), body, spec())


@pytest.mark.parametrize(
    ("first", "last"),
    [
        (b"1.0", b"9007199254740993"),
        (b"-1.0", b"9007199254740993"),
        (b"1.0", b"18446744073709551615"),
        (b"1", b"18446744073709551615"),
        (b"1.5", b"9007199254740993"),
    ],
)
def test_integers_and_floats_in_different_pieces_are_exact(first: bytes, last: bytes) -> None:
    parts = [b'{"x": [%b]}' % value for value in (first, last) for _ in range(8_000)]
    body = b'{"instances": [' + b", ".join(parts) + b"]}"

    assert_same(long(body, spec("x", DType.INT64)), body, spec("x", DType.INT64))


def test_integers_that_no_array_holds_are_refused() -> None:
    parts = [b'{"x": [%b]}' % value for value in (b"-1", b"18446744073709551615") for _ in range(8_000)]

    with pytest.raises(MalformedPayload, match="out of range"):
        long(b'{"instances": [' + b", ".join(parts) + b"]}", spec("x", DType.INT64))


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (b'{"x": ["a", 1]}', r"instances\[20000\]\['x'\]\[0\] is the string"),
        (b'{"y": [1, 2]}', r"instances\[20000\] must have exactly the model's inputs"),
        (b"{}", r"instances\[20000\] must have exactly"),
        (b"7", r"instances\[20000\] is the number"),
        (b'{"x": [1, 2, 3]}', r"instances\[\d+\].* expected"),
        (b'{"x": [1, 2]', "Invalid JSON"),
        (b'{"x": [1, 2]}}', "Invalid JSON"),
        (b'{"x": {"x": [1]}}', "an object"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(row: bytes, text: str) -> None:
    for last in (row, row + b', {"x": [1, 2]}'):
        body = b'{"instances": [' + b'{"x": [1, 2]}, ' * 20_000 + last + b"]}"
        with pytest.raises(MalformedPayload, match=text):
            long(body, spec())


def test_others_run_between_pieces() -> None:
    async def count_turns() -> int:
        turns = 0
        body = rows({"x": [1, 2]}, count=80_000)
        task = asyncio.ensure_future(decode_long(body, [spec()], BodyBudget(256 * MIB).share()))
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        return turns

    assert asyncio.run(count_turns()) >= 12


def test_what_reading_takes_is_counted_first() -> None:
    body = b'{"instances": [' + b"1," * (2 * MIB) + b"1]}"
    share = BodyBudget(100 * MIB).share()
    asyncio.run(decode_long(body, [spec()], share))
    assert share.nbytes == 24 * 2 * MIB

    with pytest.raises(RequestTooLarge, match="--max_body_memory_mb"):
        long(body, spec(), budget=40 * MIB)
    budget = BodyBudget(64 * MIB)
    budget.share().grow(32 * MIB)
    with pytest.raises(BodyMemoryFull):
        asyncio.run(decode_long(body, [spec()], budget.share()))


# Words in the place of numbers.


def slowly(body: bytes, inputs: tuple[TensorSpec, ...]) -> Decoded:
    return read_predict(load_json(body, is_strict_json=False), inputs)


def outcome(
    read: Callable[[bytes, tuple[TensorSpec, ...]], Decoded], body: bytes, inputs: tuple[TensorSpec, ...]
) -> Any:
    """What comes out, in a form that compares, or the words of the refusal."""
    try:
        given = read(body, inputs)[1]["NaN"]
    except MalformedPayload as refusal:
        return refusal.message
    return given.dtype, given.shape, repr(np.asarray(given.values).tolist())


@pytest.mark.parametrize("dtype", [DType.FP32, DType.INT32, DType.BOOL])
@pytest.mark.parametrize(
    "text",
    [
        "[[1, NaN], [Infinity, -Infinity]]",
        "[[NaN, NaN], [NaN, NaN]]",
        "[[3e-323, NaN], [4e-323, -4e-323]]",
        "[[-NaN, 1], [2, 3]]",
        "[[NaN, 1], [2]]",
        "[[NaN1, 1], [2, 3]]",
        "[[1NaN, 1], [2, 3]]",
        "[[-Infinity, 9007199254740993], [2, 3]]",
        "NaN",
        "[]",
        '["NaN"]',
    ],
)
def test_words_are_read_as_the_other_reader_does(text: str, dtype: DType) -> None:
    for form in (
        '{"inputs": %s}',
        '{"inputs": {"NaN": %s}}',
        '{"instances": [{"NaN": %s}]}',
        '{"NaN": NaN, "inputs": %s}',
    ):
        body, inputs = (form % text).encode(), (spec("NaN", dtype),)
        assert outcome(decode_predict, body, inputs) == outcome(slowly, body, inputs)


def test_plain_numbers_with_words_take_no_python_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> object:
        raise AssertionError("the slow reader was asked")

    monkeypatch.setattr(scanner, "load_json", refuse)
    body = b'{"inputs": {"x": [[' + b"1.5, NaN, -Infinity, " * 100_000 + b"Infinity]]}}"
    given = decode_predict(body, [spec()])[1]["x"]

    assert given.shape == (1, 300_001)
    assert np.isnan(_values(given)[:300_000].reshape(-1, 3)).sum(axis=0).tolist() == [0, 100_000, 0]


@pytest.mark.parametrize("element", [b"{},", b"[],", b"null,", b'"",', b"[[[[]]]],", b'{"x":1},', b"[1],[],"])
@pytest.mark.parametrize("last", [b"NaN", b"1"])
def test_what_would_take_long_is_refused_unread(
    element: bytes, last: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []

    def noted(body: bytes, is_strict_json: bool) -> object:
        lengths.append(len(body))
        return load_json(body, is_strict_json)

    monkeypatch.setattr(scanner, "load_json", noted)
    body = b'{"instances": [' + element * (3 * MIB // len(element)) + last + b"]}"
    with pytest.raises(MalformedPayload):
        long(body, spec())
    assert max(lengths, default=0) <= LONG_BYTES
