# SPDX-License-Identifier: Apache-2.0
"""The JSON of inference requests: two readers that agree, exact numbers, and precise refusals."""

from __future__ import annotations

import asyncio
import json
import math
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ovms_mp.errors import DtypeMismatch, MalformedPayload, OvmsError
from ovms_mp.front.budget import BodyBudget
from ovms_mp.front.json import lists, scanner
from ovms_mp.front.json.reader import load_json
from ovms_mp.front.kserve.json import decode_long as long_module
from ovms_mp.front.kserve.json.assemble import assemble
from ovms_mp.front.kserve.json.binary import Binary, Part
from ovms_mp.front.kserve.json.decode import decode_json
from ovms_mp.front.kserve.json.decode_long import decode_long
from ovms_mp.front.kserve.json.reader import read_infer
from ovms_mp.front.protobuf.turns import at_one_go
from ovms_mp.front.regions.tensors import RegionInput
from ovms_mp.front.tensors import BytesTensor
from ovms_mp.model.dtypes import DType, Kind
from ovms_mp.model.tensors import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.front.kserve.infer_request import InferRequest
    from ovms_mp.front.kserve.json.request import JsonRequest
    from ovms_mp.model.dtypes import AnyArray

FREE = (0, -1)


def spec(dtype: DType, *bounds: tuple[int, int], name: str = "x") -> TensorSpec:
    return TensorSpec.of(name, dtype, bounds or (FREE,))


def text_of(data: Any, shape: Sequence[int] = (2,), datatype: str = "FP32", **more: Any) -> bytes:
    return json.dumps(
        {"inputs": [{"name": "x", "shape": shape, "datatype": datatype, "data": data, **more}]}
    ).encode()


def request_of(text: bytes, specs: Sequence[TensorSpec] = (), binary: bytes | None = None) -> InferRequest:
    rest = None if binary is None else memoryview(binary)
    return at_one_go(
        assemble(decode_json(text), None if rest is None else Binary([Part(rest)]), specs, "m", "1")
    )


def written(text: bytes, dtype: DType, binary: bytes | None = None) -> AnyArray:
    """The input as a model of this dtype gets it."""
    model = spec(dtype)
    tensor = request_of(text, [model], binary).inputs["x"]
    place = bytearray(dtype.nbytes(tensor.shape))
    if place:
        tensor.write(model, memoryview(place))
    return np.frombuffer(place, dtype.numpy).reshape(tensor.shape)


def shown(data: object) -> object:
    if isinstance(data, BytesTensor):
        return data.shape, [bytes(text) for text in data.strings or ()]
    return repr(data)


def plain(request: JsonRequest) -> Any:
    """What two readers must agree on."""
    return (
        request.id,
        dict(request.parameters),
        [(output.name, dict(output.parameters)) for output in request.outputs],
        [
            (item.name, item.dtype, item.shape, dict(item.parameters), shown(item.data))
            for item in request.inputs
        ],
    )


def both(text: bytes) -> Any:
    """What both readers say."""
    expected = read_infer(load_json(text, is_strict_json=False))
    found = decode_json(text)
    assert plain(found) == plain(expected)
    return found


WHOLE = {
    "id": "42",
    "parameters": {"priority": 1, "timeout": 5, "a": "b", "c": True, "d": 0.5, "e": 2**63, "f": -(2**63)},
    "inputs": [
        {"name": "a", "shape": [2, 3], "datatype": "FP32", "data": [[1, 2, 3], [4, 5, 6]]},
        {"datatype": "INT64", "data": [2**53 + 1], "shape": [1], "parameters": {"k": "v"}, "name": "b"},
        {"name": "c", "shape": [0], "datatype": "BOOL", "data": []},
    ],
    "outputs": [{"name": "y"}, {"name": "z", "parameters": {"binary_data": True}}],
}


def test_everything_is_read() -> None:
    found = both(json.dumps(WHOLE).encode())

    assert (found.id, found.parameters, len(found.inputs)) == ("42", WHOLE["parameters"], 3)
    assert [output.name for output in found.outputs] == ["y", "z"]


