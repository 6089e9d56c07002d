# SPDX-License-Identifier: Apache-2.0
"""Where things are in an inference request and its answer: field numbers, and tags in their one-byte form.

Read from the generated classes, so the .proto file says it and nobody else.
"""

from __future__ import annotations

from ovms_mp.front.kserve._proto.kserve_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
)
from ovms_mp.front.protobuf.plain import field_number, one_byte_tag
from ovms_mp.front.protobuf.records import BYTES

INPUTS_FIELD = field_number(ModelInferRequest, "inputs")
RAW_FIELD = field_number(ModelInferRequest, "raw_input_contents")
PARAMETERS_FIELD = field_number(ModelInferRequest, "parameters")
OUTPUTS_FIELD = field_number(ModelInferRequest, "outputs")
ID_FIELD = field_number(ModelInferRequest, "id")
CONTENTS_FIELD = field_number(ModelInferRequest.InferInputTensor, "contents")

MODEL_NAME = one_byte_tag(field_number(ModelInferRequest, "model_name"), BYTES)
MODEL_VERSION = one_byte_tag(field_number(ModelInferRequest, "model_version"), BYTES)
ID = one_byte_tag(field_number(ModelInferRequest, "id"), BYTES)
PARAMETERS = one_byte_tag(PARAMETERS_FIELD, BYTES)
INPUTS = one_byte_tag(INPUTS_FIELD, BYTES)
OUTPUTS = one_byte_tag(OUTPUTS_FIELD, BYTES)
RAW = one_byte_tag(RAW_FIELD, BYTES)

ANSWER_ID = one_byte_tag(field_number(ModelInferResponse, "id"), BYTES)
ANSWER_RAW = one_byte_tag(field_number(ModelInferResponse, "raw_output_contents"), BYTES)
STREAM_ANSWER = one_byte_tag(field_number(ModelStreamInferResponse, "infer_response"), BYTES)
