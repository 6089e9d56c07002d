# SPDX-License-Identifier: Apache-2.0
"""JSON bodies, paths, verbs and headers; status and metadata documents; labels and methods that do not exist."""

from __future__ import annotations

import gzip
import json

from ovms_mp import errors
from tests.conformance.case import (
    SERVABLE,
    X10,
    X10_MESSAGE,
    Y10,
    Case,
    Document,
    Expected,
    Grpc,
    Refusal,
    Rest,
)
from tests.support.tensors import Document as Message

TINY_BODY = json.dumps({"inputs": {"x": X10.tolist()}})
TINY_DOCUMENT = Document({"outputs": Y10.tolist()}, {"content-type": "application/json"})
INVALID_JSON = Refusal(errors.MalformedPayload, ("Invalid JSON",))
INVALID_INPUTS = Refusal(errors.MalformedPayload, ("Invalid inputs in request body",))
NO_JSON: tuple[bytes | str, ...] = (
    "",
    "just_text",
    "1234",
    "[]",
    '"text"',
    "null",
    '{"inputs": [[1]',
    "{inputs: [[1]]}",
    "{'inputs': [[1]]}",
    '{"inputs": [[1,]]}',
    b"\xff\xfe{}",
    '{"inputs": [[1]]} x',
    "[" * 60_000,
)
NO_INPUTS = (
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
)
EMPTY = ("{}", '{"inputs": {}}', '{"instances": []}', '{"instances": [{}]}', '{"signature_name": "s"}')
X_MISSING = Refusal(errors.MalformedPayload, ("Invalid inputs in request body: input 'x' is missing; ",))
A_B_MISSING = Refusal(errors.MalformedPayload, ("request body: inputs 'a', 'b' are missing; ",))
B_MISSING = Refusal(errors.MalformedPayload, ("request body: input 'b' is missing; ",))


def _body(name: str, body: bytes | str, expected: Expected, model: str = "tiny") -> Case:
    return Case(name, Rest(path=f"/v1/models/{model}:predict", body=body), expected)


