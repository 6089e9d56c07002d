# SPDX-License-Identifier: Apache-2.0
"""What only KServe's gRPC calls can say: requests that fit no other protocol, readiness, metadata, configuration."""

from __future__ import annotations

import base64
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from ovms_mp import __version__, errors
from tests.conformance.case import (
    PAIR_ANSWER,
    SERVABLE,
    X10,
    Y10,
    A,
    Answer,
    B,
    Case,
    Document,
    KServe,
    Refusal,
)
from tests.support.kserve_client import infer_request

if TYPE_CHECKING:
    from tests.conformance.case import Expected

RAW = base64.b64encode(X10.tobytes()).decode()
INPUT = {"name": "x", "datatype": "FP32", "shape": ["1", "10"]}
ANSWER = Answer({"y": Y10})
NOTHING: dict[str, Any] = {}
PRODUCT = Answer({"product": PAIR_ANSWER.outputs["product"]})


def asked(name: str, expected: Expected, /, method: str = "ModelInfer", **message: Any) -> Case:
    """A row of a message."""
    return Case(f"kserve {name}", KServe(method=method, message=message), expected)


def inferred(name: str, expected: Expected, /, **changes: Any) -> Case:
    """Tiny's request with other fields."""
    message = {"modelName": "tiny", "inputs": [INPUT], "rawInputContents": [RAW], **changes}
    return asked(name, expected, **message)


def with_input(name: str, expected: Expected, /, raw: list[str] | None = None, **changes: Any) -> Case:
    """Tiny's request with another input."""
    raws = [RAW] if raw is None else raw
    return inferred(name, expected, inputs=[{**INPUT, **changes}], rawInputContents=raws)


def malformed(*texts: str) -> Refusal:
    return Refusal(errors.MalformedPayload, texts)


def from_pair(name: str, outputs: list[str], expected: Expected) -> Case:
    """A request of the model with two outputs."""
    message = infer_request("pair", {"a": A, "b": B}, outputs=outputs).SerializeToString()
    return Case(f"kserve {name}", KServe(message=message), expected)


BOTH = (
    "Passing buffers both in ModelInferRequest::InferInputTensor::contents and in "
    "ModelInferRequest::raw_input_contents is not allowed"
)
FLOATS = {"fp32Contents": [0.0] * 10}
MESSAGES = (
    inferred("without a version", ANSWER),
    inferred("version 0 is the default", ANSWER, modelVersion="0"),
    inferred("version", ANSWER, modelVersion="1"),
    inferred(
        "version that is no number",
        malformed("invalid model version format in request"),
        modelVersion="latest",
    ),
    inferred(
        "negative version", malformed("invalid model version format in request: '-1'"), modelVersion="-1"
    ),
    inferred(
        "version that there is not",
        Refusal(errors.VersionNotFound, (f"{SERVABLE}tiny, 9)",)),
        modelVersion="9",
    ),
    inferred("unknown model", Refusal(errors.ModelNotFound, (f"{SERVABLE}nobody, 0)",)), modelName="nobody"),
    Case(
        "kserve bytes that are no message",
        KServe(message=b"\xff\xff"),
        malformed("inference.ModelInferRequest"),
    ),
    Case("kserve empty message", KServe(message=b""), Refusal(errors.ModelNotFound, (f"{SERVABLE}, 0)",))),
    with_input(
        "both raw and contents", malformed(BOTH, "InferInputTensor contents for input: x"), contents=FLOATS
    ),
    inferred(
        "entry too many",
        malformed("Size of raw_input_contents: 2 is different than number of inputs: 1"),
        rawInputContents=[RAW, RAW],
    ),
    inferred(
        "the same input twice",
        Refusal(errors.InputNameMismatch, ("input 'x' is there twice",)),
        inputs=[INPUT, INPUT],
        rawInputContents=[RAW, RAW],
    ),
    inferred(
        "raw of another size",
        malformed(
            "Invalid content size of tensor proto", "Expected: 40 bytes; Actual: 3 bytes; input name: x"
        ),
        rawInputContents=["AAAA"],
    ),
    with_input(
        "values of another number",
        malformed(
            "Invalid number of values in tensor proto container", "Expected: 10 values; Actual: 1 values"
        ),
        [],
        contents={"fp32Contents": [1]},
    ),
    with_input(
        "values of another field",
        malformed(
            "Actual: 0 values; input name: x; values of FP32 belong in fp32_contents, not in int_contents"
        ),
        [],
        contents={"intContents": [1] * 10},
    ),
    with_input("no values at all", malformed("Expected: 10 values; Actual: 0 values; input name: x"), []),
    with_input(
        "narrow floats in contents",
        malformed("FP16 has no field in contents"),
        [],
        datatype="FP16",
        contents=FLOATS,
    ),
    with_input(
        "datatype that there is not",
        Refusal(errors.DtypeMismatch, ("Invalid input precision", "unknown datatype 'FLOAT'")),
        datatype="FLOAT",
    ),
    with_input(
        "shape that does not fit",
        Refusal(errors.ShapeMismatch, ("Obtained shape [1, 5, 2], required shape [1, 10]",)),
        shape=["1", "5", "2"],
    ),
    with_input("negative dimension", malformed("[-1, 10]", "negative"), shape=["-1", "10"]),
    with_input(
        "contents that are converted",
        ANSWER,
        [],
        datatype="INT64",
        contents={"int64Contents": [str(number) for number in range(10)]},
    ),
    with_input(
        "raw values that are converted",
        ANSWER,
        [base64.b64encode(struct.pack("<10d", *range(10))).decode()],
        datatype="FP64",
    ),
    inferred(
        "parameters of all kinds",
        ANSWER,
        parameters={
            "a": {"boolParam": True},
            "b": {"int64Param": "-1"},
            "c": {"stringParam": "x"},
            "d": {"doubleParam": 0.5},
            "e": {"uint64Param": str(2**64 - 1)},
            "priority": {"uint64Param": "1"},
            "timeout": {"int64Param": "30000000"},
        },
    ),
    inferred(
        "a parameter for servers only",
        malformed("'triton_final_response' is reserved"),
        parameters={"triton_final_response": {"boolParam": True}},
    ),
    inferred(
        "a sequence",
        Refusal(errors.UnsupportedOperation, ("sequence_id", "sequences are not supported")),
        parameters={"sequence_id": {"int64Param": "7"}},
    ),
    inferred(
        "classes",
        Answer({"y": np.array([[b"10.000000:9", b"9.000000:8"]], object)}),
        outputs=[{"name": "y", "parameters": {"classification": {"int64Param": "2"}}}],
    ),
    inferred(
        "classes that are no number",
        malformed("'classification'", "expected a whole number"),
        outputs=[{"name": "y", "parameters": {"classification": {"stringParam": "x"}}}],
    ),
    from_pair("one output", ["product"], PRODUCT),
    from_pair("all outputs", ["sum", "product"], PAIR_ANSWER),
    from_pair("an output twice", ["product", "product"], PRODUCT),
    from_pair(
        "an output that there is not",
        ["sum", "z"],
        Refusal(errors.OutputNameMismatch, ("output tensor alias not found in signature: 'z'", "'product'")),
    ),
)

