# SPDX-License-Identifier: Apache-2.0
"""What the server must answer: one table for both protocols, from behaviour.md sections 4 and 5 and appendices B and C.

A :class:`Predict` is in neutral form, and goes over every :class:`Form` that can carry it. :class:`Grpc` and :class:`Rest` are
raw: what only one protocol can say. Expected is an :class:`Answer` (arrays), a :class:`Refusal` (a class of
:mod:`ovms_mp.errors`, so one expectation gives both the gRPC code and the HTTP status, and substrings of the text) or, for raw
cases, a :class:`Document`.
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ovms_mp import errors
from tests.support.models import DTYPES_OF_64_BITS
from tests.support.tensors import NUMPY, content, typed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ovms_mp.model.dtypes import AnyArray
    from tests.support.models import DTYPES_OF_64_BITS
from tests.support.tensors import Document as Message


class Form(enum.Enum):
    """How a neutral request is written."""

    CONTENT = "grpc content"
    """gRPC, elements in ``tensor_content``."""
    TYPED = "grpc typed"
    """gRPC, elements in the field of their dtype."""
    COLUMN = "rest column"
    COLUMN_BARE = "rest column unnamed"
    ROW = "rest row"
    ROW_BARE = "rest row unnamed"


GRPC = (Form.CONTENT, Form.TYPED)
COLUMNS = (Form.COLUMN, Form.COLUMN_BARE)
REST = (*COLUMNS, Form.ROW, Form.ROW_BARE)
NAMED = (*GRPC, Form.COLUMN)
"""Every protocol, where the server and not the row format has to find a wrong name."""


@dataclass(frozen=True, kw_only=True)
class Predict:
    """A predict request in neutral form.

    Attributes:
        version: None leaves it out.
        forms: None for all that can carry the inputs.
    """

    model: str
    inputs: Mapping[str, AnyArray]
    version: int | None = None
    forms: tuple[Form, ...] | None = None

    def applicable(self) -> tuple[Form, ...]:
        """The forms to send it in."""
        if self.forms is not None:
            return self.forms
        arrays = list(self.inputs.values())
        is_row = all(array.ndim for array in arrays) and len({array.shape[:1] for array in arrays}) == 1
        bare = len(arrays) == 1
        return (
            *GRPC,
            Form.COLUMN,
            *((Form.COLUMN_BARE,) if bare else ()),
            *((Form.ROW,) if is_row else ()),
            *((Form.ROW_BARE,) if is_row and bare else ()),
        )


@dataclass(frozen=True, kw_only=True)
class Grpc:
    """A gRPC call: a method with a message, or a path with bytes."""

    method: str = "Predict"
    message: Message = field(default_factory=dict)
    path: str = ""
    body: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Rest:
    """An HTTP request."""

    method: str = "POST"
    path: str = "/v1/models/tiny:predict"
    body: bytes | str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    is_chunked: bool = False


@dataclass(frozen=True)
class Answer:
    """Success with these outputs and no others."""

    outputs: Mapping[str, AnyArray]


@dataclass(frozen=True)
class Refusal:
    """Failure: the class decides code and status.

    Attributes:
        error: A class of ours; None where the transport itself refuses, then ``status`` or ``code`` says what is expected.
        texts: What the message must hold.
    """

    error: type[errors.OvmsError] | None
    texts: tuple[str, ...] = ()
    status: int = 0
    code: str = ""


@dataclass(frozen=True)
class Document:
    """Success with exactly this document: protobuf JSON of the response, or the HTTP body's JSON.

    Attributes:
        headers: Response headers that must have these values.
    """

    value: Any
    headers: Mapping[str, str] = field(default_factory=dict)


Request: TypeAlias = Predict | Grpc | Rest
Expected: TypeAlias = Answer | Refusal | Document


@dataclass(frozen=True)
class Case:
    """A row of the table."""

    name: str
    request: Request
    expected: Expected


def f32(*values: Any) -> AnyArray:
    """A float32 array of one nested value."""
    return np.array(values[0] if len(values) == 1 else values, np.float32)


X10 = f32([list(range(10))])
Y10 = X10 + 1
ROWS = f32([[1, 2, 3, 4], [5, 6, 7, 8]])
A, B = f32([[1, 2, 3], [4, 5, 6]]), np.array([[10, 20, 30], [40, 50, 60]])
PAIR = MappingProxyType({"a": A, "b": B})
PAIR_ANSWER = Answer({"sum": A + B.astype(np.float32), "product": A * B.astype(np.float32)})
TINY_BODY = json.dumps({"inputs": {"x": X10.tolist()}})
TINY_DOCUMENT = Document({"outputs": Y10.tolist()}, {"content-type": "application/json"})

GOOD = (
    Case("static shape", Predict(model="tiny", inputs={"x": X10}), Answer({"y": Y10})),
    Case("ONNX model", Predict(model="onnx_tiny", inputs={"x": X10}), Answer({"y": Y10})),
    Case("several inputs and outputs", Predict(model="pair", inputs=PAIR), PAIR_ANSWER),
    Case("dynamic batch 2", Predict(model="batch", inputs={"x": ROWS}), Answer({"y": 2 * ROWS})),
    Case("dynamic batch 1", Predict(model="batch", inputs={"x": ROWS[:1]}), Answer({"y": 2 * ROWS[:1]})),
    Case("dynamic batch 300", Predict(model="batch", inputs={"x": np.tile(ROWS, (150, 1))}), Answer({"y": np.tile(2 * ROWS, (150, 1))})),
    Case("range, least", Predict(model="range", inputs={"x": f32(np.ones((2, 3)))}), Answer({"y": f32(np.ones((2, 3)))})),
    Case("range, greatest", Predict(model="range", inputs={"x": f32(np.ones((4, 3)))}), Answer({"y": f32(np.ones((4, 3)))})),
    Case("output shape depends on data", Predict(model="nonzero", inputs={"x": f32([0, 1, 2, 0, 3])}), Answer({"places": np.array([[1, 2, 4]])})),
    Case("output shape depends on data, no element", Predict(model="nonzero", inputs={"x": f32([0, 0])}), Answer({"places": np.zeros((1, 0), np.int64)})),
    Case("output is larger than any guess", Predict(model="nonzero", inputs={"x": np.ones(5000, np.float32)}), Answer({"places": np.arange(5000)[None]})),
    Case("zero rows", Predict(model="batch", inputs={"x": np.zeros((0, 4), np.float32)}, forms=GRPC), Answer({"y": np.zeros((0, 4), np.float32)})),
    Case("zero elements", Predict(model="id_f32", inputs={"x": np.zeros(0, np.float32)}, forms=(*GRPC, Form.COLUMN)), Answer({"y": np.zeros(0, np.float32)})),
    Case("version given", Predict(model="versions", inputs={"x": X10}, version=1), Answer({"y": X10 + 1})),
    Case("the other version given", Predict(model="versions", inputs={"x": X10}, version=3), Answer({"y": X10 + 2})),
    Case("version 0 is the highest", Predict(model="versions", inputs={"x": X10}, version=0), Answer({"y": X10 + 2})),
    Case("no version is the highest", Predict(model="versions", inputs={"x": X10}), Answer({"y": X10 + 2})),
)  # fmt: skip


def _extremes(name: str) -> AnyArray:
    """Values of a dtype that any wrong conversion would change."""
    dtype = NUMPY[name]
    if name == "boolean":
        return np.array([True, False, False, True])
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return np.array([limits.min, limits.max, 0, 1, limits.max - 1], dtype)
    if name.startswith("f8"):
        return np.array([0, 0.5, -1, 2, 448], np.float32).astype(dtype)
    return np.array([0, -0.5, 1, 0.1, -65504], np.float64).astype(dtype)


def _identity(what: str, name: str, array: AnyArray) -> Case:
    return Case(what, Predict(model=f"id_{name}", inputs={"x": array}), _same(name, array))


def _same(name: str, array: AnyArray) -> Answer:
    """What an identity model answers."""
    return Answer({"x" if name in DTYPES_OF_64_BITS else "y": array})


INF_NAN = f32([np.nan, np.inf, -np.inf, 1.5])
VALUES = (
    *(_identity(f"dtype {name}", name, _extremes(name)) for name in NUMPY),
    *(_identity(f"NaN and infinities, {name}", name, INF_NAN.astype(NUMPY[name])) for name in ("f16", "bf16", "f32", "f64", "f8e5m2")),
    _identity("int64 beyond 2^53", "i64", np.array([2**53 + 1, -(2**53) - 1, 2**62 + 1])),
    _identity("uint64 beyond 2^63", "u64", np.array([2**63 + 1, 2**53 + 1], np.uint64)),
    _identity("subnormal float32", "f32", f32([1e-45, -1e-40])),
    _identity("float64 of 17 digits", "f64", np.array([0.1, 1 / 3, 1e300])),
)  # fmt: skip


def _sent(name: str, model: str, message: Message, expected: Expected) -> Case:
    """A single-input Predict over gRPC whose tensor is given as a message."""
    return Case(name, Grpc(message={"modelSpec": {"name": model}, "inputs": {"x": message}}), expected)


def _converted(given: AnyArray, name: str, array: AnyArray) -> tuple[Case, Case]:
    """A tensor sent as another dtype than the model's, both ways of writing it."""
    what = f"{given.dtype} {given} to {name}"
    answer = _same(name, array.astype(NUMPY[name]))
    return (
        _sent(f"{what}, content", f"id_{name}", content(given), answer),
        _sent(f"{what}, typed", f"id_{name}", typed(given), answer),
    )


