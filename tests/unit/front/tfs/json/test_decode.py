# SPDX-License-Identifier: Apache-2.0
"""JSON predict bodies: ``json.loads`` and NumPy are the oracle, and the two readers are each other's."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ovms_mp.errors import MalformedPayload, OvmsError
from ovms_mp.front.json import scanner
from ovms_mp.front.json.reader import load_json
from ovms_mp.front.tensors import ResultTensor
from ovms_mp.front.tfs.json.decode import decode_predict
from ovms_mp.front.tfs.json.encode import encode_predict
from ovms_mp.front.tfs.json.reader import JsonFormat, read_predict
from ovms_mp.model.dtypes import NUMERIC_DTYPES, AnyArray, DType, Kind
from ovms_mp.model.tensors import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Decoded = tuple[JsonFormat, dict[str, tuple[DType, tuple[int, ...], list[Any]]]]


def spec(name: str = "x", dtype: DType = DType.FP32) -> TensorSpec:
    """An input; its shape is none of the decoder's business."""
    return TensorSpec.of(name, dtype, ())


ONE = [spec()]
INT = [spec(dtype=DType.INT64)]
BOOL = [spec(dtype=DType.BOOL)]
TWO = [spec("a"), spec("b", DType.INT32)]


def plain(found: tuple[JsonFormat, Mapping[str, Any]]) -> Decoded:
    """A comparable form; values by their text, so that NaN equals itself and -0.0 differs from 0.0."""
    tensors = {}
    for name, tensor in found[1].items():
        values = tensor.values
        assert isinstance(values, np.ndarray)
        assert values.dtype == tensor.dtype.numpy
        assert values.shape == (math.prod(tensor.shape),)
        tensors[name] = (tensor.dtype, tensor.shape, list(map(repr, values.tolist())))
    return found[0], tensors


def decoded(body: bytes, inputs: Sequence[TensorSpec]) -> Decoded:
    """Decode, and hold the result or the refusal against the reader that has the last word."""
    try:
        expected = plain(read_predict(load_json(body, is_strict_json=False), inputs))
    except MalformedPayload as error:
        refusal = error
    else:
        found = plain(decode_predict(body, inputs))
        assert found == expected
        return found
    with pytest.raises(MalformedPayload) as caught:
        decode_predict(body, inputs)
    assert caught.value.message == refusal.message
    raise refusal


def tensor(body: str, inputs: Sequence[TensorSpec] = ONE) -> tuple[DType, tuple[int, ...], list[Any]]:
    """Decode a body with a single tensor."""
    (found,) = decoded(body.encode(), inputs)[1].values()
    return found


def texts(*values: object) -> list[str]:
    return list(map(repr, values))


# --- what is accepted ---


@pytest.mark.parametrize(
    ("body", "fmt", "shape", "values"),
    [
        ('{"instances": [1, 2, 3]}', JsonFormat.ROW, (3,), [1.0, 2.0, 3.0]),
        ('{"instances": [[1, 2.5], [3, 4]]}', JsonFormat.ROW, (2, 2), [1.0, 2.5, 3.0, 4.0]),
        ('{"instances": [{"x": [1, 2]}, {"x": [3, 4]}]}', JsonFormat.ROW, (2, 2), [1.0, 2.0, 3.0, 4.0]),
        ('{"instances": [{"x": 1}, {"x": 2}]}', JsonFormat.ROW, (2,), [1.0, 2.0]),
        ('{"instances": [{"x": []}, {"x": []}]}', JsonFormat.ROW, (2, 0), []),
        ('{"instances": [[]]}', JsonFormat.ROW, (1, 0), []),
        ('{"inputs": [[1], [2]]}', JsonFormat.COLUMN, (2, 1), [1.0, 2.0]),
        ('{"inputs": {"x": [[1], [2]]}}', JsonFormat.COLUMN, (2, 1), [1.0, 2.0]),
        ('{"inputs": {"x": 7}}', JsonFormat.COLUMN, (), [7.0]),
        ('{"inputs": 7.5}', JsonFormat.COLUMN, (), [7.5]),
        ('{"inputs": {"x": []}}', JsonFormat.COLUMN, (0,), []),
        ('{"inputs": [[], []]}', JsonFormat.COLUMN, (2, 0), []),
        ('{"signature_name": "s", "inputs": [1], "other": [{"a": [[]]}]}', JsonFormat.COLUMN, (1,), [1.0]),
        ('{"signature_name": "[[,]]", "inputs": [[1, 2]]}', JsonFormat.COLUMN, (1, 2), [1.0, 2.0]),
        ('{"inputs": [1], "inputs": [2, 3]}', JsonFormat.COLUMN, (2,), [2.0, 3.0]),
        ('{"inputs": {"x": [1], "x": [2, 3]}}', JsonFormat.COLUMN, (2,), [2.0, 3.0]),
        ('{"instances": [{"x": [1], "x": [2, 3]}]}', JsonFormat.ROW, (1, 2), [2.0, 3.0]),
        ('{"inputs": 1, "inputs": 2}', JsonFormat.COLUMN, (), [2.0]),
        ('{"inputs": {"x": 1}, "inputs": {"x": 2}}', JsonFormat.COLUMN, (), [2.0]),
        ('{"inputs": {"x": 1, "x": 2}}', JsonFormat.COLUMN, (), [2.0]),
        ('{"instances": [{"x": 1, "x": 2}]%s}' % (" " * 2000), JsonFormat.ROW, (1,), [2.0]),
        ('\ufeff{"inputs": [1]}', JsonFormat.COLUMN, (1,), [1.0]),
        (' \r\n{ "\\u0069nputs"\t: [ 1 , -0.0 ] } ', JsonFormat.COLUMN, (2,), [1.0, -0.0]),
    ],
)
def test_forms(body: str, fmt: JsonFormat, shape: tuple[int, ...], values: list[float]) -> None:
    """Every form of the request, for a model with one FP32 input."""
    assert decoded(body.encode(), ONE) == (fmt, {"x": (DType.FP64, shape, texts(*values))})