PAIR_ROWS = '[{"a": [1, 2, 3], "b": [10, 20, 30]}, {"b": [40, 50, 60], "a": [4, 5, 6]}]'
PAIR_PREDICTIONS = [
    {"sum": [11.0, 22.0, 33.0], "product": [10.0, 40.0, 90.0]},
    {"sum": [44.0, 55.0, 66.0], "product": [160.0, 250.0, 360.0]},
]
PAIR_COLUMNS = '{"b": [[10, 20, 30], [40, 50, 60]], "a": [[1, 2, 3], [4, 5, 6]]}'
PAIR_OUTPUTS = {
    "sum": [[11.0, 22.0, 33.0], [44.0, 55.0, 66.0]],
    "product": [[10.0, 40.0, 90.0], [160.0, 250.0, 360.0]],
}
BEYOND_INT64 = Refusal(errors.DtypeMismatch, ("9223372036854775808",))
OTHER_KEYS = json.dumps({"signature_name": "any", "other": [], "inputs": X10.tolist()})
TWICE = '{"inputs": {"x": 5, "x": ' + json.dumps(X10.tolist()) + "}}"
PREDICTIONS = Document({"predictions": Y10.tolist()})
BODIES = (
    *(_body(f"body {body!r:.30}", body, INVALID_JSON) for body in NO_JSON),
    *(_body(f"body {body}", body, INVALID_INPUTS) for body in NO_INPUTS),
    *(_body(f"no input in {body}", body, X_MISSING) for body in EMPTY),
    *(_body(f"no input of two in {body}", body, A_B_MISSING, "pair") for body in EMPTY),
    _body("half a row", '{"instances": [{"a": [1, 2, 3]}]}', B_MISSING, "pair"),
    _body("unnamed values for two inputs", '{"inputs": [[1, 2, 3], [4, 5, 6]]}', INVALID_INPUTS, "pair"),
    _body("unnamed rows for two inputs", '{"instances": [[1, 2, 3], [4, 5, 6]]}', INVALID_INPUTS, "pair"),
    _body("integer beyond 64 bits", json.dumps({"inputs": [2**70]}), INVALID_INPUTS, "id_u64"),
    _body("integer beyond int64", json.dumps({"inputs": [2**63]}), BEYOND_INT64, "id_i64"),
    _body("signature_name and other keys", OTHER_KEYS, TINY_DOCUMENT),
    *(
        _body(
            f"signature_name {name}", f'{{"signature_name": {name}, "inputs": {X10.tolist()}}}', TINY_DOCUMENT
        )
        for name in ('"serving_default"', '""', "null", "7", '["a"]')
    ),
    _body("white space", "\n\t " + json.dumps({"inputs": X10.tolist()}, indent=3) + " \r\n", TINY_DOCUMENT),
    _body("byte order mark", b"\xef\xbb\xbf" + TINY_BODY.encode(), TINY_DOCUMENT),
    _body("last of equal keys", TWICE, TINY_DOCUMENT),
    _body("row", json.dumps({"instances": [{"x": X10[0].tolist()}]}), PREDICTIONS),
    _body("row, unnamed", json.dumps({"instances": X10.tolist()}), PREDICTIONS),
    _body("integers to i64", '{"instances": [1, 2]}', Document({"predictions": [1, 2]}), "id_i64"),
    _body("whole floats to i64", '{"instances": [1.0, 2e3]}', Document({"predictions": [1, 2000]}), "id_i64"),
    _body("booleans", '{"instances": [true, false]}', Document({"predictions": [True, False]}), "id_boolean"),
    _body(
        "0 and 1 as booleans", '{"instances": [1, 0]}', Document({"predictions": [True, False]}), "id_boolean"
    ),
    _body(
        "row of two outputs",
        f'{{"instances": {PAIR_ROWS}}}',
        Document({"predictions": PAIR_PREDICTIONS}),
        "pair",
    ),
    _body(
        "column of two outputs", f'{{"inputs": {PAIR_COLUMNS}}}', Document({"outputs": PAIR_OUTPUTS}), "pair"
    ),
)

UNIMPLEMENTED = Refusal(None, code="UNIMPLEMENTED")
LABEL = Refusal(errors.UnsupportedOperation, ("'stable'", "labels are not supported"))
LABELLED = {"name": "tiny", "versionLabel": "stable"}
LABELLED_METADATA = {"modelSpec": LABELLED, "metadataField": ["signature_def"]}
RELOAD = "HandleReloadConfigRequest"
CONFIG_OF_A_CLIENT: Message = {
    "config": {
        "modelConfigList": {"config": [{"name": "m", "basePath": "/m", "modelPlatform": "tensorflow"}]}
    }
}
CONFIG_REFUSED = Refusal(errors.UnsupportedOperation, ("--config_path",))
PREDICTION_SERVICE = "/tensorflow.serving.PredictionService"


def _missing(method: str) -> Case:
    message: Message = {} if method == "MultiInference" else {"modelSpec": {"name": "tiny"}}
    return Case(f"{method} over gRPC", Grpc(method=method, message=message), UNIMPLEMENTED)


UNSUPPORTED = (
    Case("label", Grpc(message={"modelSpec": LABELLED, "inputs": {"x": X10_MESSAGE}}), LABEL),
    Case("label of metadata", Grpc(method="GetModelMetadata", message=LABELLED_METADATA), LABEL),
    Case("label of status", Grpc(method="GetModelStatus", message={"modelSpec": LABELLED}), LABEL),
    Case("label over REST", Rest(path="/v1/models/tiny/labels/stable:predict", body=TINY_BODY), LABEL),
    Case("label of status over REST", Rest(method="GET", path="/v1/models/tiny/labels/stable"), LABEL),
    *map(_missing, ("Classify", "Regress", "MultiInference")),
    Case("reload with a configuration", Grpc(method=RELOAD, message=CONFIG_OF_A_CLIENT), CONFIG_REFUSED),
    Case("unknown method over gRPC", Grpc(path=f"{PREDICTION_SERVICE}/Guess"), UNIMPLEMENTED),
    Case("unknown service over gRPC", Grpc(path="/nobody.Service/Predict"), UNIMPLEMENTED),
)