def test_the_plain_form_needs_no_second_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> object:
        raise AssertionError

    monkeypatch.setattr(scanner, "load_json", refuse)
    decode_json(json.dumps(WHOLE).encode())
    decode_json(text_of([math.nan, -math.inf]))
    decode_json(json.dumps(WHOLE, indent=1).encode())


def test_what_is_not_known_or_null_is_nothing() -> None:
    odd = {"id": None, "parameters": None, "outputs": None, "model_name": "m", "more": [[1], {"data": [[]]}]}
    inputs = [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1], "parameters": None, "y": [1]}]
    found = both(json.dumps({**odd, "inputs": inputs}).encode())

    assert (found.id, found.parameters, found.outputs) == ("", {}, [])


def test_a_number_as_id_is_its_text() -> None:
    assert both(b'{"id": 7, ' + text_of([1, 2])[1:]).id == "7"


@pytest.mark.parametrize(
    ("shape", "data"),
    [
        ([2, 3], [1, 2, 3, 4, 5, 6]),
        ([2, 3], [[1, 2, 3], [4, 5, 6]]),
        ([1, 2, 3], [[1, 2, 3], [4, 5, 6]]),
        ([2, 3], [[[1, 2, 3], [4, 5, 6]]]),
        ([2, 3], [[1, 2, 3, 4, 5, 6]]),
        ([6], [1, 2, 3, 4, 5, 6]),
    ],
)
def test_data_is_flat_or_nested(shape: list[int], data: Any) -> None:
    found = written(text_of(data, shape), DType.FP32)
    assert (found.shape, found.ravel().tolist()) == (tuple(shape), [1, 2, 3, 4, 5, 6])


def test_a_scalar_and_nothing() -> None:
    assert written(text_of([5], []), DType.FP32).tolist() == 5
    assert written(text_of([], [0, 4]), DType.FP32).shape == (0, 4)
    assert written(text_of([[], []], [2, 0]), DType.FP32).shape == (2, 0)


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        (DType.INT64, [2**53 + 1, -(2**63), 2**63 - 1]),
        (DType.UINT64, [2**64 - 1, 2**63 + 1, 0]),
        (DType.FP64, [0.1, 1 / 3, 1e300, 5e-324, -0.0]),
        (DType.FP32, [0.1, 1e-45, 3.4028235e38]),
        (DType.BOOL, [True, False, 1, 0]),
        (DType.INT8, [-128, 127]),
    ],
)
def test_numbers_are_exact(dtype: DType, values: list[Any]) -> None:
    expected = np.array(values, dtype.numpy)
    assert written(text_of(values, [len(values)], dtype.name), dtype).tobytes() == expected.tobytes()


def test_a_narrow_float_is_rounded_before_it_becomes_a_wide_one() -> None:
    for dtype, numpy in ((DType.FP16, np.float16), (DType.BF16, ml_dtypes.bfloat16)):
        found = written(text_of([0.1, 1e-3], [2], dtype.name), DType.FP32)
        assert found.tolist() == np.array([0.1, 1e-3], numpy).astype(np.float32).tolist()


def test_what_a_datatype_cannot_hold_is_refused_whatever_the_model_takes() -> None:
    with pytest.raises(DtypeMismatch, match="'x' is INT8; value 300"):
        request_of(text_of([1, 300], [2], "INT8"), [spec(DType.INT32)])


def test_words_that_are_numbers() -> None:
    found = written(
        b'{"inputs":[{"name":"x","shape":[3],"datatype":"FP32","data":[NaN,-Infinity,Infinity]}]}', DType.FP32
    )
    np.testing.assert_array_equal(found, np.array([np.nan, -np.inf, np.inf], np.float32))


def test_strings() -> None:
    tensor = request_of(text_of([["a", "ü\0"], ["", "z"]], [2, 2], "BYTES")).inputs["x"]
    assert isinstance(tensor, BytesTensor)
    assert [bytes(text) for text in tensor.strings or ()] == [b"a", "ü\0".encode(), b"", b"z"]