@pytest.mark.parametrize(
    "body",
    [
        '{"instances": [{"a": [1.5], "b": 2}, {"b": 4, "a": [3.5]}]}',
        '{"inputs": {"b": [2, 4], "a": [[1.5], [3.5]]}}',
    ],
)
def test_several_inputs(body: str) -> None:
    """Rows are stacked by input; each input is read by its own dtype."""
    assert decoded(body.encode(), TWO)[1] == {
        "a": (DType.FP64, (2, 1), ["1.5", "3.5"]),
        "b": (DType.INT64, (2,), ["2", "4"]),
    }


def test_names_of_columns_are_left_to_the_service() -> None:
    """It knows how to word that one is missing or unknown, and reads nothing of an unknown one."""
    assert list(decoded(b'{"inputs": {"a": [1]}}', TWO)[1]) == ["a"]
    assert list(decoded(b'{"inputs": {"a": [1], "b": [1], "c": "text"}}', TWO)[1]) == ["a", "b", "c"]


def test_an_input_may_be_called_b64() -> None:
    """Then an object with that key is a row and not a binary string."""
    assert tensor('{"instances": [{"b64": [1]}]}', [spec("b64")])[1] == (1, 1)
    assert tensor('{"inputs": {"b64": [1]}}', [spec("b64")])[1] == (1,)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize(
    "body", [b'{"inputs": [[1], [2]]}', b'{"inputs": [NaN]}', b'{"inputs": [1%b]}' % (b" " * 999)]
)
def test_body_types(kind: type[bytes | bytearray | memoryview], body: bytes) -> None:
    """All three buffers read alike, by each reader and each proof."""
    assert plain(decode_predict(kind(body), ONE)) == decoded(body, ONE)


# --- numbers ---

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("numbers", "inputs", "dtype", "values"),
    [
        ("[1, -1]", INT, DType.INT64, [1, -1]),
        (f"[{2**53 + 1}]", INT, DType.INT64, [2**53 + 1]),
        (f"[{2**63 - 1}, {-(2**63)}]", INT, DType.INT64, [2**63 - 1, -(2**63)]),
        (f"[{2**64 - 1}, 0]", INT, DType.UINT64, [2**64 - 1, 0]),
        ("[1, 2.0]", INT, DType.FP64, [1.0, 2.0]),
        ("[1, 2.5]", INT, DType.FP64, [1.0, 2.5]),
        (f"[{2**53 + 1}, 2.0]", INT, DType.INT64, [2**53 + 1, 2]),
        (f"[{2**64 - 1}, 2.0]", INT, DType.UINT64, [2**64 - 1, 2]),
        (f"[{2**53 + 1}, 2.5]", INT, DType.FP64, [2.0**53, 2.5]),
        ("[1, NaN]", INT, DType.FP64, [1.0, NAN]),
        ("[[], []]", INT, DType.INT64, []),
        ("[1, 2.5, 1e-400, 5e-324]", ONE, DType.FP64, [1.0, 2.5, 0.0, 5e-324]),
        (f"[{2**63}, {2**64}, {-(10**30)}]", ONE, DType.FP64, [2.0**63, 2.0**64, -1e30]),
        ("[NaN, Infinity, -Infinity, 1]", ONE, DType.FP64, [NAN, INF, -INF, 1.0]),
        ("[[true], [false]]", BOOL, DType.BOOL, [True, False]),
        ("[0, 1, 2]", BOOL, DType.INT64, [0, 1, 2]),
        ("[true, 0]", BOOL, DType.INT64, [1, 0]),
        ("[1.0, true]", BOOL, DType.FP64, [1.0, 1.0]),
        ("[[]]", BOOL, DType.BOOL, []),
        ("true", BOOL, DType.BOOL, [True]),
    ],
)
def test_numbers(numbers: str, inputs: list[TensorSpec], dtype: DType, values: list[float]) -> None:
    """Exact where the model's kind of dtype can be exact."""
    found = tensor(f'{{"inputs": {{"x": {numbers}}}}}', inputs)
    assert (found[0], found[2]) == (dtype, texts(*values))