EXTENSIONS = [
    "classification",
    "schedule_policy",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "model_repository",
    "model_repository(unload_dependents)",
    "logging",
    "system_shared_memory",  # As the server that all tests share allows it.
]
METADATA = {
    "name": "pair",
    "versions": ["1"],
    "platform": "OpenVINO",
    "inputs": [
        {"name": "a", "datatype": "FP32", "shape": ["2", "3"]},
        {"name": "b", "datatype": "INT64", "shape": ["2", "3"]},
    ],
    "outputs": [
        {"name": "sum", "datatype": "FP32", "shape": ["2", "3"]},
        {"name": "product", "datatype": "FP32", "shape": ["2", "3"]},
    ],
}
CONFIG = {
    "config": {
        "name": "batch",
        "platform": "openvino",
        "backend": "openvino",
        "input": [{"name": "x", "dataType": "TYPE_FP32", "dims": ["-1", "4"]}],
        "output": [{"name": "y", "dataType": "TYPE_FP32", "dims": ["-1", "4"]}],
        "modelTransactionPolicy": NOTHING,
    }
}
UNKNOWN = Refusal(errors.ModelNotFound, ("no model has this name",))
NOT_READY = Refusal(errors.ModelNotReady, ("'broken'",))
NO_VERSION = malformed("invalid model version format in request: 'x'")
SERVER = {"name": "ovms_mp", "version": __version__}
ABOUT = (
    asked("live", Document({"live": True}), "ServerLive"),
    asked("ready", Document({"ready": True}), "ServerReady"),
    asked("model ready", Document({"ready": True}), "ModelReady", name="tiny"),
    asked("version ready", Document({"ready": True}), "ModelReady", name="versions", version="3"),
    asked("model that failed is not ready", Document(NOTHING), "ModelReady", name="broken"),
    asked("model without versions is not ready", Document(NOTHING), "ModelReady", name="absent"),
    asked("unknown model's readiness", UNKNOWN, "ModelReady", name="nobody"),
    asked(
        "unknown version's readiness",
        Refusal(errors.VersionNotFound, (f"{SERVABLE}versions, 2)",)),
        "ModelReady",
        name="versions",
        version="2",
    ),
    asked("readiness of a version that is none", NO_VERSION, "ModelReady", name="tiny", version="x"),
    asked("server metadata", Document({**SERVER, "extensions": EXTENSIONS}), "ServerMetadata"),
    asked("metadata", Document(METADATA), "ModelMetadata", name="pair"),
    asked("unknown model's metadata", UNKNOWN, "ModelMetadata", name="nobody"),
    asked("failed model's metadata", NOT_READY, "ModelMetadata", name="broken"),
    asked("metadata of a version that is none", NO_VERSION, "ModelMetadata", name="tiny", version="x"),
    asked("configuration", Document(CONFIG), "ModelConfig", name="batch"),
    asked("unknown model's configuration", UNKNOWN, "ModelConfig", name="nobody"),
    Case(
        "kserve no ModelReadyRequest",
        KServe(method="ModelReady", message=b"\xff"),
        malformed("request is no ModelReadyRequest"),
    ),
)

KSERVE = (*MESSAGES, *ABOUT)
