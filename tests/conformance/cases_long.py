# SPDX-License-Identifier: Apache-2.0
"""Predictions over gRPC with tensors so long that the native front receives them in the arena."""

from __future__ import annotations

import base64
import struct
from typing import TYPE_CHECKING

import numpy as np

from ovms_mp import errors
from ovms_mp.front.protobuf.arena_sink import SHORTEST_LONG_BYTES
from tests.conformance.case import (
    GRPC,
    SERVABLE,
    Answer,
    Case,
    Expected,
    Grpc,
    Refusal,
    f32,
    predict,
    same,
    sent,
)
from tests.support.predict_messages import FLOAT, entry
from tests.support.protobuf_messages import BYTES, VARINT, record, varint
from tests.support.tensors import NUMPY, content, typed

if TYPE_CHECKING:
    from ovms_mp.model.dtypes import AnyArray

PREDICT = "/tensorflow.serving.PredictionService/Predict"
NBYTES = SHORTEST_LONG_BYTES + 256
COUNT = NBYTES // 4
LONG = np.arange(COUNT, dtype=np.float32)


def _long(values: AnyArray) -> AnyArray:
    """The values over and over."""
    return np.resize(values, max(COUNT, NBYTES // values.dtype.itemsize))


def _values(name: str) -> AnyArray:
    """Values that lost, shifted or cut bytes would change."""
    dtype = NUMPY[name]
    if name == "boolean":
        return np.array([True, False, False, True, True])
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return np.array([limits.min, limits.max, 0, 1, limits.max - 1, 7, 99], dtype)
    return np.array([0, -0.5, 1, 2, 448], np.float32).astype(dtype)


DTYPES = tuple(
    predict(f"long {name}", f"id_{name}", {"x": _long(_values(name))}, same(name, _long(_values(name))), GRPC)
    for name in NUMPY
)


def _converted(given: AnyArray, name: str) -> tuple[Case, Case]:
    """A long tensor of another dtype than the model's."""
    given = _long(given)
    answer = same(name, given.astype(NUMPY[name]))
    return (
        sent(f"long {given.dtype} to {name}, content", f"id_{name}", content(given), answer),
        sent(f"long {given.dtype} to {name}, typed", f"id_{name}", typed(given), answer),
    )


CONVERSIONS = (
    *_converted(np.array([0.1, -2.5, 1e30]), "f32"),
    *_converted(f32([0.1, -2.5, 1e30]), "f64"),
    *_converted(np.array([0.5, 65504], np.float16), "f32"),
    *_converted(f32([0.5, 65504]), "f16"),
    *_converted(f32([0.1, -1e30]), "bf16"),
    *_converted(np.array([0, 1, 255], np.uint8), "f32"),
    *_converted(np.array([-3, 2**24, 2**53]), "f32"),
    *_converted(np.array([True, False, False]), "f32"),
    *_converted(np.array([3.0, -4, 0]), "i32"),
    *_converted(np.array([3, -4, 0]), "i32"),
    *_converted(np.array([2.0**40, 7]), "i64"),
    *_converted(np.array([0, 1, 1]), "boolean"),
)


def _unconvertible(given: AnyArray, name: str) -> Case:
    refusal = Refusal(errors.DtypeMismatch, ("'x'", "cannot be converted"))
    return sent(f"long {given.dtype} {given} to {name}", f"id_{name}", content(_long(given)), refusal)


UNCONVERTIBLE = (
    _unconvertible(np.array([1.0, 1.5]), "i32"),
    _unconvertible(np.array([0, 1e39]), "f32"),
    _unconvertible(np.array([0, 256]), "u8"),
    _unconvertible(f32([1, 2]), "boolean"),
)

ROWS = np.arange(NBYTES // 4 // 4 * 4, dtype=np.float32).reshape(-1, 4)
HALF = LONG.copy()
HALF[COUNT - 40 :] = HALF[COUNT - 41]
ONES, TWOS = np.ones(4 * COUNT, np.float32), np.full(4 * COUNT, 2, np.float32)
TRUTHS = {
    **content(np.ones(NBYTES, np.bool_)),
    "tensorContent": base64.b64encode(b"\x02\x00" * (NBYTES // 2)).decode(),
}
TRUE_AND_FALSE = np.resize(np.array([True, False]), NBYTES)
PLACES = np.array([list(range(COUNT))], np.int64)
GOOD = (
    predict("long rows", "batch", {"x": ROWS}, Answer({"y": 2 * ROWS}), GRPC),
    predict("two long inputs", "sum", {"a": LONG, "b": LONG}, Answer({"sum": 2 * LONG}), GRPC),
    predict("a long and a short input", "sum", {"a": LONG, "b": f32([1])}, Answer({"sum": LONG + 1}), GRPC),
    predict("a short and a long input", "sum", {"a": f32([1]), "b": LONG}, Answer({"sum": LONG + 1}), GRPC),
    predict("long, larger than guessed", "nonzero", {"x": ONES[:COUNT]}, Answer({"places": PLACES}), GRPC),
    predict("200 kB each", "sum", {"a": ONES, "b": TWOS}, Answer({"sum": ONES + TWOS}), GRPC),
    sent("long and compact", "id_f32", typed(HALF, COUNT - 40), same("f32", HALF)),
    sent("long, any byte is true", "id_boolean", TRUTHS, same("boolean", TRUE_AND_FALSE)),
    sent("long booleans to f32", "id_f32", TRUTHS, same("f32", TRUE_AND_FALSE.astype(np.float32))),
)

DATA = "The input data is incorrect. Obtained shape"


def _shape(name: str, model: str, shape: tuple[int, ...], *texts: str) -> Case:
    ones = np.ones(shape, np.float32)
    return predict(name, model, {"x": ones}, Refusal(errors.ShapeMismatch, texts), GRPC)


ALIAS = "input tensor alias not found in signature: ["
NAMES = Refusal(errors.InputNameMismatch, (ALIAS, "Inputs expected to be in the set {['x']}."))
MISSING = Refusal(errors.InputNameMismatch, ("input 'b' is missing",))
NO_MODEL = Refusal(errors.ModelNotFound, (f"{SERVABLE}nobody, 0)",))
NO_VERSION = Refusal(errors.VersionNotFound, (f"{SERVABLE}id_f32, 7)",))
NOT_READY = Refusal(errors.ModelNotReady, ("it is not a valid OpenVINO IR model",))
REFUSALS = (
    _shape("long, other dimension", "tiny", (1, COUNT), f"{DATA} [1, {COUNT}], required shape [1, 10]"),
    _shape("long, rank too high", "id_f32", (1, COUNT), f"{DATA} [1, {COUNT}]"),
    _shape("long, batch", "tiny", (COUNT, 10), f"Obtained batch size {COUNT}, required batch size 1"),
    _shape("long, dimension of a batch", "batch", (COUNT, 5), f"{DATA} [{COUNT}, 5], required shape [-1, 4]"),
    predict("long, misnamed input", "tiny", {"wrong": LONG}, NAMES, GRPC),
    predict("long, input too many", "tiny", {"x": LONG, "more": LONG}, NAMES, GRPC),
    predict("long, missing input", "sum", {"a": LONG}, MISSING, GRPC),
    predict("long, unknown model", "nobody", {"x": LONG}, NO_MODEL, GRPC),
    predict("long, unknown version", "id_f32", {"x": LONG}, NO_VERSION, GRPC, version=7),
    predict("long, broken model", "broken", {"x": LONG}, NOT_READY, GRPC),
    predict(
        "long, lengths that do not go together",
        "sum",
        {"a": LONG, "b": LONG[1:]},
        Refusal(errors.ShapeMismatch, ("Model could not be reshaped", "[8256]", "[8255]")),
        GRPC,
    ),
)


def _bad(name: str, *texts: str, **changes: object) -> Case:
    """A long tensor with other fields."""
    error = errors.DtypeMismatch if "dtype" in changes else errors.MalformedPayload
    return sent(name, "id_f32", {**content(LONG), **changes}, Refusal(error, texts))


def _sized(*sizes: int) -> dict[str, object]:
    return {"dim": [{"size": str(size)} for size in sizes]}


BAD_TENSORS = (
    _bad("long content, shape too small", "'x'", f"{COUNT * 4} bytes", "40", tensorShape=_sized(10)),
    _bad("long content, too many dimensions", "'x'", "[1, 10]", tensorShape=_sized(1, 10)),
    _bad("long content, shape too large", f"{COUNT * 4} bytes", tensorShape=_sized(COUNT + 1)),
    _bad("long content of a scalar", "'x'", "[]", tensorShape={}),
    _bad("long content of no rank", "unknown rank", tensorShape={"unknownRank": True}),
    _bad("long content, negative dimension", "negative", tensorShape=_sized(-1, COUNT)),
    _bad("long string tensor", "'x'", "DT_STRING", dtype="DT_STRING"),
    _bad("long complex tensor", "DT_COMPLEX64", dtype="DT_COMPLEX64"),
    _bad("long tensor of no dtype", "DT_INVALID", dtype="DT_INVALID"),
    sent(
        "long, too many values",
        "id_f32",
        {**typed(LONG), "tensorShape": _sized(COUNT - 1)},
        Refusal(errors.MalformedPayload, (f"float_val has {COUNT} values for {COUNT - 1} elements",)),
    ),
)

SPEC = record(1, BYTES, record(1, BYTES, b"id_f32"))
SHAPE = record(2, BYTES, record(2, BYTES, record(1, VARINT, varint(COUNT))))
VALUES = record(4, BYTES, LONG.tobytes())
ZEROS = record(4, BYTES, bytes(4 * COUNT))
PACKED = record(5, BYTES, LONG.tobytes())
SINGLE = b"".join(b"\x2d" + struct.pack("<f", value) for value in LONG.tolist())
TENSOR = FLOAT + SHAPE + VALUES
GIVEN = Answer({"y": LONG})
MALFORMED = Refusal(errors.MalformedPayload, ("are not a tensorflow.serving.PredictRequest",))
WHOLE = SPEC + entry(TENSOR)


def _raw(name: str, body: bytes, expected: Expected) -> Case:
    return Case(f"long, {name}", Grpc(path=PREDICT, body=body), expected)


RAW = (
    _raw("plain", WHOLE, GIVEN),
    _raw("model behind", entry(TENSOR) + SPEC, GIVEN),
    _raw("values first", SPEC + entry(VALUES + SHAPE + FLOAT), GIVEN),
    _raw("values twice", SPEC + entry(FLOAT + SHAPE + ZEROS + VALUES), GIVEN),
    _raw("name twice", SPEC + entry(FLOAT + SHAPE + ZEROS) + entry(TENSOR), GIVEN),
    _raw("tensor before its name", SPEC + record(2, BYTES, record(2, BYTES, TENSOR) + record(1, BYTES, b"x")), GIVEN),
    _raw("packed floats", SPEC + entry(FLOAT + SHAPE + PACKED), GIVEN),
    _raw("packed floats in two parts", SPEC + entry(FLOAT + SHAPE + PACKED + record(5, BYTES, b"")), GIVEN),
    _raw("floats one by one", SPEC + entry(FLOAT + SHAPE + SINGLE), GIVEN),
    _raw("content, then empty content and floats", SPEC + entry(TENSOR + record(4, BYTES, b"") + PACKED), GIVEN),
    _raw("unknown long fields", record(99, BYTES, bytes(NBYTES)) + WHOLE + record(99, BYTES, bytes(NBYTES)), GIVEN),
    _raw("unknown field in the tensor", SPEC + entry(TENSOR + record(99, BYTES, bytes(NBYTES))), GIVEN),
    _raw("cut within the values", WHOLE[:-1000], MALFORMED),
    _raw("an octet too many", WHOLE + b"\x0a", MALFORMED),
    _raw("garbage", b"\xff" * NBYTES, MALFORMED),
    _raw("tensor beyond its entry", SPEC + b"\x12\x80\x80\x02\x0a\x01x\x12" + varint(len(TENSOR)) + TENSOR, MALFORMED),
)  # fmt: skip

LONG_TENSORS = (*DTYPES, *CONVERSIONS, *UNCONVERTIBLE, *GOOD, *REFUSALS, *BAD_TENSORS, *RAW)