def test_rows_of_different_parsed_dtypes() -> None:
    """Long rows reach the scanner one by one, but have one dtype in the end."""
    pad = " " * 5000
    body = f'{{"instances": [{{"x": [1]{pad}}}, {{"x": [{2**64 - 1}]}}]}}'
    assert tensor(body, INT) == (DType.UINT64, (2, 1), texts(1, 2**64 - 1))
    body = f'{{"instances": [{{"x": [1]{pad}}}, {{"x": [{2**63}]}}, {{"x": [-1]}}]}}'
    with pytest.raises(MalformedPayload, match="out of range"):
        tensor(body, INT)


# --- what is refused ---

UNSUPPORTED = (
    "strings are taken by inputs of strings, by inputs of UINT8 and rank 2, and as images by inputs of rank 4"
)


@pytest.mark.parametrize("pad", ["", " " * 9000], ids=["short", "long"])
@pytest.mark.parametrize(
    ("body", "inputs", "message"),
    [
        ("", ONE, "Invalid JSON: "),
        ("just_text", ONE, "Invalid JSON: "),
        ('{"inputs": [1]', ONE, "Invalid JSON: "),
        ("{inputs: [1]}", ONE, "Invalid JSON: "),
        ('{"inputs": [1,]}', ONE, "Invalid JSON: "),
        ('{"inputs": [1]} x', ONE, "Invalid JSON: "),
        ('{"inputs": [01]}', ONE, "Invalid JSON: "),
        ('{"inputs": [nan]}', ONE, "Invalid JSON: "),
        ('{"inputs": [1e400]}', ONE, "Invalid JSON: the number 1e400 is beyond the range of a 64-bit float"),
        ('{"inputs": [-1e400, NaN]}', ONE, "Invalid JSON: the number -1e400 is beyond"),
        (f'{{"inputs": [{"9" * 5000}]}}', ONE, "Invalid JSON: "),
        ("1234", ONE, "Invalid JSON in request body: expected an object .*, found the number 1234"),
        ("[]", ONE, "Invalid JSON in request body: .* found an empty list"),
        ("null", ONE, "Invalid JSON in request body: .* found null"),
        ('"inputs"', ONE, "Invalid JSON in request body: .* found the string 'inputs'"),
        (
            "{}",
            ONE,
            r"input 'x' is missing; exactly one of 'instances' .* and 'inputs' .*, its keys are \[\]",
        ),
        ("{}", TWO, "inputs 'a', 'b' are missing; exactly one"),
        ('{"instances": [{}]}', ONE, r"input 'x' is missing; instances\[0\] must have exactly"),
        ('{"instances": [{"a": 1}]}', TWO, r"input 'b' is missing; instances\[0\] must have exactly"),
        ('{"input": [1]}', ONE, r"exactly one of .* its keys are \[.*input.*\]"),
        ('{"inputs": [1], "instances": [1]}', ONE, "exactly one of .* it has both"),
        (
            '{"instances": []}',
            ONE,
            "input 'x' is missing; 'instances' must be a non-empty list, found an empty list",
        ),
        ('{"instances": {"x": [1]}}', ONE, "'instances' must be a non-empty list, found an object"),
        ('{"instances": 1}', ONE, "'instances' must be a non-empty list, found the number 1"),
        ('{"instances": "x"}', ONE, "'instances' must be a non-empty list, found the string 'x'"),
        ('{"inputs": []}', ONE, "'inputs' must be a tensor or an object .*, found an empty list"),
        ('{"inputs": null}', ONE, "'inputs' must be a tensor or an object .*, found null"),
        (
            '{"inputs": {}}',
            ONE,
            r"input 'x' is missing; 'inputs' is an empty object, expected .* inputs \['x'\] as keys",
        ),
        ('{"inputs": [1]}', TWO, r"values without a name .* has \['a', 'b'\], so 'inputs' must be an object"),
        (
            '{"instances": [[1]]}',
            TWO,
            r"the model has \['a', 'b'\], so 'instances' must be a list of objects",
        ),
        ('{"inputs": [1]}', [], r"the model has \[\]"),
        ('{"instances": [{"a": 1}]}', TWO, r"instances\[0\] must have exactly .*\['a', 'b'\] as keys, found"),
        ('{"instances": [{"x": 1}, {"x": 1, "y": 2}]}', ONE, r"instances\[1\] must have exactly .*\['x'\]"),
        ('{"instances": [{"x": 1}, {}]}', ONE, r"instances\[1\] must have exactly"),
        (
            '{"instances": [{"x": 1}, 2]}',
            ONE,
            r"instances\[0\] is an object, but instances\[1\] is the number 2",
        ),
        (
            '{"instances": [2, {"x": 1}]}',
            ONE,
            r"'x' \(FP32\): instances\[1\] is an object, expected a number",
        ),
        ('{"inputs": [{"x": 1}]}', ONE, r"inputs\[0\] is an object, expected a number"),
        ('{"inputs": {"x": {"y": 1}}}', ONE, r"inputs\['x'\] is an object, expected a number"),
        ('{"inputs": [[1, 2], [3]]}', ONE, r"inputs\[1\] is a list of 1, expected a list of 2"),
        ('{"inputs": [[1, 2], [3, [4]]]}', ONE, r"inputs\[1\]\[1\] is a list of 1, expected a number"),
        ('{"inputs": [[1, 2], [3], [4, 5, 6]]}', ONE, r"inputs\[1\] is a list of 1, expected a list of 2"),
        ('{"k": "[[,],[,]]", "inputs": [[1, 2], [3, [4]]]}', ONE, r"inputs\[1\]\[1\] is a list of 1"),
        ('{"inputs": [[1], 2]}', ONE, r"inputs\[1\] is the number 2, expected a list of 1"),
        ('{"inputs": [1, [], [2, 3]]}', ONE, r"inputs\[1\] is an empty list, expected a number"),
        ('{"inputs": [[], [[]]]}', ONE, r"inputs\[1\] is a list of 1, expected a list of 0"),
        ('{"inputs": [[[]], []]}', ONE, r"inputs\[1\] is an empty list, expected a list of 1"),
        (
            '{"instances": [{"x": [1, 2]}, {"x": [1]}]}',
            ONE,
            r"instances\[1\]\['x'\] is a list of 1, expected",
        ),
        (
            '{"instances": [{"x": 1}, {"x": [1]}]}',
            ONE,
            r"instances\[1\]\['x'\] is a list of 1, expected a num",
        ),
        (
            '{"instances": [{"x": [[1, 2]]}, {"x": [[1]]}]}',
            ONE,
            r"instances\[1\]\['x'\]\[0\] is a list of 1,",
        ),
        ('{"inputs": {"a": [1], "b": [[2], 1]}}', TWO, r"'b' \(INT32\): inputs\['b'\]\[1\] is the number 1"),
        ('{"inputs": [1, null]}', ONE, r"inputs\[1\] is null, expected a number"),
        ('{"inputs": [1, true]}', ONE, r"inputs\[1\] is true, expected a number"),
        ('{"inputs": [false]}', INT, r"inputs\[0\] is false, expected a number"),
        ('{"inputs": {"x": true}}', INT, r"inputs\['x'\] is true, expected a number"),
        ('{"inputs": [true, null]}', BOOL, r"inputs\[1\] is null, expected true, false, 0 or 1"),
        ('{"inputs": "text"}', ONE, f"inputs is the string 'text'; {UNSUPPORTED}"),
        ('{"instances": ["text"]}', ONE, rf"instances\[0\] is the string 'text'; {UNSUPPORTED}"),
        ('{"inputs": [["a", "b"]]}', ONE, rf"inputs\[0\]\[0\] is the string 'a'; {UNSUPPORTED}"),
        ('{"inputs": [[1], "b"]}', ONE, rf"inputs\[1\] is the string 'b'; {UNSUPPORTED}"),
        ('{"inputs": {"b64": "AA=="}}', ONE, rf"inputs is a binary string \({{'b64': ...}}\); {UNSUPPORTED}"),
        ('{"inputs": {"x": {"b64": "AA=="}}}', ONE, rf"inputs\['x'\] is a binary string .*; {UNSUPPORTED}"),
        ('{"inputs": {"x": [{"b64": "AA=="}]}}', ONE, rf"inputs\['x'\]\[0\] is a binary .*; {UNSUPPORTED}"),
        ('{"instances": [{"b64": "AA=="}]}', ONE, rf"instances\[0\] is a binary string .*; {UNSUPPORTED}"),
        (
            '{"instances": [{"x": {"b64": "AA=="}}]}',
            ONE,
            rf"\[0\]\['x'\] is a binary string .*; {UNSUPPORTED}",
        ),
        (
            f'{{"inputs": [1, {2**64}]}}',
            INT,
            f"element 1 of inputs is the number {2**64}, which is out of range",
        ),
        (f'{{"inputs": [{-(2**63) - 1}]}}', INT, "element 0 of inputs is the number -9223372036854775809,"),
        (f'{{"inputs": [-1, {2**63}]}}', INT, "element 1 of inputs is the number 9223372036854775808,"),
        (f'{{"inputs": [-1, {2**63}]}}', [spec(dtype=DType.UINT64)], "element 0 of inputs is the number -1,"),
        ('{"inputs": [1.0, 1e300]}', INT, r"element 1 of inputs is the number 1e\+300,"),
        (f'{{"inputs": [1, {10**400}]}}', ONE, "element 1 of inputs is the number 1000"),
        (f'{{"inputs": [{2**70}]}}', BOOL, "element 0 of inputs is the number 1180591620717411303424,"),
        ('{"inputs": ["\\ud800"]}', ONE, r"inputs\[0\] is the string '\\ud800'"),
        (f'{{"inputs": ["{"a" * 99}"]}}', ONE, f"the string '{'a' * 40}'...;"),
    ],
)
def test_refusals(body: str, inputs: list[TensorSpec], message: str, pad: str) -> None:
    """The message says what was found, where, and what is accepted; long bodies go another way there."""
    if not message.startswith("Invalid JSON"):
        message = f"Invalid inputs in request body: .*{message}"
    with pytest.raises(MalformedPayload, match=f"^{message}") as caught:
        decoded((body + pad).encode(), inputs)
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    "body", [b'{"inputs": ["\xff"]}', b"\xff\xfe{\x00}\x00", '{"inputs": [1]}'.encode("utf-16")]
)
def test_other_encodings(body: bytes) -> None:
    """JSON is UTF-8 (RFC 8259, 8.1)."""
    with pytest.raises(MalformedPayload, match=r"^Invalid JSON: 'utf-8' codec"):
        decoded(body, ONE)