CONVERSIONS = (
    *_converted(np.array([0.1, -2.5, 1e30]), "f32", f32([0.1, -2.5, 1e30])),
    *_converted(np.array([0, 1, 255], np.uint8), "f32", f32([0, 1, 255])),
    *_converted(np.array([-3, 2**24, 2**53]), "f32", f32([-3, 2**24, 2**53])),
    *_converted(np.array([True, False]), "f32", f32([1, 0])),
    *_converted(f32([0.5, 65504]), "f16", f32([0.5, 65504])),
    *_converted(np.array([0.1], np.float16), "f64", np.array([0.1], np.float16)),
    *_converted(f32([3, -4, 0]), "i32", f32([3, -4, 0])),
    *_converted(np.array([2.0**40]), "i64", np.array([2.0**40])),
    *_converted(np.array([0, 200]), "u8", np.array([0, 200])),
    *_converted(np.array([0, 1]), "boolean", np.array([0, 1])),
    *_converted(np.array([np.nan, np.inf]), "f32", np.array([np.nan, np.inf])),
)


def _unconvertible(given: AnyArray, name: str) -> tuple[Case, Case]:
    refusal = Refusal(errors.DtypeMismatch, ("'x'", "cannot be converted"))
    return (
        _sent(f"{given.dtype} {given} to {name}", f"id_{name}", content(given), refusal),
        Case(
            f"JSON {given} to {name}",
            Rest(path=f"/v1/models/id_{name}:predict", body=json.dumps({"inputs": {"x": given.tolist()}})),
            refusal,
        ),
    )


