# SPDX-License-Identifier: Apache-2.0
"""Predict requests that do not fit: names, shapes, versions, tensors; what the message's other fields do."""

from __future__ import annotations

import numpy as np

from ovms_mp import errors
from tests.conformance.case import (
    COLUMNS,
    GRPC,
    NAMED,
    PAIR_ANSWER,
    REST,
    SERVABLE,
    TFS_GRPC,
    X10,
    X10_MESSAGE,
    Y10,
    A,
    Answer,
    B,
    Case,
    Expected,
    Form,
    Grpc,
    Refusal,
    f32,
    predict,
    sent,
)
from tests.support.tensors import content, typed

ALIAS = "input tensor alias not found in signature: ["
SPEC = "Inputs expected to be in the set {['x']}."
BAD_ROW = Refusal(errors.MalformedPayload, ("Invalid inputs in request body",))


def _names(*texts: str) -> Refusal:
    return Refusal(errors.InputNameMismatch, texts)


NAMES = (
    predict("misnamed input", "tiny", {"wrong": X10}, _names(f"{ALIAS}'wrong'].", SPEC), NAMED),
    predict("input too many", "tiny", {"x": X10, "more": X10}, _names(f"{ALIAS}'", SPEC), NAMED),
    predict("missing input", "pair", {"a": A}, _names("{['a', 'b']}.", "input 'b' is missing"), NAMED),
    predict("no input", "tiny", {}, _names(f"{ALIAS}].", SPEC, "input 'x' is missing"), GRPC),
    predict("no input of two", "pair", {}, _names(f"{ALIAS}].", "inputs 'a', 'b' are missing"), GRPC),
    predict("misnamed input in a row", "tiny", {"wrong": X10}, BAD_ROW, (Form.ROW,)),
    predict("missing input in a row", "pair", {"a": A}, BAD_ROW, (Form.ROW,)),
)

DATA, BATCH = (
    "The input data is incorrect. Obtained shape",
    "Input batch size is incorrect. Obtained batch size",
)


def _shape(name: str, model: str, shape: tuple[int, ...], *texts: str) -> Case:
    return predict(name, model, {"x": np.ones(shape, np.float32)}, Refusal(errors.ShapeMismatch, texts))


ONE_OF_TWO = Refusal(errors.ShapeMismatch, ("Obtained shape [2, 2], required shape [2, 3]", "'b'"))
NO_SCALAR = Refusal(errors.ShapeMismatch, (f"{DATA} [], required shape [1, 10]",))
SHAPES = (
    _shape("rank too low", "tiny", (10,), f"{DATA} [10], required shape [1, 10]"),
    _shape("rank too high", "tiny", (1, 10, 1), f"{DATA} [1, 10, 1], required shape [1, 10]"),
    _shape("batch", "tiny", (2, 10), f"{BATCH} 2, required batch size 1"),
    _shape("other dimension", "tiny", (1, 9), f"{DATA} [1, 9], required shape [1, 10]"),
    _shape("other dimension of a batch", "batch", (2, 5), f"{DATA} [2, 5], required shape [-1, 4]"),
    _shape("range, too few", "range", (1, 3), f"{BATCH} 1", "2..4"),
    _shape("range, too many", "range", (5, 3), f"{BATCH} 5", "2..4"),
    predict("scalar for a vector", "tiny", {"x": f32(1)}, NO_SCALAR, (*GRPC, *COLUMNS)),
    predict("one of several inputs", "pair", {"a": A, "b": B[:, :2]}, ONE_OF_TWO, NAMED),
)


def _no_version(model: str, version: int) -> Refusal:
    return Refusal(errors.VersionNotFound, (f"{SERVABLE}{model}, {version})",))