def nested(depth: int, inner: str = "1") -> str:
    """An array in arrays."""
    return "[" * depth + inner + "]" * depth


@pytest.mark.parametrize("depth", [101, 900, 1023, 5000, 200_000])
@pytest.mark.parametrize("inner", ["1", "NaN", ""])
def test_too_deep(depth: int, inner: str) -> None:
    """However deep, the answer is a refusal."""
    for body in ('{"inputs": %s}', '{"inputs": {"x": %s}}', '{"instances": [{"x": %s}]}'):
        with pytest.raises(MalformedPayload, match=r"nested deeper than 100 levels|may have \d+ at most"):
            decode_predict((body % nested(depth, inner)).encode(), ONE)


def test_deepest() -> None:
    """The limit itself is accepted, and a lop-sided tensor beyond it is ragged, not a crash."""
    assert tensor(f'{{"inputs": {nested(100)}}}')[1] == (1,) * 100
    for other in (nested(900), nested(900, "NaN")):
        with pytest.raises(MalformedPayload, match=r"inputs\[1\] is a list of 1, expected a number"):
            decode_predict(f'{{"inputs": [1, {other}]}}'.encode(), ONE)
    with pytest.raises(MalformedPayload, match="Invalid JSON"):
        decode_predict(b"[" * 200_000, ONE)


