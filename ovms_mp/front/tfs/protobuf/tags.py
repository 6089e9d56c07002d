# SPDX-License-Identifier: Apache-2.0
"""Where things are in a predict request and its answer: field numbers, and tags in their one-byte form.

Read from the generated classes, so the .proto files say it and nobody else.
Wire format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from ovms_mp.front.protobuf.plain import field_number
from ovms_mp.front.protobuf.plain import one_byte_tag as _tag
from ovms_mp.front.protobuf.records import BYTES, VARINT
from ovms_mp.front.tfs._proto.tensorflow_framework_pb2 import TensorProto
from ovms_mp.front.tfs._proto.tensorflow_serving_pb2 import PredictRequest, PredictResponse

MODEL_SPEC_FIELD = field_number(PredictRequest, "model_spec")
INPUTS_FIELD = field_number(PredictRequest, "inputs")
OUTPUT_FILTER_FIELD = field_number(PredictRequest, "output_filter")
ENTRY_KEY_FIELD = field_number(PredictRequest.InputsEntry, "key")
ENTRY_VALUE_FIELD = field_number(PredictRequest.InputsEntry, "value")
DTYPE_FIELD = field_number(TensorProto, "dtype")
SHAPE_FIELD = field_number(TensorProto, "tensor_shape")
CONTENT_FIELD = field_number(TensorProto, "tensor_content")

MODEL_SPEC = _tag(MODEL_SPEC_FIELD, BYTES)
INPUTS = _tag(INPUTS_FIELD, BYTES)
OUTPUT_FILTER = _tag(OUTPUT_FILTER_FIELD, BYTES)
ENTRY_KEY = _tag(ENTRY_KEY_FIELD, BYTES)
ENTRY_VALUE = _tag(ENTRY_VALUE_FIELD, BYTES)
DTYPE = _tag(DTYPE_FIELD, VARINT)
SHAPE = _tag(SHAPE_FIELD, BYTES)
CONTENT = _tag(CONTENT_FIELD, BYTES)
FLOATS = _tag(field_number(TensorProto, "float_val"), BYTES)
STRINGS = _tag(field_number(TensorProto, "string_val"), BYTES)
DOUBLES = _tag(field_number(TensorProto, "double_val"), BYTES)
PACKED = frozenset(
    _tag(field_number(TensorProto, name), BYTES)
    for name in ("float_val", "double_val", "int_val", "int64_val", "bool_val", "half_val")
)
"""Fields of values in packed form. Rarer ones have two-byte tags."""
OUTPUTS = _tag(field_number(PredictResponse, "outputs"), BYTES)