UNCONVERTIBLE = (
    *_unconvertible(np.array([1.0, 1.5]), "i32"),
    *_unconvertible(np.array([np.nan]), "i64"),
    *_unconvertible(np.array([np.inf]), "i64"),
    *_unconvertible(np.array([2.0**31]), "i32"),
    *_unconvertible(np.array([2.0**63]), "i64"),
    *_unconvertible(np.array([256]), "u8"),
    *_unconvertible(np.array([-1]), "u64"),
    *_unconvertible(np.array([-129]), "i8"),
    *_unconvertible(np.array([1e39]), "f32"),
    *_unconvertible(np.array([65536]), "f16"),
    *_unconvertible(np.array([2]), "boolean"),
    *_unconvertible(np.array([0.5]), "boolean"),
)


def _compact(given: AnyArray, count: int) -> Case:
    """Fewer values than elements: the last one fills the rest, none at all means zeros."""
    expected = given.copy()
    expected[count:] = given[count - 1] if count else 0
    name = next(name for name, dtype in NUMPY.items() if dtype == given.dtype)
    return _sent(f"compact {name}, {count} of {len(given)}", f"id_{name}", typed(given, count), _same(name, expected))


COMPACT = (
    *(_compact(np.ones(6, dtype), 1) for dtype in NUMPY.values()),
    *(_compact(_extremes(name), 2) for name in NUMPY),
    _compact(np.ones(6, np.float32), 0),
    _compact(np.ones(1000, np.float32), 1),
)

