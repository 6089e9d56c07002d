# SPDX-License-Identifier: Apache-2.0
"""KServe's REST API with Triton's extensions, for people and for generators of clients.

https://github.com/kserve/open-inference-protocol and Triton's ``docs/protocol``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.front.kserve import calls
from ovms_mp.front.kserve.json.assemble import HEADER
from ovms_mp.front.kserve.regions import calls as regions
from ovms_mp.front.kserve.repository import calls as repository
from ovms_mp.front.kserve.settings import logging, tracing
from ovms_mp.front.kserve.statistics.calls import STATISTICS
from ovms_mp.front.openapi.description import (
    ANYTHING,
    COUNT,
    EMPTY,
    JSON,
    NO_BODY,
    OBJECT,
    OCTETS,
    STRING,
    TRUTH,
    Description,
    Operation,
    list_of,
    one_of,
    record,
    ref,
)
from ovms_mp.model.dtypes import DType

if TYPE_CHECKING:
    from ovms_mp.front.openapi.description import Schema

_INTEGER: Schema = {"type": "integer"}
_SHAPE = list_of(_INTEGER)
_DATATYPE = one_of(*(dtype.name for dtype in DType))
_PARAMETERS = {"parameters": OBJECT}
_INFER_HEADERS = {
    HEADER: "Octets of JSON in the body, where the content of tensors follows it (`binary_data_size`)."
}
_SETTINGS_STATUSES = {501: "A setting cannot be changed here."}
_LOG_SETTINGS = {
    logging.FILE: STRING,
    logging.INFO: TRUTH,
    logging.WARNING: TRUTH,
    logging.ERROR: TRUTH,
    logging.VERBOSE: COUNT,
    logging.FORM: STRING,
}

_OPERATIONS = {
    ("GET", "Alive"): Operation("Whether there is a server", {JSON: record({"status": STRING})}),
    ("GET", calls.SERVER_METADATA): Operation(
        "Name, version and extensions",
        {JSON: record({"name": STRING, "version": STRING, "extensions": list_of(STRING)})},
    ),
    ("GET", calls.SERVER_LIVE): Operation(
        "Whether the server is alive: 503 where only a new start helps", {JSON: record({"live": TRUTH})}
    ),
    ("GET", calls.SERVER_READY): Operation(
        "Whether requests should come here: 503 while they should not", {JSON: record({"ready": TRUTH})}
    ),
    ("GET", "ModelList"): Operation("Names of all models", {JSON: record({"models": list_of(STRING)})}),
    ("GET", calls.MODEL_READY): Operation(
        "Whether a model or version can answer: 503 while it cannot",
        {JSON: record({"name": STRING, "ready": TRUTH})},
    ),
    ("GET", calls.METADATA): Operation("Inputs and outputs", {JSON: ref("ModelMetadata")}),
    ("GET", calls.CONFIG): Operation("The configuration as Triton has it", {JSON: ref("ModelConfig")}),
    ("GET", STATISTICS): Operation(
        "How many requests there were, and where their time went",
        {JSON: record({"model_stats": list_of(OBJECT)})},
    ),
    ("POST", calls.INFER): Operation(
        "Run a model. Octets instead of JSON: content of tensors behind the JSON, or that of the one input alone",
        {JSON: ref("InferResponse"), OCTETS: ANYTHING},
        {JSON: ref("InferRequest"), OCTETS: ANYTHING},
        headers=_INFER_HEADERS,
    ),
    ("POST", repository.INDEX): Operation(
        "All models and versions that were ever seen",
        {JSON: list_of(ref("IndexEntry"))},
        {JSON: record({}, {"ready": TRUTH})},
    ),
    ("POST", repository.LOAD): Operation(
        "Load a model, or look at its directory again; answers when it serves",
        {JSON: EMPTY},
        {JSON: record({}, _PARAMETERS)},
    ),
    ("POST", repository.UNLOAD): Operation(
        "Unload a model; answers when nothing of it serves", {JSON: EMPTY}, {JSON: record({}, _PARAMETERS)}
    ),
    ("GET", logging.METHOD): Operation("What is logged", {JSON: ref("LogSettings")}),
    ("POST", logging.METHOD): Operation(
        "Log something else from now on",
        {JSON: ref("LogSettings")},
        {JSON: ref("LogChange")},
        statuses=_SETTINGS_STATUSES,
    ),
    ("GET", tracing.METHOD): Operation("Triton's trace settings: nothing is traced", {JSON: OBJECT}),
    ("POST", tracing.METHOD): Operation(
        "Accepts what is set already", {JSON: OBJECT}, {JSON: OBJECT}, statuses=_SETTINGS_STATUSES
    ),
    ("GET", regions.SYSTEM + regions.STATUS): Operation(
        "Regions of shared memory that clients have registered", {JSON: list_of(ref("Region"))}
    ),
    ("POST", regions.SYSTEM + regions.REGISTER): Operation(
        "Register a region of shared memory",
        NO_BODY,
        {JSON: record({"key": STRING, "byte_size": COUNT}, {"offset": COUNT})},
        needs_body=True,
    ),
    ("POST", regions.SYSTEM + regions.UNREGISTER): Operation("Forget a region, or all of them", NO_BODY),
    ("GET", regions.CUDA + regions.STATUS): Operation(
        "Regions of GPUs' memory: none", {JSON: list_of(OBJECT)}
    ),
    ("POST", regions.CUDA + regions.REGISTER): Operation("Is not supported", NO_BODY, {JSON: OBJECT}),
    ("POST", regions.CUDA + regions.UNREGISTER): Operation("Does nothing", NO_BODY),
}

_SCHEMAS: dict[str, Schema] = {
    "InferRequest": record(
        {"inputs": list_of(ref("InferInput"))},
        {"id": STRING, **_PARAMETERS, "outputs": list_of(record({"name": STRING}, _PARAMETERS))},
    ),
    "InferInput": record(
        {"name": STRING, "datatype": _DATATYPE, "shape": list_of(COUNT)},
        {**_PARAMETERS, "data": list_of(ANYTHING)},
    ),
    "InferResponse": record(
        {"model_name": STRING, "outputs": list_of(ref("InferOutput"))},
        {"model_version": STRING, "id": STRING, **_PARAMETERS},
    ),
    "InferOutput": record(
        {"name": STRING, "datatype": _DATATYPE, "shape": _SHAPE}, {**_PARAMETERS, "data": list_of(ANYTHING)}
    ),
    "ModelMetadata": record(
        {
            "name": STRING,
            "versions": list_of(STRING),
            "platform": STRING,
            "inputs": list_of(ref("TensorMetadata")),
            "outputs": list_of(ref("TensorMetadata")),
        },
        {"rt_info": OBJECT},
    ),
    "TensorMetadata": record({"name": STRING, "datatype": _DATATYPE, "shape": _SHAPE}),
    "ModelConfig": record(
        {
            "name": STRING,
            "platform": STRING,
            "backend": STRING,
            "max_batch_size": COUNT,
            "input": list_of(ref("TensorConfig")),
            "output": list_of(ref("TensorConfig")),
        }
    ),
    "TensorConfig": record({"name": STRING, "data_type": STRING, "dims": _SHAPE}),
    "IndexEntry": record(
        {
            "name": STRING,
            "version": STRING,
            "state": one_of(
                repository.READY, repository.LOADING, repository.UNLOADING, repository.UNAVAILABLE
            ),
            "reason": STRING,
        }
    ),
    "LogSettings": record(_LOG_SETTINGS),
    # What is null stays as it is.
    "LogChange": record(
        {}, {name: {"anyOf": [schema, {"type": "null"}]} for name, schema in _LOG_SETTINGS.items()}
    ),
    "Region": record({"name": STRING, "key": STRING, "offset": COUNT, "byte_size": COUNT}),
}

DESCRIPTION = Description("KServe's open inference protocol with Triton's extensions", _OPERATIONS, _SCHEMAS)