HTTP_404, HTTP_405 = Refusal(None, status=404), Refusal(None, status=405)
NO_RESOURCE = Refusal(None, ("Requested REST resource not found",), status=404)
NO_VERSION = Refusal(errors.VersionNotFound, (SERVABLE,))
NO_MODEL = Refusal(errors.ModelNotFound, (f"{SERVABLE}nobody, 0)", "no model has this name; models: "))
NEAREST = Refusal(
    errors.ModelNotFound, (f"{SERVABLE}tinny, 0); no model has this name; models: 'tiny',", " more")
)
USE_POST = Refusal(None, ("Unsupported method", "use POST"), status=405)
HTTP_415 = Refusal(None, ("Content-Encoding", "accepted: gzip"), status=415)
NO_GZIP = Refusal(errors.MalformedPayload, ("Content-Encoding gzip",))
NOT_ALLOWED = (
    *(("POST", path) for path in ("/v1/config", "/v1/status")),
    ("GET", "/v1/config/reload"),
    *(("PUT", path) for path in ("/v1/config", "/v1/config/reload", "/v1/status")),
)


def coded(coding: str) -> dict[str, str]:
    """The header that says how a body is compressed."""
    return {"Content-Encoding": coding}


UNKNOWN_PATHS = (
    "/v1",
    "/v1/models",
    "/v1/models/tiny/nothing",
    "/v1/models/tiny/versions/1/nothing",
    "/v2x",
    "/v1/models/a/b",
    "/v1/config/nothing",
)
CONTENT_TYPES = (
    "application/json",
    "application/json; charset=utf-8",
    "text/plain",
    "application/x-www-form-urlencoded",
    "nonsense",
)
NAMED = (
    "org%2Ftiny",
    "org/tiny",
    "org/tiny/versions/1",
    "org%2Ftiny/versions/1",
    "%6Frg%2ftiny",
    "mod%C3%A8le%20b",
)
NOT_NAMED = ("org%252Ftiny", "org%2Ftiny%2Fversions%2F1", "org//tiny", "mod%E8le%20b", "org/tiny/")
NOT_FOUND = Refusal(errors.ModelNotFound, (SERVABLE, "no model has this name"))


def _posted(name: str, path: str, expected: Expected, body: str = TINY_BODY) -> Case:
    return Case(name, Rest(path=f"/v1/models/{path}", body=body), expected)


def _tiny(name: str, **headers: str) -> Case:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return Case(name, Rest(body=TINY_BODY, headers=named), TINY_DOCUMENT)