SPEC = "Inputs expected to be in the set {['x']}."
NAMES = (
    Case("misnamed input", Predict(model="tiny", inputs={"wrong": X10}, forms=NAMED), Refusal(errors.InputNameMismatch, ("input tensor alias not found in signature: ['wrong'].", SPEC))),
    Case("input too many", Predict(model="tiny", inputs={"x": X10, "more": X10}, forms=NAMED), Refusal(errors.InputNameMismatch, ("input tensor alias not found in signature: ['", SPEC))),
    Case("missing input", Predict(model="pair", inputs={"a": A}, forms=NAMED), Refusal(errors.InputNameMismatch, ("Inputs expected to be in the set {['a', 'b']}.", "Missing input: ['b']"))),
    Case("no input", Predict(model="tiny", inputs={}, forms=GRPC), Refusal(errors.InputNameMismatch, ("input tensor alias not found in signature: [].", SPEC))),
    Case("misnamed input in a row", Predict(model="tiny", inputs={"wrong": X10}, forms=(Form.ROW,)), Refusal(errors.MalformedPayload, ("Invalid inputs in request body",))),
    Case("missing input in a row", Predict(model="pair", inputs={"a": A}, forms=(Form.ROW,)), Refusal(errors.MalformedPayload, ("Invalid inputs in request body",))),
)  # fmt: skip


def _shape(name: str, model: str, shape: tuple[int, ...], *texts: str) -> Case:
    return Case(name, Predict(model=model, inputs={"x": np.ones(shape, np.float32)}), Refusal(errors.ShapeMismatch, texts))


SHAPES = (
    _shape("rank too low", "tiny", (10,), "The input data is incorrect. Obtained shape [10], required shape [1, 10]"),
    _shape("rank too high", "tiny", (1, 10, 1), "The input data is incorrect. Obtained shape [1, 10, 1], required shape [1, 10]"),
    _shape("batch", "tiny", (2, 10), "Input batch size is incorrect. Obtained batch size 2, required batch size 1"),
    _shape("other dimension", "tiny", (1, 9), "The input data is incorrect. Obtained shape [1, 9], required shape [1, 10]"),
    _shape("other dimension of a dynamic batch", "batch", (2, 5), "The input data is incorrect. Obtained shape [2, 5], required shape [-1, 4]"),
    _shape("range, too few", "range", (1, 3), "Input batch size is incorrect. Obtained batch size 1", "2..4"),
    _shape("range, too many", "range", (5, 3), "Input batch size is incorrect. Obtained batch size 5", "2..4"),
    Case("scalar for a vector", Predict(model="tiny", inputs={"x": f32(1)}, forms=(*GRPC, *COLUMNS)), Refusal(errors.ShapeMismatch, ("Obtained shape [], required shape [1, 10]",))),
    Case("one of several inputs", Predict(model="pair", inputs={"a": A, "b": B[:, :2]}, forms=NAMED), Refusal(errors.ShapeMismatch, ("Obtained shape [2, 2], required shape [2, 3]", "'b'"))),
)  # fmt: skip

NOT_FOUND = (
    Case("unknown model", Predict(model="nobody", inputs={"x": X10}), Refusal(errors.ModelNotFound, ("Servable not found for request: Specific(nobody, 0)",))),
    Case("unknown version", Predict(model="versions", inputs={"x": X10}, version=2), Refusal(errors.VersionNotFound, ("Servable not found for request: Specific(versions, 2)",))),
    Case("version beyond 32 bits", Predict(model="versions", inputs={"x": X10}, version=2**40), Refusal(errors.VersionNotFound, (f"Specific(versions, {2**40})",))),
    Case("negative version", Predict(model="tiny", inputs={"x": X10}, version=-1), Refusal(errors.VersionNotFound, ("Servable not found for request: Specific(tiny, ",))),
    Case("model without a version", Predict(model="absent", inputs={"x": X10}), Refusal(errors.VersionNotFound, ("Servable not found for request: Specific(absent, 0)",))),
    Case("version that cannot be loaded", Predict(model="broken", inputs={"x": X10}), Refusal(errors.ModelNotReady, ("'broken'", "Unable to read the model"))),
    Case("the engine raises", Predict(model="sum", inputs={"a": np.ones(2, np.float32), "b": np.ones(3, np.float32)}), Refusal(errors.InferenceFailed, ("Error occurred during inference execution",))),
)  # fmt: skip