OK = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}
REFUSALS: list[tuple[Any, str]] = [
    ([], "Invalid JSON in request body: expected an object with 'inputs', found an empty list"),
    ({}, "Invalid JSON structure, missing inputs"),
    ({"inputs": []}, "Invalid JSON structure, missing inputs"),
    ({"inputs": {}}, "'inputs' must be a list, found an empty object"),
    ({"inputs": [1]}, r"inputs\[0\] must be an object, found the number 1"),
    ({"inputs": [OK, {}]}, r"inputs\[1\] must have a string as 'name', found null"),
    ({"inputs": [{**OK, "name": 1}]}, "string as 'name'"),
    ({"inputs": [{**OK, "datatype": None}]}, "input 'x' must have a string as 'datatype', found null"),
    ({"inputs": [{**OK, "datatype": "FP31"}]}, "unknown datatype 'FP31'; known: BOOL"),
    ({"inputs": [{**OK, "shape": 1}]}, "must have a list of numbers as 'shape', found the number 1"),
    ({"inputs": [{**OK, "shape": [-1]}]}, r"shape\[0\] is the number -1, expected a whole number"),
    ({"inputs": [{**OK, "shape": [1.0]}]}, r"shape\[0\] is the number 1.0"),
    ({"inputs": [{**OK, "shape": [True]}]}, r"shape\[0\] is true"),
    ({"inputs": [{**OK, "shape": [1] * 101}]}, "101 dimensions, more than 100"),
    ({"inputs": [{**OK, "data": 1}]}, "'data' must be a list, found the number 1"),
    ({"inputs": [{**OK, "data": ["a"]}]}, r"data\[0\] is the string 'a'"),
    ({"inputs": [{**OK, "data": [True]}]}, r"data\[0\] is true, expected a number"),
    ({"inputs": [{**OK, "data": [[1], 2]}]}, r"data\[1\] is the number 2, expected a list of 1"),
    ({"inputs": [{**OK, "datatype": "BYTES"}]}, "element 0 of data is the number 1, expected a string"),
    ({"inputs": [{**OK, "datatype": "BYTES", "data": ["\ud800"]}]}, "half a surrogate pair"),
    ({"inputs": [{**OK, "datatype": "BYTES", "data": [["a"], []]}]}, "neither flat nor nested regularly"),
    ({"inputs": [OK], "id": [1]}, "'id' must be a string, found a list of 1"),
    ({"inputs": [OK], "id": "\ud800"}, "'id' is no text.*half a surrogate pair"),
    ({"inputs": [OK], "outputs": {}}, "Could not parse output content. 'outputs' must be a list"),
    ({"inputs": [OK], "outputs": ["y"]}, r"outputs\[0\] must be an object"),
    ({"inputs": [OK], "outputs": [{}]}, r"outputs\[0\] must have a string as 'name'"),
    ({"inputs": [OK], "parameters": [1]}, "those of the request must be an object"),
    ({"inputs": [OK], "parameters": {"a": [1]}}, "'a' of the request is a list of 1"),
    ({"inputs": [OK], "parameters": {"a": None}}, "'a' of the request is null"),
    ({"inputs": [OK], "parameters": {"a": 2**64}}, "which has more than 64 bits"),
    ({"inputs": [{**OK, "parameters": 1}]}, "those of input 'x' must be an object"),
]


@pytest.mark.parametrize(("document", "message"), REFUSALS)
def test_refusals(document: Any, message: str) -> None:
    with pytest.raises(OvmsError, match=message):
        decode_json(json.dumps(document).encode())


@pytest.mark.parametrize("text", [b"", b"x", b'{"inputs"', b"\xff", b"[" * 60_000, text_of([1, 2]) + b"x"])
def test_what_is_no_json(text: bytes) -> None:
    with pytest.raises(MalformedPayload, match="Invalid JSON"):
        decode_json(text)