# --- the scanner ---


@pytest.mark.parametrize(
    ("body", "inputs"),
    [
        ('{"instances": [[1, 2], [3, 4]]}', ONE),
        ('{"signature_name": "serving_default", "inputs": {"x": [[1, 2]]}}', ONE),
        ('{"inputs": {"b": [[1, 2]], "a": [[[1]], [[2]]]}}', TWO),
        ('{"inputs": {"b": 5, "a": [[[1]], [[2]]]}}', TWO),
        ('{"inputs": {"a": [[1.5]], "f": [[true]]}}', [spec("a"), spec("f", DType.BOOL)]),
        ('{"instances": [{"a": [[1], [2]], "b": 1%s}, {"b": 2, "a": [[3], [4]]}]}', TWO),
        ('{"instances": [{"x": [' + "[1]," * 600 + "[2]]}]}", ONE),
    ],
)
def test_plain_forms_need_no_second_reader(
    body: str, inputs: list[TensorSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The usual requests are read without a Python object for each number, long and short ones."""
    body = body.replace("%s", " " * 3000)
    for text in (body, body + " " * 3000):
        expected = decoded(text.encode(), inputs)
        with monkeypatch.context() as patch:
            patch.delattr(scanner, "load_json")
            assert plain(decode_predict(text.encode(), inputs)) == expected


def test_saturated_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where simdjson no longer knows how long an array is, the other reader does."""
    monkeypatch.setattr(scanner, "_SATURATED_LENGTH", 3)
    with monkeypatch.context() as patch:
        patch.delattr(scanner, "load_json")
        for inputs, body in ((ONE, b'{"inputs": [1, 2, 3]}'), (BOOL, b'{"inputs": [true]}')):
            with pytest.raises(NameError):
                decode_predict(body, inputs)
    assert tensor('{"inputs": [[1, 2, 3]]}')[1] == (1, 3)
    assert tensor('{"inputs": [true, false, true]}', BOOL)[1] == (3,)


def test_parsers(monkeypatch: pytest.MonkeyPatch) -> None:
    """One is kept after a short document, none after a long one; errors that somebody holds harm nobody."""
    monkeypatch.setattr(scanner, "_idle_parsers", [])
    decode_predict(b'{"inputs": [1]}', ONE)
    (parser,) = scanner._idle_parsers
    held = decode_predict(b'{"inputs": [2, 3]}', ONE)
    assert scanner._idle_parsers == [parser]
    errors = []
    for body in (b'{"inputs": [[1], [2, 3]]}', b'{"inputs": [1.5, "a"]}', b'{"inputs"', b"[1]"):
        with pytest.raises(MalformedPayload) as caught:
            decode_predict(body, INT)
        errors.append(caught.value)
        assert scanner._idle_parsers == []
        assert plain(decode_predict(b'{"inputs": [4]}', ONE))[1]["x"][2] == ["4.0"]
        assert len(scanner._idle_parsers) == 1
    assert plain(held)[1]["x"][2] == ["2.0", "3.0"]
    monkeypatch.setattr(scanner, "_KEPT_PARSER_BYTES", 20)
    decode_predict(b'{"inputs": [1234567890]}', ONE)
    assert scanner._idle_parsers == []


# --- properties of decoding ---

PADS = st.sampled_from(["", " " * 50, " " * 4000, ', "signature_name": "[[,]]"', ', "k": [{"n": [[]]}]'])
INDENTS = st.sampled_from([None, 1])
BY_KIND: dict[Kind, st.SearchStrategy[DType]] = {
    kind: st.sampled_from([dtype for dtype in DType if dtype.kind is kind])
    for kind in Kind
    if kind is not Kind.STRING
}
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


def arrays_of(kind: Kind) -> st.SearchStrategy[AnyArray]:
    """Arrays of the widest dtypes that JSON can say."""
    if kind is Kind.FLOAT:
        return hnp.arrays(np.float64, SHAPES, elements={"allow_nan": False, "allow_infinity": False})
    if kind is Kind.BOOL:
        return hnp.arrays(np.bool_, SHAPES)
    return st.sampled_from([np.int64, np.uint64, np.int8]).flatmap(lambda dtype: hnp.arrays(dtype, SHAPES))


def wrapped(form: str, value: object, names: Sequence[str]) -> dict[str, Any]:
    """A request that gives the value to all inputs."""
    if form == "row":
        return {"instances": value}
    if form == "column":
        return {"inputs": value}
    if form == "named column":
        return {"inputs": dict.fromkeys(names, value)}
    assert isinstance(value, list)
    return {"instances": [dict.fromkeys(names, row) for row in value]}


FORMS = st.sampled_from(["row", "column", "named row", "named column"])


@settings(max_examples=200, deadline=None)
@given(
    data=st.data(),
    kind=st.sampled_from(list(BY_KIND)),
    form=FORMS,
    indent=INDENTS,
    pad=PADS,
    count=st.integers(1, 2),
)
def test_arrays_like_numpy(
    data: st.DataObject, kind: Kind, form: str, indent: int | None, pad: str, count: int
) -> None:
    """A regular array of any kind, shape and form decodes to what ``json`` and NumPy read."""
    array = data.draw(arrays_of(kind))
    if "row" in form:
        assume(array.ndim and len(array))
    if form == "column":
        assume(array.tolist() != [])
    names = ["x", "y"][: count if "named" in form else 1]
    inputs = [spec(name, data.draw(BY_KIND[kind])) for name in names]
    text = json.dumps(wrapped(form, array.tolist(), names), indent=indent)
    fmt, tensors = decoded((text[:-1] + pad + "}").encode(), inputs)
    assert fmt is (JsonFormat.ROW if "row" in form else JsonFormat.COLUMN)
    assert list(tensors) == names
    for dtype, shape, values in tensors.values():
        # Text has no (2, 0, 3): that array is written and read back as (2, 0).
        expected = np.array(json.loads(json.dumps(array.tolist())), dtype.numpy)
        assert dtype in {DType.FP64, DType.INT64, DType.UINT64, DType.BOOL}
        assert dtype.kind is kind
        assert shape == expected.shape
        assert values == list(map(repr, expected.ravel().tolist()))
        np.testing.assert_array_equal(expected.ravel().astype(array.dtype), array.ravel())


NESTED: st.SearchStrategy[Any] = st.recursive(
    st.integers(0, 3) | st.just(1.5), lambda inner: st.lists(inner, min_size=0, max_size=3), max_leaves=12
)


@settings(max_examples=200, deadline=None)
@given(
    value=NESTED
    | st.lists(st.lists(st.just(1) | st.just([1]), min_size=2, max_size=2), min_size=1, max_size=3),
    form=FORMS,
    dtype=st.sampled_from([DType.FP32, DType.INT32, DType.BOOL]),
    indent=INDENTS,
    pad=PADS,
)
def test_ragged_like_numpy(value: object, form: str, dtype: DType, indent: int | None, pad: str) -> None:
    """Nested lists are refused exactly when NumPy cannot make an array of them."""
    if form != "named column":
        assume(value != [] and (form == "column" or isinstance(value, list)))
    body = (json.dumps(wrapped(form, value, "x"), indent=indent)[:-1] + pad + "}").encode()
    try:
        expected = np.array(value, np.float64)
    except ValueError:
        with pytest.raises(MalformedPayload, match=r"Invalid inputs in request body: input 'x' .* expected"):
            decoded(body, [spec("x", dtype)])
    else:
        _, shape, values = decoded(body, [spec("x", dtype)])[1]["x"]
        assert shape == expected.shape
        assert list(map(float, values)) == expected.ravel().tolist()


SEEDS = [
    b'{"instances": [[1.5, 2], [3, -4e2]]}',
    b'{"instances": [{"a": [1, 2], "b": 3}, {"a": [4, 5], "b": 6}]}',
    b'{"signature_name": "s", "inputs": {"a": [[1], [2]], "b": [true, NaN]}}',
    b'{"inputs": {"b64": "AA=="}, "k": [null, {}]}',
]
INPUTS = st.sampled_from([ONE, INT, BOOL, TWO])


def refused_or_sound(body: bytes, inputs: Sequence[TensorSpec]) -> None:
    """Decode; both readers agree, and nothing but a refusal may be raised."""
    try:
        found = decoded(body, inputs)
    except OvmsError:
        return
    assert found[1]


@settings(max_examples=150, deadline=None)
@given(body=st.binary(max_size=60), inputs=INPUTS)
def test_any_bytes(body: bytes, inputs: list[TensorSpec]) -> None:
    """Arbitrary bytes are refused."""
    refused_or_sound(body, inputs)


@settings(max_examples=400, deadline=None)
@given(
    body=st.sampled_from(SEEDS),
    edits=st.lists(
        st.tuples(
            st.integers(0, 80),
            st.integers(0, 5),
            st.sampled_from(b'[]{},:"0123456789.eE+-ntf\\ \xff\x00'.decode("latin-1"))
            | st.sampled_from(
                ["[1]", "[]", "{}", '"a": 1,', "null", "true", "Infinity", '"instances":', "1e999"]
            ),
        ),
        min_size=1,
        max_size=4,
    ),
    inputs=INPUTS,
    pad=st.sampled_from([b"", b" " * 2000]),
)
def test_mutated_bodies(
    body: bytes, edits: list[tuple[int, int, str]], inputs: list[TensorSpec], pad: bytes
) -> None:
    """What is almost a request is read the same by both readers, or refused with the same words."""
    for at, removed, inserted in edits:
        body = body[:at] + inserted.encode("latin-1") + body[at + removed :]
    refused_or_sound(body + pad, inputs)


# --- encoding ---


def result(array: AnyArray, dtype: DType, name: str = "y") -> ResultTensor:
    return ResultTensor(name, dtype, array.shape, memoryview(array.tobytes()))


F32 = np.float32


@pytest.mark.parametrize(
    ("array", "dtype", "text"),
    [
        (np.array([[0.1, 16777216.0, 1e-7]], F32), DType.FP32, b"[[0.1,16777216.0,1e-7]]"),
        (np.array([0.1, 1 / 3]), DType.FP64, b"[0.1,0.3333333333333333]"),
        (np.array([0.1], np.float16), DType.FP16, b"[0.099975586]"),
        (np.array([0.1]).astype(DType.BF16.numpy), DType.BF16, b"[0.100097656]"),
        (np.array([1.75]).astype(DType.FP8_E4M3.numpy), DType.FP8_E4M3, b"[1.75]"),
        (np.array([NAN, INF]).astype(DType.FP8_E5M2.numpy), DType.FP8_E5M2, b"[NaN,Infinity]"),
        (np.array([[NAN, 1], [INF, -INF]], F32), DType.FP32, b"[[NaN,1.0],[Infinity,-Infinity]]"),
        (np.array(-NAN), DType.FP64, b"NaN"),
        (np.array(-INF, F32), DType.FP32, b"-Infinity"),
        (np.array(2.5, F32), DType.FP32, b"2.5"),
        (np.array(0.5, np.float16), DType.FP16, b"0.5"),
        (np.array(2**64 - 1, np.uint64), DType.UINT64, b"18446744073709551615"),
        (np.array([-(2**63)], np.int64), DType.INT64, b"[-9223372036854775808]"),
        (np.array([[True], [False]]), DType.BOOL, b"[[true],[false]]"),
        (np.array(True), DType.BOOL, b"true"),
        (np.array([0x7F81], np.uint16).view(DType.BF16.numpy), DType.BF16, b"[NaN]"),
        (np.zeros((0, 3), F32), DType.FP32, b"[]"),
        (np.zeros((2, 0, 3), F32), DType.FP32, b"[[],[]]"),
    ],
)
def test_texts(array: AnyArray, dtype: DType, text: bytes) -> None:
    """One output is written bare, in the shortest text that says its value."""
    outputs = [result(array, dtype)]
    assert encode_predict(JsonFormat.ROW, outputs) == b'{"predictions": ' + text + b"}"
    assert encode_predict(JsonFormat.COLUMN, outputs) == b'{"outputs": ' + text + b"}"


def test_several_outputs() -> None:
    """The example of the behaviour reference: keyed by output, or by row and output."""
    outputs = [
        result(np.array([[0.1], [0.4]], F32), DType.FP32, "a"),
        result(np.array([[0.2, NAN], [0.5, 0.6]], F32), DType.FP32, 'b"%b'),
    ]
    assert json.dumps(json.loads(encode_predict(JsonFormat.COLUMN, outputs))) == (
        '{"outputs": {"a": [[0.1], [0.4]], "b\\"%b": [[0.2, NaN], [0.5, 0.6]]}}'
    )
    assert json.dumps(json.loads(encode_predict(JsonFormat.ROW, outputs))) == (
        '{"predictions": [{"a": [0.1], "b\\"%b": [0.2, NaN]}, {"a": [0.4], "b\\"%b": [0.5, 0.6]}]}'
    )


@pytest.mark.parametrize("shape", [(), (3,), (1, 2), (0,)])
def test_rows_that_do_not_match(shape: tuple[int, ...]) -> None:
    """Without equal first dimensions there are no rows, but columns."""
    outputs = [result(np.zeros((2, 2), F32), DType.FP32, "a"), result(np.zeros(shape, F32), DType.FP32, "b")]
    with pytest.raises(MalformedPayload, match=r"'a' \[2, 2\], 'b' \[.*column format \('inputs'\)"):
        encode_predict(JsonFormat.ROW, outputs)
    assert json.loads(encode_predict(JsonFormat.COLUMN, outputs))["outputs"]["b"] == np.zeros(shape).tolist()
    with pytest.raises(MalformedPayload, match="column format"):
        encode_predict(JsonFormat.ROW, [result(np.zeros((), F32), DType.FP32, name) for name in "ab"])


def read_back(value: object, dtype: DType, shape: tuple[int, ...]) -> AnyArray:
    """An output from JSON; narrow floats come by way of float32."""
    through = np.dtype(F32) if dtype.kind is Kind.FLOAT and dtype.itemsize < 4 else dtype.numpy
    with np.errstate(invalid="ignore"):
        return np.array(value, through).reshape(shape).astype(dtype.numpy)


def assert_bits_equal(found: AnyArray, output: ResultTensor) -> None:
    """All elements are equal to the bit, but that there are more NaNs than one."""
    expected = output.array()
    if output.dtype.kind is Kind.FLOAT:
        with np.errstate(invalid="ignore"):
            wide, wanted = found.astype(np.float64), expected.astype(np.float64)
        np.testing.assert_array_equal(np.isnan(wide), np.isnan(wanted))
        found, expected = found[~np.isnan(wide)], expected[~np.isnan(wanted)]
    assert found.tobytes() == expected.tobytes()


@st.composite
def results(draw: st.DrawFn, first: int | None = None, name: str = "y") -> ResultTensor:
    """An output of any dtype made of any bits."""
    dtype = draw(st.sampled_from(NUMERIC_DTYPES))
    shape = draw(SHAPES) if first is None else (first, *draw(SHAPES))
    count = math.prod(shape)
    if dtype is DType.BOOL:
        data = bytes(draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)))
    else:
        data = draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize))
    return ResultTensor(name, dtype, shape, memoryview(data))