FILTER = (
    Case("output_filter", Grpc(message={"modelSpec": {"name": "pair"}, "inputs": {"a": content(A), "b": content(B)}, "outputFilter": ["product"]}), Answer({"product": A * B.astype(np.float32)})),
    Case("output_filter with all", Grpc(message={"modelSpec": {"name": "pair"}, "inputs": {"a": content(A), "b": content(B)}, "outputFilter": ["product", "sum"]}), PAIR_ANSWER),
    Case("output_filter with a stranger", Grpc(message={"modelSpec": {"name": "tiny"}, "inputs": {"x": content(X10)}, "outputFilter": ["z"]}), Refusal(errors.OutputNameMismatch, ("output tensor alias not found in signature: 'z'", "['y']"))),
)  # fmt: skip

_X = content(X10)
BAD_TENSORS = (
    _sent("content too short", "tiny", {**_X, "tensorContent": "AAAA"}, Refusal(errors.MalformedPayload, ("'x'", "3 bytes", "40"))),
    _sent("more values than elements", "tiny", {**typed(X10), "floatVal": [1.0] * 11}, Refusal(errors.MalformedPayload, ("float_val has 11 values for 10 elements",))),
    _sent("values of another dtype", "tiny", {**typed(X10), "floatVal": [], "doubleVal": [1.0] * 10}, Refusal(errors.MalformedPayload, ("double_val", "float_val"))),
    _sent("string tensor", "tiny", {**_X, "dtype": "DT_STRING", "tensorContent": "", "stringVal": ["YQ=="]}, Refusal(errors.DtypeMismatch, ("'x'", "DT_STRING"))),
    _sent("complex tensor", "tiny", {**_X, "dtype": "DT_COMPLEX64"}, Refusal(errors.DtypeMismatch, ("DT_COMPLEX64",))),
    _sent("no dtype", "tiny", {**_X, "dtype": "DT_INVALID"}, Refusal(errors.DtypeMismatch, ("DT_INVALID",))),
    _sent("unknown rank", "tiny", {**_X, "tensorShape": {"unknownRank": True}}, Refusal(errors.MalformedPayload, ("unknown rank",))),
    _sent("negative dimension", "tiny", {**_X, "tensorShape": {"dim": [{"size": "-1"}, {"size": "10"}]}}, Refusal(errors.MalformedPayload, ("[-1, 10]", "negative"))),
    _sent("values that do not fit the dtype", "id_u8", {**typed(np.array([1, 2], np.uint8)), "intVal": [1, 256]}, Refusal(errors.MalformedPayload, ("256", "uint8"))),
    Case("bytes that are no message", Grpc(path="/tensorflow.serving.PredictionService/Predict", body=b"\xff\xff\xff"), Refusal(errors.MalformedPayload, ("PredictRequest",))),
    Case("empty message", Grpc(path="/tensorflow.serving.PredictionService/Predict", body=b""), Refusal(errors.ModelNotFound, ("Servable not found for request: Specific(, 0)",))),
    Case("signature_name is ignored", Grpc(message={"modelSpec": {"name": "tiny", "signatureName": "any"}, "inputs": {"x": _X}}), Answer({"y": Y10})),
)  # fmt: skip


def _body(name: str, body: bytes | str, expected: Expected, model: str = "tiny") -> Case:
    return Case(name, Rest(path=f"/v1/models/{model}:predict", body=body), expected)