WRONG: list[tuple[Any, str]] = [
    ([OK, OK], "input 'x' is there twice"),
    ([{**OK, "shape": [2]}], r"data has 1 elements, and the shape \[2\] has 2"),
    ([{**OK, "shape": [10**12, 10**12]}], "data has 1 elements"),
    (
        [{**OK, "shape": [2, 3], "data": [[1, 2], [3, 4], [5, 6]]}],
        r"nested as \[3, 2\], but the shape is \[2, 3\]",
    ),
    ([{"name": "x", "shape": [1], "datatype": "FP32"}], "exactly one of 'data', and the parameters"),
    ([{**OK, "parameters": {"binary_data_size": 4}}], "both in binary data and in content value"),
    ([{**OK, "parameters": {"shared_memory_region": "r"}}], "exactly one of 'data'"),
]


@pytest.mark.parametrize(("inputs", "message"), WRONG)
def test_what_does_not_fit_together(inputs: Any, message: str) -> None:
    with pytest.raises(OvmsError, match=message):
        request_of(json.dumps({"inputs": inputs}).encode())


def test_an_input_in_shared_memory_is_left_to_others() -> None:
    parameters = {"shared_memory_region": "r", "shared_memory_byte_size": 4}
    item = {"name": "x", "shape": [1], "datatype": "FP32", "parameters": parameters}
    tensor = request_of(json.dumps({"inputs": [item]}).encode()).inputs["x"]
    assert isinstance(tensor, RegionInput)
    assert (tensor.shape, tensor.place.region, tensor.place.nbytes) == ((1,), "r", 4)


@settings(deadline=None, max_examples=150)
@given(
    array=st.sampled_from([np.float64, np.int64, np.uint64, np.bool_, np.float32]).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    ),
    is_flat=st.booleans(),
    indent=st.sampled_from([None, 1]),
    order=st.permutations(["name", "shape", "datatype", "data"]),
)
def test_any_array(array: AnyArray, is_flat: bool, indent: int | None, order: list[str]) -> None:
    dtype = next(dtype for dtype in DType if dtype.numpy == array.dtype)
    data = array.ravel().tolist() if is_flat or not array.ndim else array.tolist()
    item = {"name": "x", "shape": list(array.shape), "datatype": dtype.name, "data": data}
    document = {"outputs": [{"name": "y"}], "inputs": [{key: item[key] for key in order}], "id": "[["}
    text = json.dumps(document, indent=indent).encode()
    both(text)
    if array.size:
        np.testing.assert_array_equal(written(text, dtype), array, strict=True)


SEEDS = [json.dumps(WHOLE).encode(), text_of([[1, 2], [3, 4]], [2, 2]), text_of(["a"], [1], "BYTES")]


@settings(deadline=None, max_examples=400)
@given(
    text=st.sampled_from(SEEDS),
    edits=st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 3), st.sampled_from([*b'[]{},:"01.eE-tn\\ \xff', 0])),
        max_size=4,
    ),
)
def test_mutated_texts_are_refused_or_read_alike(text: bytes, edits: list[tuple[float, int, int]]) -> None:
    mutated = bytearray(text)
    for where, removed, added in edits:
        at = int(where * len(mutated))
        mutated[at : at + removed] = bytes([added])
    try:
        expected = plain(read_infer(load_json(bytes(mutated), is_strict_json=False)))
    except OvmsError:
        with pytest.raises(OvmsError):
            decode_json(bytes(mutated))
    else:
        assert plain(decode_json(bytes(mutated))) == expected


def read_long(text: bytes) -> JsonRequest:
    return asyncio.run(decode_long(text, BodyBudget(1 << 30).share()))


@pytest.fixture
def short_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_module, "LIST_BYTES", 1)
    monkeypatch.setattr(long_module, "_CUT_BYTES", 10)
    monkeypatch.setattr(lists, "_PIECE_BYTES", 20)


LONG = [
    json.dumps(WHOLE).encode(),
    json.dumps(WHOLE, indent=1).encode(),
    text_of(list(range(100)), [100]),
    text_of([[i, i + 1] for i in range(50)], [50, 2], "INT64"),
    text_of(list(range(100)), [100], "FP64", parameters={"a": 1}),
    text_of([1.5, math.nan] * 50, [100]),
    text_of([[1], 2] * 50, [100]).replace(b"[1]", b"1"),
    text_of([True] * 30, [30], "BOOL"),
    text_of(["a"] * 30, [30], "BYTES"),
    text_of(list(range(20)), [20]).replace(b'"x"', b'"\\"data\\": [1, 2, 3, 4, 5, 6, 7, 8]"'),
    b'{"more": {"data": [1, 2, 3, 4, 5, 6, 7, 8]}, ' + text_of([1, 2])[1:],
    b'{"inputs": [{"name": "a\\"data" , "shape": [9], "datatype": "FP32", "data" : [1,2,3,4,5,6,7,8,9] }]}',
]


