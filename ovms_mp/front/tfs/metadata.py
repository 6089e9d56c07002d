# SPDX-License-Identifier: Apache-2.0
"""Status and metadata answers, as protobuf messages and as the JSON of TensorFlow Serving's REST API.

Both are rare, so the generated classes and protobuf's own JSON mapping write them. Clients read the documents
with a strict parser and so no key may be in them that TensorFlow Serving's first releases lack; fields with
default values are written, as clients without protobuf index into them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from google.protobuf import json_format

from ovms_mp.front.tfs._proto.tensorflow_error_pb2 import Code
from ovms_mp.front.tfs._proto.tensorflow_framework_pb2 import SignatureDef, TensorInfo, TensorShapeProto
from ovms_mp.front.tfs._proto.tensorflow_serving_pb2 import (
    GetModelMetadataResponse,
    GetModelStatusResponse,
    ReloadConfigResponse,
    SignatureDefMap,
    StatusProto,
)
from ovms_mp.front.tfs.protobuf.encode import SIGNATURE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from google.protobuf.message import Message

    from ovms_mp.model.status import VersionStatus
    from ovms_mp.model.tensors import TensorSpec

METADATA_FIELD = "signature_def"
"""The one metadata field that can be asked for, and the answer's key."""

PREDICT_METHOD = "tensorflow/serving/predict"


def encode_status(versions: Sequence[VersionStatus]) -> GetModelStatusResponse:
    """Write the status of a model's versions, in the given order."""
    response = GetModelStatusResponse()
    for status in versions:
        response.model_version_status.add(
            version=status.version,
            state=status.state.name,
            status=StatusProto(error_code=Code.Name(status.error_code), error_message=status.error_message),
        )
    return response


def encode_metadata(
    model_name: str, version: int, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> GetModelMetadataResponse:
    """Write a version's inputs and outputs as its one signature; a dimension that may vary is -1."""
    signature = SignatureDef(
        inputs={spec.name: _tensor_info(spec) for spec in inputs},
        outputs={spec.name: _tensor_info(spec) for spec in outputs},
        method_name=PREDICT_METHOD,
    )
    signatures = SignatureDefMap(signature_def={SIGNATURE: signature})
    response = GetModelMetadataResponse()
    response.model_spec.name = model_name
    response.model_spec.version.value = version
    response.metadata[METADATA_FIELD].Pack(signatures, deterministic=True)
    return response


def encode_reloaded() -> ReloadConfigResponse:
    """Write the answer to a reload that went well."""
    return ReloadConfigResponse(status=StatusProto(error_code="OK"))


def status_json(versions: Sequence[VersionStatus]) -> bytes:
    """Write :func:`encode_status`'s message as JSON; the proto pins its field names to snake_case."""
    return _json(encode_status(versions))


def metadata_json(
    model_name: str, version: int, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> bytes:
    """Write :func:`encode_metadata`'s message as JSON; its field names are protobuf's camelCase."""
    return _json(encode_metadata(model_name, version, inputs, outputs))


def config_json(models: Mapping[str, Sequence[VersionStatus]]) -> bytes:
    """Write :func:`status_json`'s documents of all models as one, by name."""
    documents = {name: json.loads(status_json(versions)) for name, versions in models.items()}
    return json.dumps(documents, indent=1).encode()


def _tensor_info(spec: TensorSpec) -> TensorInfo:
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in spec.dims])
    return TensorInfo(name=spec.name, dtype=spec.dtype.tf_name, tensor_shape=shape)


def _json(message: Message) -> bytes:
    return json_format.MessageToJson(message, indent=1, always_print_fields_with_no_presence=True).encode()