INVALID_JSON = Refusal(errors.MalformedPayload, ("Invalid JSON",))
INVALID_INPUTS = Refusal(errors.MalformedPayload, ("Invalid inputs in request body",))
BODIES = (
    *(_body(f"body {body!r:.30}", body, INVALID_JSON) for body in ("", "just_text", "1234", "[]", '"text"', "null", '{"inputs": [[1]', "{inputs: [[1]]}", "{'inputs': [[1]]}", '{"inputs": [[1,]]}', b"\xff\xfe{}", '{"inputs": [[1]]} x', "[" * 100_000)),
    *(_body(f"body {body}", body, INVALID_INPUTS) for body in (
        "{}",
        '{"signature_name": "serving_default"}',
        '{"inputs": [[1]], "instances": [[1]]}',
        '{"inputs": []}',
        '{"inputs": {}}',
        '{"inputs": null}',
        '{"inputs": "text"}',
        '{"instances": []}',
        '{"instances": {}}',
        '{"instances": {"x": [1]}}',
        '{"instances": 1}',
        '{"instances": "text"}',
        '{"instances": [{"x": [1]}, [1]]}',
        '{"instances": [[1], {"x": [1]}]}',
        '{"instances": [{"x": [1], "z": [1]}]}',
        '{"inputs": [[1, 2], [3]]}',
        '{"inputs": [[1, [2]]]}',
        '{"inputs": [[1, "2"]]}',
        '{"inputs": [[1, null]]}',
        '{"inputs": [[true, 2]]}',
        '{"inputs": {"x": [[{"b64": "AAAA"}]]}}',
        '{"instances": [{"b64": "AAAA"}]}',
        '{"inputs": {"x": [["a"]]}}',
        '{"inputs": ' + "[" * 101 + "]" * 101 + "}",
    )),
    _body("unnamed values for two inputs", '{"inputs": [[1, 2, 3], [4, 5, 6]]}', INVALID_INPUTS, "pair"),
    _body("unnamed rows for two inputs", '{"instances": [[1, 2, 3], [4, 5, 6]]}', INVALID_INPUTS, "pair"),
    _body("integer beyond 64 bits", json.dumps({"inputs": [2**70]}), INVALID_INPUTS, "id_u64"),
    _body("integer beyond int64", json.dumps({"inputs": [2**63]}), Refusal(errors.DtypeMismatch, ("9223372036854775808",)), "id_i64"),
    _body("signature_name and other keys", json.dumps({"signature_name": "any", "other": [], "inputs": X10.tolist()}), TINY_DOCUMENT),
    _body("white space", "\n\t " + json.dumps({"inputs": X10.tolist()}, indent=3) + " \r\n", TINY_DOCUMENT),
    _body("byte order mark", b"\xef\xbb\xbf" + TINY_BODY.encode(), TINY_DOCUMENT),
    _body("last of equal keys", '{"inputs": {"x": 5, "x": %s}}' % X10.tolist(), TINY_DOCUMENT),
    _body("row", json.dumps({"instances": [{"x": X10[0].tolist()}]}), Document({"predictions": Y10.tolist()})),
    _body("row, unnamed", json.dumps({"instances": X10.tolist()}), Document({"predictions": Y10.tolist()})),
    _body("integers to i64 answer as integers", '{"instances": [1, 2]}', Document({"predictions": [1, 2]}), "id_i64"),
    _body("JSON booleans", '{"instances": [true, false]}', Document({"predictions": [True, False]}), "id_boolean"),
    _body("0 and 1 as booleans", '{"instances": [1, 0]}', Document({"predictions": [True, False]}), "id_boolean"),
    _body("whole floats to i64", '{"instances": [1.0, 2e3]}', Document({"predictions": [1, 2000]}), "id_i64"),
    _body("row of several outputs", '{"instances": [{"a": [1, 2, 3], "b": [10, 20, 30]}, {"b": [40, 50, 60], "a": [4, 5, 6]}]}', Document({"predictions": [{"sum": [11.0, 22.0, 33.0], "product": [10.0, 40.0, 90.0]}, {"sum": [44.0, 55.0, 66.0], "product": [160.0, 250.0, 360.0]}]}), "pair"),
    _body("column of several outputs", '{"inputs": {"b": [[10, 20, 30], [40, 50, 60]], "a": [[1, 2, 3], [4, 5, 6]]}}', Document({"outputs": {"sum": [[11.0, 22.0, 33.0], [44.0, 55.0, 66.0]], "product": [[10.0, 40.0, 90.0], [160.0, 250.0, 360.0]]}}), "pair"),
)  # fmt: skip

_GET_SPEC = "/v1/models/versions"


def _is_grpc_only(method: str) -> Case:
    message = {} if method in ("HandleReloadConfigRequest", "MultiInference") else {"modelSpec": {"name": "tiny"}}
    return Case(f"{method} over gRPC", Grpc(method=method, message=message), Refusal(None, code="UNIMPLEMENTED"))