NOT_READY = Refusal(errors.ModelNotReady, ("'broken'", "it is not a valid OpenVINO IR model"))
UNEQUAL = {"a": np.ones(2, np.float32), "b": np.ones(3, np.float32)}
SHAPES_DO_NOT_MATCH = Refusal(errors.ShapeMismatch, ("shape",))
UNKNOWN_MODEL = Refusal(errors.ModelNotFound, (f"{SERVABLE}nobody, 0)",))
NEGATIVE = Refusal(errors.VersionNotFound, (f"{SERVABLE}tiny, ",))
NOT_SERVED = (
    predict("unknown model", "nobody", {"x": X10}, UNKNOWN_MODEL),
    predict("unknown version", "versions", {"x": X10}, _no_version("versions", 2), version=2),
    predict("version of 41 bits", "versions", {"x": X10}, _no_version("versions", 2**40), version=2**40),
    predict("negative version", "tiny", {"x": X10}, NEGATIVE, (*TFS_GRPC, *REST), version=-1),
    predict("model without a version", "absent", {"x": X10}, _no_version("absent", 0)),
    predict("version that cannot be loaded", "broken", {"x": X10}, NOT_READY),
    # Each fits its input; that they do not fit each other only the engine can say.
    predict("shapes that do not fit each other", "sum", UNEQUAL, SHAPES_DO_NOT_MATCH),
)


def _filtered(name: str, names: list[str], expected: Expected) -> Case:
    inputs = {"a": content(A), "b": content(B)}
    message = {"modelSpec": {"name": "pair"}, "inputs": inputs, "outputFilter": names}
    return Case(name, Grpc(message=message), expected)


FILTER = (
    _filtered("output_filter", ["product"], Answer({"product": PAIR_ANSWER.outputs["product"]})),
    _filtered("output_filter with all", ["product", "sum"], PAIR_ANSWER),
    _filtered(
        "output_filter with a stranger",
        ["sum", "z"],
        Refusal(errors.OutputNameMismatch, ("output tensor alias not found in signature: 'z'", "'product'")),
    ),
)


def _bad(name: str, *texts: str, **changes: object) -> Case:
    """Tiny's tensor with other fields; an empty list takes one away."""
    error = errors.DtypeMismatch if "dtype" in changes else errors.MalformedPayload
    return sent(name, "tiny", {**X10_MESSAGE, **changes}, Refusal(error, texts))


PREDICT = "/tensorflow.serving.PredictionService/Predict"
ELEVEN = {**typed(X10), "floatVal": [1.0] * 11}
DOUBLES = {**typed(X10), "floatVal": [], "doubleVal": [1.0] * 10}
BYTES = {**typed(np.array([1, 2], np.uint8)), "intVal": [1, 256]}
NEGATIVE_DIMENSION = {"dim": [{"size": "-1"}, {"size": "10"}]}
ANY_SIGNATURE = {"modelSpec": {"name": "tiny", "signatureName": "any"}, "inputs": {"x": X10_MESSAGE}}

NO_INPUTS = {"modelSpec": {"name": "tiny", "signatureName": "any"}}


def _malformed(*texts: str) -> Refusal:
    return Refusal(errors.MalformedPayload, texts)


BAD_TENSORS = (
    _bad("content too short", "'x'", "3 bytes", "40", tensorContent="AAAA"),
    _bad(
        "string tensor",
        "'x' is FP32",
        "strings are taken by",
        dtype="DT_STRING",
        tensorContent="",
        stringVal=["YQ=="],
    ),
    _bad("complex tensor", "DT_COMPLEX64", dtype="DT_COMPLEX64"),
    _bad("no dtype", "DT_INVALID", dtype="DT_INVALID"),
    _bad("unknown rank", "unknown rank", tensorShape={"unknownRank": True}),
    _bad("negative dimension", "[-1, 10]", "negative", tensorShape=NEGATIVE_DIMENSION),
    sent("too many values", "tiny", ELEVEN, _malformed("float_val has 11 values for 10 elements")),
    sent("values of another dtype", "tiny", DOUBLES, _malformed("double_val", "float_val")),
    sent("values that do not fit the dtype", "id_u8", BYTES, _malformed("256", "uint8")),
    Case("bytes that are no message", Grpc(path=PREDICT, body=b"\xff\xff"), _malformed("PredictRequest")),
    Case("empty message", Grpc(path=PREDICT), Refusal(errors.ModelNotFound, (f"{SERVABLE}, 0)",))),
    Case("signature_name is ignored", Grpc(message=ANY_SIGNATURE), Answer({"y": Y10})),
    Case("signature_name without inputs", Grpc(message=NO_INPUTS), _names("input 'x' is missing")),
)

REFUSALS = (*NAMES, *SHAPES, *NOT_SERVED, *FILTER, *BAD_TENSORS)