@settings(max_examples=200, deadline=None)
@given(output=results(), fmt=st.sampled_from(JsonFormat))
def test_one_output_reads_back(output: ResultTensor, fmt: JsonFormat) -> None:
    """Any bits of any dtype in any shape survive the text."""
    (value,) = json.loads(encode_predict(fmt, [output])).values()
    assert_bits_equal(read_back(value, output.dtype, output.shape), output)


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    rows=st.integers(0, 4),
    names=st.lists(st.text(max_size=4), min_size=2, max_size=3, unique=True),
)
def test_several_outputs_read_back(data: st.DataObject, rows: int, names: list[str]) -> None:
    """Rows hold what columns hold."""
    outputs = [data.draw(results(first=rows, name=name)) for name in names]
    columns = json.loads(encode_predict(JsonFormat.COLUMN, outputs))["outputs"]
    zipped = json.loads(encode_predict(JsonFormat.ROW, outputs))["predictions"]
    assert list(columns) == names
    assert len(zipped) == rows
    assert all(list(row) == names for row in zipped)
    for output in outputs:
        assert_bits_equal(read_back(columns[output.name], output.dtype, output.shape), output)
        gathered = [row[output.name] for row in zipped]
        assert_bits_equal(read_back(gathered, output.dtype, output.shape), output)