LABELS = (
    Case("label over gRPC", Grpc(message={"modelSpec": {"name": "tiny", "versionLabel": "stable"}, "inputs": {"x": _X}}), Refusal(errors.UnsupportedOperation, ("'stable'", "labels are not supported"))),
    Case("label of metadata over gRPC", Grpc(method="GetModelMetadata", message={"modelSpec": {"name": "tiny", "versionLabel": "stable"}, "metadataField": ["signature_def"]}), Refusal(errors.UnsupportedOperation, ("'stable'",))),
    Case("label of status over gRPC", Grpc(method="GetModelStatus", message={"modelSpec": {"name": "tiny", "versionLabel": "stable"}}), Refusal(errors.UnsupportedOperation, ("'stable'",))),
    Case("label over REST", Rest(path="/v1/models/tiny/labels/stable:predict", body=TINY_BODY), Refusal(errors.UnsupportedOperation, ("'stable'", "labels are not supported"))),
    Case("label of status over REST", Rest(method="GET", path="/v1/models/tiny/labels/stable"), Refusal(errors.UnsupportedOperation, ("'stable'",))),
    *map(_is_grpc_only, ("Classify", "Regress", "MultiInference")),
    Case("unknown method over gRPC", Grpc(path="/tensorflow.serving.PredictionService/Guess"), Refusal(None, code="UNIMPLEMENTED")),
    Case("unknown service over gRPC", Grpc(path="/nobody.Service/Predict"), Refusal(None, code="UNIMPLEMENTED")),
)  # fmt: skip

_HTTP_404 = Refusal(None, status=404)
_SERVABLE = "Servable not found for request: Specific("
ROUTES = (
    *(Case(f"unknown path {path}", Rest(method="GET", path=path), _HTTP_404) for path in ("/", "/v1", "/v1/models/tiny/nothing", "/v1/models/tiny/versions/1/nothing", "/v2x", "/v1/models/a/b")),
    *(Case(f"call {verb}", Rest(path=f"/v1/models/tiny:{verb}", body=TINY_BODY), Refusal(None, ("Requested REST resource not found",), status=404)) for verb in ("classify", "regress", "nothing")),
    Case("POST without a call", Rest(path="/v1/models/tiny", body=TINY_BODY), _HTTP_404),
    *(Case(f"verb {method}", Rest(method=method, path="/v1/models/tiny:predict", body=TINY_BODY), Refusal(None, status=405)) for method in ("PUT", "DELETE", "PATCH")),
    Case("verb POST on metadata", Rest(path="/v1/models/tiny/metadata", body=b""), Refusal(None, status=405)),
    Case("text as version", Rest(path="/v1/models/tiny/versions/text:predict", body=TINY_BODY), Refusal(errors.VersionNotFound, (_SERVABLE,))),
    Case("float as version", Rest(path="/v1/models/tiny/versions/1.0:predict", body=TINY_BODY), Refusal(errors.VersionNotFound, (_SERVABLE,))),
    Case("version of 30 digits", Rest(path=f"/v1/models/tiny/versions/{'1' * 30}:predict", body=TINY_BODY), Refusal(errors.VersionNotFound, (_SERVABLE,))),
    Case("version 0 in the URL", Rest(path="/v1/models/tiny/versions/0:predict", body=TINY_BODY), TINY_DOCUMENT),
    Case("unknown model before the body is read", Rest(path="/v1/models/nobody:predict", body="no JSON"), Refusal(errors.ModelNotFound, (f"{_SERVABLE}nobody, 0)",))),
    Case("unknown version before the body is read", Rest(path="/v1/models/tiny/versions/9:predict", body="no JSON"), Refusal(errors.VersionNotFound, (f"{_SERVABLE}tiny, 9)",))),
    Case("percent-encoded name", Rest(path="/v1/models/%74iny:predict", body=TINY_BODY), TINY_DOCUMENT),
    Case("no Content-Type", Rest(body=TINY_BODY), TINY_DOCUMENT),
    *(Case(f"Content-Type {kind}", Rest(body=TINY_BODY, headers={"Content-Type": kind}), TINY_DOCUMENT) for kind in ("application/json", "application/json; charset=utf-8", "text/plain", "application/x-www-form-urlencoded", "nonsense")),
    Case("Accept of something else", Rest(body=TINY_BODY, headers={"Accept": "text/html"}), TINY_DOCUMENT),
    Case("chunks", Rest(body=TINY_BODY, is_chunked=True), TINY_DOCUMENT),
    Case("chunks of malformed JSON", Rest(body="{", is_chunked=True), INVALID_JSON),
)  # fmt: skip