ROUTES = (
    *(Case(f"unknown path {path}", Rest(method="GET", path=path), HTTP_404) for path in UNKNOWN_PATHS),
    *(_posted(f"call {verb}", f"tiny:{verb}", NO_RESOURCE) for verb in ("classify", "regress", "nothing")),
    _posted("POST without a call", "tiny", HTTP_404),
    *(
        Case(f"verb {method}", Rest(method=method, body=TINY_BODY), HTTP_405)
        for method in ("PUT", "DELETE", "PATCH", "TRACE")
    ),
    _posted("verb POST on metadata", "tiny/metadata", HTTP_405),
    Case("GET of a call", Rest(method="GET", path="/v1/models/tiny:predict"), USE_POST),
    Case(
        "GET of a call on a version", Rest(method="GET", path="/v1/models/a/b/versions/1:predict"), USE_POST
    ),
    _posted("nearly a model", "tinny:predict", NEAREST),
    Case("nearly a model over gRPC", Grpc(message={"modelSpec": {"name": "tinny"}}), NEAREST),
    Case(
        "status of nearly a model",
        Grpc(method="GetModelStatus", message={"modelSpec": {"name": "tinny"}}),
        NEAREST,
    ),
    *(_posted(f"name {path}", f"{path}:predict", TINY_DOCUMENT) for path in NAMED),
    *(_posted(f"no name {path}", f"{path}:predict", NOT_FOUND) for path in NOT_NAMED),
    *(
        Case(f"verb {method} on {path}", Rest(method=method, path=path), HTTP_405)
        for method, path in NOT_ALLOWED
    ),
    *(
        Case(f"coding {coding}", Rest(body=TINY_BODY, headers=coded(coding)), HTTP_415)
        for coding in ("br", "zstd")
    ),
    Case("gzip", Rest(body=gzip.compress(TINY_BODY.encode()), headers=coded("gzip")), TINY_DOCUMENT),
    Case("gzip that is none", Rest(body=TINY_BODY, headers=coded("gzip")), NO_GZIP),
    _posted("text as version", "tiny/versions/text:predict", NO_VERSION),
    _posted("float as version", "tiny/versions/1.0:predict", NO_VERSION),
    _posted("version of 30 digits", f"tiny/versions/{'1' * 30}:predict", NO_VERSION),
    _posted("version 0 in the URL", "tiny/versions/0:predict", TINY_DOCUMENT),
    _posted("unknown model before the body is read", "nobody:predict", NO_MODEL, "no JSON"),
    _posted("unknown version before the body is read", "tiny/versions/9:predict", NO_VERSION, "no JSON"),
    _posted("percent-encoded name", "%74iny:predict", TINY_DOCUMENT),
    _tiny("no Content-Type"),
    *(_tiny(f"Content-Type {kind}", Content_Type=kind) for kind in CONTENT_TYPES),
    _tiny("Accept of something else", Accept="text/html"),
    _tiny("Expect of a go-ahead", Expect="100-continue"),
    Case("chunks", Rest(body=TINY_BODY, is_chunked=True), TINY_DOCUMENT),
    Case("chunks of malformed JSON", Rest(body="{", is_chunked=True), INVALID_JSON),
)


def _versions(*numbers: int) -> Message:
    """The status document of available versions."""
    return {
        "model_version_status": [
            {
                "version": str(number),
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            }
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
ORG_METADATA = _metadata(
    "org/tiny", 1, {"x": _tensor_info("x", "DT_FLOAT", 1, 10)}, {"y": _tensor_info("y", "DT_FLOAT", 1, 10)}
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


def _asked_metadata(
    model: str, path: str, expected: Document | Refusal, version: int = 0
) -> tuple[Case, Case]:
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
    *_asked_metadata("nobody", "nobody", Refusal(errors.ModelNotFound, (f"{SERVABLE}nobody, 0)",))),
    *_asked_metadata("tiny", "tiny/versions/7", Refusal(errors.VersionNotFound, (f"{SERVABLE}tiny, 7)",)), 7),
    *_asked_metadata(
        "broken", "broken", Refusal(errors.ModelNotReady, ("it is not a valid OpenVINO IR model",))
    ),
    *_asked_status("tiny", "tiny", Document(_versions(1))),
    *_asked_status("org/tiny", "org%2Ftiny", Document(_versions(1))),
    *_asked_status("org/tiny", "org/tiny/versions/1", Document(_versions(1)), 1),
    *_asked_metadata("org/tiny", "org/tiny", Document(ORG_METADATA)),
    *_asked_metadata("org/tiny", "org%2Ftiny/versions/1", Document(ORG_METADATA), 1),
    *_asked_status("versions", "versions", Document(_versions(1, 3))),
    *_asked_status("versions", "versions/versions/3", Document(_versions(3)), 3),
    *_asked_status("nobody", "nobody", Refusal(errors.ModelNotFound, (f"{SERVABLE}nobody, 0)",))),
    *_asked_status("tiny", "tiny/versions/2", Refusal(errors.VersionNotFound, (f"{SERVABLE}tiny, 2)",)), 2),
    _metadata_fields("nothing"),
    _metadata_fields("signature_def", "nothing"),
    _metadata_fields(),
)

PROTOCOL = (*BODIES, *UNSUPPORTED, *ROUTES, *DOCUMENTS)