@pytest.mark.usefixtures("short_is_long")
@pytest.mark.parametrize("text", LONG)
def test_long_texts_say_the_same(text: bytes) -> None:
    assert plain(read_long(text)) == plain(decode_json(text))


BROKEN = [
    text_of(0, [1]),
    text_of(list(range(20)), [20]).replace(b"19]", b"19,]"),
    text_of(list(range(20)), [20]).replace(b"19]", b"19],,"),
    text_of(list(range(20)), [20]).replace(b"19]", b"19]]"),
    b'{"inputs": [{"name": "x", "shape": [9], "datatype": "FP32", "data": [1,2,3,4,5,6,7,8,9], "data": 0}]}',
    b'{"inputs": [{"name": "x", "shape": [9], "datatype": "FP32", "data": 0}], "y": {"data": [1,2,3,4,5,6,7]}}',
]


@pytest.mark.usefixtures("short_is_long")
@pytest.mark.parametrize("text", BROKEN)
def test_long_texts_are_refused_alike(text: bytes) -> None:
    with pytest.raises(MalformedPayload) as expected:
        decode_json(text)
    with pytest.raises(MalformedPayload) as found:
        read_long(text)
    assert found.value.message == expected.value.message


HEAD = b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": '
NESTED = 2_200_000
HOSTILE = {
    "keys without end": b'{"inputs": [' + b'"data": [' * 500_000,
    "brackets": HEAD + b"[" * NESTED + b"1" + b"]" * NESTED + b"}]}",
    "brackets around two": HEAD + b"[" * NESTED + b"1,1" + b"]" * NESTED + b"}]}",
    "brackets and space": HEAD + b"[ " * NESTED + b"1" + b"]" * NESTED + b"}]}",
    "parameters": HEAD
    + b'[1]}], "parameters": {'
    + b",".join(b'"%d": 1' % i for i in range(400_000))
    + b"}}",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_time_grows_with_the_text_alone(what: str) -> None:
    """Where it grew with its square, each of these took minutes."""
    assert len(HOSTILE[what]) > lists.LIST_BYTES
    with pytest.raises(MalformedPayload, match="100000 at most"):
        read_long(HOSTILE[what])


def test_many_parameters_are_read() -> None:
    parameters = {f"key {number}": number for number in range(1000)}
    assert read_long(text_of([1, 2], parameters=parameters)).inputs[0].parameters == parameters


def test_a_number_of_too_many_digits() -> None:
    with pytest.raises(MalformedPayload, match=r"the number 1{40}\.\.\. has 5000 digits"):
        decode_json(b'{"id": ' + b"1" * 5000 + b"}")


def test_other_clients_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_module, "LIST_BYTES", 1)
    monkeypatch.setattr(long_module, "_CUT_BYTES", 10)
    monkeypatch.setattr(lists, "_PIECE_BYTES", 50)
    turns = 0

    async def count() -> None:
        nonlocal turns
        reading = asyncio.ensure_future(decode_long(LONG[2], BodyBudget(1 << 30).share()))
        while not reading.done():
            turns += 1
            await asyncio.sleep(0)

    asyncio.run(count())
    assert turns > 5


def test_reading_takes_its_share_of_memory() -> None:
    with pytest.raises(OvmsError, match="max_body_memory_mb"):
        asyncio.run(decode_long(LONG[2], BodyBudget(1000).share()))


def test_kinds_of_all_datatypes() -> None:
    for dtype in DType:
        if dtype.kind is Kind.FLOAT:
            assert written(text_of([0.5, 2], [2], dtype.name), dtype).astype(np.float64).tolist() == [0.5, 2]
