# SPDX-License-Identifier: Apache-2.0
"""What only KServe's REST API can say: paths, JSON, binary tensors; statuses and the words that clients know."""

from __future__ import annotations

import json
import zlib
from typing import Any

from ovms_mp import errors
from tests.conformance.case import X10, Y10, Case, Document, Expected, Refusal, Rest

TINY = {"name": "x", "shape": [1, 10], "datatype": "FP32", "data": X10.ravel().tolist()}
BINARY = {"name": "x", "shape": [1, 10], "datatype": "FP32", "parameters": {"binary_data_size": 40}}
Y = {"name": "y", "datatype": "FP32", "shape": [1, 10], "data": Y10.ravel().tolist()}
ANSWER = {"model_name": "tiny", "model_version": "1", "outputs": [Y]}
MALFORMED, OCTETS = errors.MalformedPayload, X10.tobytes()
INFER = "/v2/models/tiny/infer"
HEADER = "Inference-Header-Content-Length"


def _infer(name: str, document: Any, expected: Expected, path: str = INFER, **headers: str) -> Case:
    body = document if isinstance(document, (str, bytes)) else json.dumps(document)
    return Case(f"KServe REST, {name}", Rest(path=path, body=body, headers=headers), expected)


def _binary(name: str, inputs: Any, octets: bytes, expected: Expected, length: str = "") -> Case:
    text = json.dumps({"inputs": inputs}).encode()
    headers = {HEADER: length or str(len(text))}
    return Case(f"KServe REST, {name}", Rest(path=INFER, body=text + octets, headers=headers), expected)


def _got(path: str, expected: Expected, method: str = "GET") -> Case:
    return Case(f"KServe REST, {method} {path}", Rest(method=method, path=path), expected)


def _malformed(text: str) -> Refusal:
    return Refusal(MALFORMED, (text,))


INPUTS = {"inputs": [TINY]}
KSERVE_REST_CASES = (
    _infer("answer", INPUTS, Document(ANSWER, {"content-type": "application/json"})),
    _infer("id", {**INPUTS, "id": "a"}, Document({**ANSWER, "id": "a"})),
    _infer("version", INPUTS, Document(ANSWER), "/v2/models/tiny/versions/1/infer"),
    _infer("output", {**INPUTS, "outputs": [{"name": "y"}]}, Document(ANSWER)),
    _infer("id of the request", INPUTS, Document(ANSWER, {"x-request-id": "7"}), **{"X-Request-Id": "7"}),
    _infer(
        "deflate",
        zlib.compress(json.dumps(INPUTS).encode()),
        Document(ANSWER),
        **{"Content-Encoding": "deflate"},
    ),
    _infer(
        "classification",
        {**INPUTS, "outputs": [{"name": "y", "parameters": {"classification": 2}}]},
        Document(
            {
                **ANSWER,
                "outputs": [
                    {"name": "y", "datatype": "BYTES", "shape": [1, 2], "data": ["10.000000:9", "9.000000:8"]}
                ],
            }
        ),
    ),
    _infer(
        "unknown output", {**INPUTS, "outputs": [{"name": "z"}]}, Refusal(errors.OutputNameMismatch, ("'z'",))
    ),
    _infer("no JSON", "{", _malformed("Invalid JSON")),
    _infer("no object", "[1]", _malformed("Invalid JSON in request body")),
    _infer("no inputs", {}, _malformed("Invalid JSON structure, missing inputs")),
    _infer("no list", {"inputs": 1}, _malformed("Could not parse input content.")),
    _infer("outputs", {**INPUTS, "outputs": 1}, _malformed("Could not parse output content.")),
    _infer("parameters", {**INPUTS, "parameters": 1}, _malformed("Could not parse request parameters")),
    _infer("datatype", {"inputs": [{**TINY, "datatype": "FP1"}]}, Refusal(errors.DtypeMismatch, ("'FP1'",))),
    _infer("reserved", {**INPUTS, "parameters": {"triton_x": 1}}, _malformed("'triton_x' is reserved")),
    _infer(
        "sequence",
        {**INPUTS, "parameters": {"sequence_id": 1}},
        Refusal(errors.UnsupportedOperation, ("sequences",)),
    ),
    _binary("binary", [BINARY], OCTETS, Document(ANSWER)),
    _binary("header beyond the body", [BINARY], OCTETS, _malformed("exceeds actual payload length"), "9999"),
    _binary("header of text", [BINARY], OCTETS, _malformed("is invalid and couldn't be parsed"), "x"),
    _binary(
        "size of text",
        [{**BINARY, "parameters": {"binary_data_size": "x"}}],
        b"",
        _malformed("binary_data_size parameter is invalid and cannot be parsed"),
    ),
    _binary("too few octets", [BINARY], OCTETS[1:], _malformed("Received buffer size is smaller than")),
    _binary("too many octets", [BINARY], OCTETS + b"x", _malformed("1 bytes of the body belong to no input")),
    _binary(
        "twice",
        [{**TINY, **BINARY}],
        OCTETS,
        _malformed("Request contains values both in binary data and in content value"),
    ),
    _infer("unknown model", INPUTS, Refusal(errors.ModelNotFound, ("nobody",)), "/v2/models/nobody/infer"),
    _infer(
        "unknown version", INPUTS, Refusal(errors.VersionNotFound, ("9",)), "/v2/models/tiny/versions/9/infer"
    ),
    _infer(
        "version of text", INPUTS, _malformed("invalid model version"), "/v2/models/tiny/versions/a/infer"
    ),
    *(
        _infer(word, INPUTS, Refusal(errors.UnsupportedOperation, (word,)), f"/v2/models/tiny/{word}")
        for word in ("generate", "generate_stream", "infer_stream")
    ),
    _infer("unknown call", INPUTS, Refusal(errors.ModelNotFound, ("not found",)), "/v2/models/tiny/explain"),
    _got(INFER, Refusal(None, ("use POST",), status=405)),
    _got("/", Document({"status": "alive"})),
    _got("/v2/health/live", Document({"live": True})),
    _got("/v2/health/ready", Document({"ready": True})),
    _got("/v2/models/tiny/ready", Document({"name": "tiny", "ready": True})),
    _got("/v2/models/org%2Ftiny/versions/1/ready", Document({"name": "org/tiny", "ready": True})),
    _got("/v2/models/nobody/ready", Refusal(errors.ModelNotFound, ("nobody",))),
    _got("/v2/models/broken/ready", Refusal(None, ("not ready",), status=503)),
    *(
        _got(
            path,
            Document(
                {
                    "name": "tiny",
                    "versions": ["1"],
                    "platform": "OpenVINO",
                    "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 10]}],
                    "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 10]}],
                }
            ),
        )
        for path in ("/v2/models/tiny", "/v2/models/tiny/", "/v2/models/tiny/versions/1")
    ),
    _got(
        "/v2/models/tiny/config",
        Document(
            {
                "name": "tiny",
                "platform": "openvino",
                "backend": "openvino",
                "max_batch_size": 0,
                "input": [{"name": "x", "data_type": "TYPE_FP32", "format": "FORMAT_NONE", "dims": [1, 10]}],
                "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [1, 10]}],
                "model_transaction_policy": {"decoupled": False},
            }
        ),
    ),
)