def _versions(*numbers: int) -> Message:
    """The status document of available versions."""
    return {
        "model_version_status": [
            {"version": str(number), "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
            for number in numbers
        ]
    }


def _tensor_info(name: str, dtype: str, *sizes: int) -> Message:
    dimensions = [{"size": str(size), "name": ""} for size in sizes]
    return {"name": name, "dtype": dtype, "tensorShape": {"dim": dimensions, "unknownRank": False}}


def _metadata(model: str, version: int, inputs: Message, outputs: Message) -> Message:
    signature = {"inputs": inputs, "outputs": outputs, "methodName": "tensorflow/serving/predict"}
    return {
        "modelSpec": {"name": model, "signatureName": "", "version": str(version)},
        "metadata": {
            "signature_def": {
                "@type": "type.googleapis.com/tensorflow.serving.SignatureDefMap",
                "signatureDef": {"serving_default": signature},
            }
        },
    }


PAIR_METADATA = _metadata(
    "pair",
    1,
    {"a": _tensor_info("a", "DT_FLOAT", 2, 3), "b": _tensor_info("b", "DT_INT64", 2, 3)},
    {"sum": _tensor_info("sum", "DT_FLOAT", 2, 3), "product": _tensor_info("product", "DT_FLOAT", 2, 3)},
)
RANGE_METADATA = _metadata(
    "range", 1, {"x": _tensor_info("x", "DT_FLOAT", -1, 3)}, {"y": _tensor_info("y", "DT_FLOAT", -1, 3)}
)
VERSIONS_METADATA = _metadata(
    "versions", 1, {"x": _tensor_info("x", "DT_FLOAT", 1, 10)}, {"y": _tensor_info("y", "DT_FLOAT", 1, 10)}
)


def _both(
    name: str, method: str, message: Message, path: str, expected: Document | Refusal
) -> tuple[Case, Case]:
    """A status or metadata request over both protocols; gRPC's answer is compared as the same document."""
    return (
        Case(f"{name} over gRPC", Grpc(method=method, message=message), expected),
        Case(f"{name} over REST", Rest(method="GET", path=path), expected),
    )


def _asked_metadata(model: str, path: str, expected: Document | Refusal, version: int = 0) -> tuple[Case, Case]:
    message = {"modelSpec": {"name": model, "version": str(version)}, "metadataField": ["signature_def"]}
    return _both(f"metadata of {path}", "GetModelMetadata", message, f"/v1/models/{path}/metadata", expected)


def _asked_status(model: str, path: str, expected: Document | Refusal, version: int = 0) -> tuple[Case, Case]:
    message = {"modelSpec": {"name": model, "version": str(version)}}
    return _both(f"status of {path}", "GetModelStatus", message, f"/v1/models/{path}", expected)


def _metadata_fields(*fields: str) -> Case:
    message = {"modelSpec": {"name": "tiny"}, "metadataField": list(fields)}
    refusal = Refusal(errors.MalformedPayload, ("Metadata field", "is not supported"))
    return Case(f"metadata fields {fields}", Grpc(method="GetModelMetadata", message=message), refusal)


DOCUMENTS = (
    *_asked_metadata("pair", "pair", Document(PAIR_METADATA)),
    *_asked_metadata("range", "range", Document(RANGE_METADATA)),
    *_asked_metadata("versions", "versions/versions/1", Document(VERSIONS_METADATA), 1),
    *_asked_metadata("nobody", "nobody", Refusal(errors.ModelNotFound, (f"{_SERVABLE}nobody, 0)",))),
    *_asked_metadata("tiny", "tiny/versions/7", Refusal(errors.VersionNotFound, (f"{_SERVABLE}tiny, 7)",)), 7),
    *_asked_metadata("broken", "broken", Refusal(errors.ModelNotReady, ("Unable to read the model",))),
    *_asked_status("tiny", "tiny", Document(_versions(1))),
    *_asked_status("versions", "versions", Document(_versions(1, 3))),
    *_asked_status("versions", "versions/versions/3", Document(_versions(3)), 3),
    *_asked_status("nobody", "nobody", Refusal(errors.ModelNotFound, (f"{_SERVABLE}nobody, 0)",))),
    *_asked_status("tiny", "tiny/versions/2", Refusal(errors.VersionNotFound, (f"{_SERVABLE}tiny, 2)",)), 2),
    _metadata_fields("nothing"),
    _metadata_fields("signature_def", "nothing"),
    _metadata_fields(),
)

CASES: tuple[Case, ...] = (
    *GOOD,
    *VALUES,
    *CONVERSIONS,
    *UNCONVERTIBLE,
    *COMPACT,
    *NAMES,
    *SHAPES,
    *NOT_FOUND,
    *FILTER,
    *BAD_TENSORS,
    *BODIES,
    *LABELS,
    *ROUTES,
    *DOCUMENTS,
)
