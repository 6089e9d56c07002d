# SPDX-License-Identifier: Apache-2.0
"""A long ``inference.ModelInferRequest`` in whatever form, read within bounds and in steps.

What is small, inputs without their values among it, is left to the generated classes; values are noted where they are
and made once the model has taken the shapes. Fields that the message does not know are checked for their form and
skipped, as protobuf does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ovms_mp.front.kserve import calls
from ovms_mp.front.kserve._proto.kserve_pb2 import ModelInferRequest
from ovms_mp.front.kserve.infer_request import InferRequest
from ovms_mp.front.kserve.protobuf.assemble import Raw, tensors_of
from ovms_mp.front.kserve.protobuf.contents import FIELDS_BY_NUMBER
from ovms_mp.front.kserve.protobuf.heads import input_head, parameters_of, requested_output
from ovms_mp.front.kserve.protobuf.tags import CONTENTS_FIELD, INPUTS_FIELD, OUTPUTS_FIELD, RAW_FIELD
from ovms_mp.front.protobuf.parts import (
    FIELDS_A_STEP,
    LONGEST_PART_BYTES,
    append_part,
    parsed,
    refuse_too_many,
)
from ovms_mp.front.protobuf.records import BYTES, FieldReader
from ovms_mp.front.protobuf.value_fields import Values
from ovms_mp.front.tensors import NumberTensor, bytes_tensor
from ovms_mp.model.dtypes import DType

if TYPE_CHECKING:
    from collections.abc import Generator

    from ovms_mp.front.kserve.infer_request import InputHead
    from ovms_mp.front.protobuf.parts import Check
    from ovms_mp.front.tensors import GivenTensor

_LONGEST_REST_BYTES = 4 * LONGEST_PART_BYTES
"""Of all but inputs and their values: names, parameters, a thousand outputs."""
_KNOWN = {field.number for field in ModelInferRequest.DESCRIPTOR.fields}
_KNOWN_OF_INPUTS = {field.number for field in ModelInferRequest.InferInputTensor.DESCRIPTOR.fields}
_NO_VALUES = np.empty(0, np.float32)


def read_long(body: bytes | bytearray, check: Check | None = None) -> Generator[None, None, InferRequest]:
    """Read a request; yields every millisecond or so, and returns it.

    Args:
        body: The serialized message. The result may borrow from it.
        check: Asked before any values are read.

    Raises:
        MalformedPayload: The bytes are no such message or more of it than is read, or values do not fit their input.
        InputNameMismatch: An input is there twice.
        DtypeMismatch: An input has a datatype that there is not.
        OvmsError: What the check raises.
    """
    reader, view = FieldReader(body, ModelInferRequest.DESCRIPTOR.full_name), memoryview(body)
    rest = bytearray()
    heads: list[InputHead] = []
    contents: list[Values] = []
    raws: list[Raw] = []
    outputs = begin = 0
    for number, kind, start, stop in reader.fields(0, len(body)):
        if not reader.left % FIELDS_A_STEP:
            yield
        if number == RAW_FIELD and kind == BYTES:
            raws.append(Raw(view[start:stop]))
            refuse_too_many(len(raws), "entries in raw_input_contents")
        elif number == INPUTS_FIELD and kind == BYTES:
            head, values = yield from _read_input(reader, view, start, stop)
            heads.append(head)
            contents.append(values)
            refuse_too_many(len(heads), "inputs")
        elif number in _KNOWN:
            outputs += number == OUTPUTS_FIELD
            refuse_too_many(outputs, "requested outputs")
            append_part(rest, view[begin:stop], "the request without its inputs", _LONGEST_REST_BYTES)
        begin = stop
    small = parsed(ModelInferRequest, rest)
    request = InferRequest(
        small.model_name,
        small.model_version,
        small.id,
        {},
        tuple([requested_output(proto) for proto in small.outputs]),
        parameters_of(small.parameters),
    )
    if check is not None:
        given = {head.name: _without_values(head) for head in heads}
        check(request.model_name, calls.version_number(request.model_version), given)
    request.inputs = yield from tensors_of(heads, raws, contents)
    return request


def _read_input(
    reader: FieldReader, view: memoryview, at: int, end: int
) -> Generator[None, None, tuple[InputHead, Values]]:
    """Read an input; its values are only noted."""
    rest, values, begin = bytearray(), Values(view, FIELDS_BY_NUMBER), at
    for number, kind, start, stop in reader.fields(at, end):
        if not reader.left % FIELDS_A_STEP:
            yield
        if number == CONTENTS_FIELD and kind == BYTES:
            for inner in reader.fields(start, stop):
                if not reader.left % FIELDS_A_STEP:
                    yield
                yield from values.note(reader, *inner, stop)
        elif number in _KNOWN_OF_INPUTS:
            append_part(rest, view[begin:stop], "an input without its values")
        begin = stop
    head = input_head(parsed(ModelInferRequest.InferInputTensor, rest))
    yield from values.count(head.name)
    return head, values


def _without_values(head: InputHead) -> GivenTensor:
    if head.dtype is DType.BYTES:
        return bytes_tensor(head.shape, None)
    return NumberTensor(head.dtype, head.shape, _NO_VALUES)
