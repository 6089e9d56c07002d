# SPDX-License-Identifier: Apache-2.0
"""Bytes of an ``inference.ModelInferRequest`` to an :class:`InferRequest`; tensors are not copied.

As for TensorFlow Serving there are two readers and one truth. The scanner knows the plain form in which client
libraries write a request with raw values: known fields in one piece each. At anything else it gives up without an
opinion, and the generated classes read the same bytes from the start; they alone decide what is malformed. A long
request costs too much that way, and :mod:`~ovms_mp.front.kserve.protobuf.decode_long` does it in steps.

PERF: [1, 10] floats in 1.9 us and 602 kB in 2.2 us, where TensorFlow Serving's take 1.3 and 2.1; the generated classes
alone take 9 and 29 us, and contents of 602 kB in steps 19 us (CPython 3.11, protobuf 7.36, AMD EPYC, 2 cores).
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from ovms_mp.errors import MalformedPayload, OvmsError
from ovms_mp.front.kserve._proto.kserve_pb2 import ModelInferRequest
from ovms_mp.front.kserve.infer_request import NO_PARAMETERS, InferRequest
from ovms_mp.front.kserve.protobuf.assemble import Raw, raw_tensor, tensors_of
from ovms_mp.front.kserve.protobuf.contents import ParsedContents
from ovms_mp.front.kserve.protobuf.decode_long import read_long
from ovms_mp.front.kserve.protobuf.heads import input_head, parameters_of, requested_output
from ovms_mp.front.kserve.protobuf.tags import (
    ID,
    ID_FIELD,
    INPUTS,
    MODEL_NAME,
    MODEL_VERSION,
    OUTPUTS,
    PARAMETERS,
    RAW,
)
from ovms_mp.front.kserve.regions.parameters import region_input
from ovms_mp.front.protobuf.parts import (
    FIELDS_A_STEP,
    LONGEST_PARSED_BYTES,
    LONGEST_PART_BYTES,
    MOST_NAMES,
    parsed_whole,
)
from ovms_mp.front.protobuf.plain import LONGEST_PLAIN_PART_BYTES, NotPlain, Remembered, long_size
from ovms_mp.front.protobuf.records import BYTES, FieldReader
from ovms_mp.front.protobuf.turns import at_one_go, in_turns
from ovms_mp.front.strings import STEP_ELEMENTS
from ovms_mp.front.tensors import RawTensor
from ovms_mp.model.dtypes import DType, element_count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.front.kserve.infer_request import InputHead, Parameter, Parameters, RequestedOutput
    from ovms_mp.front.protobuf.parts import Check
    from ovms_mp.front.tensors import GivenTensor


def decode_infer(body: bytes) -> InferRequest:
    """Read an inference request at one go.

    Args:
        body: The serialized message. The result borrows from it and keeps it alive.

    Raises:
        MalformedPayload: The bytes are no such message, or values do not fit their input.
        InputNameMismatch: An input is there twice.
        DtypeMismatch: An input has a datatype that there is not.
    """
    request = scan_infer(body)
    if request is None and len(body) <= LONGEST_PARSED_BYTES:
        return parse_infer(body)
    return at_one_go(read_long(body)) if request is None else request


async def decode_infer_in_turns(body: bytes | bytearray, check: Check) -> InferRequest:
    """The same for what :func:`scan_infer` has left; lets other tasks have their turn meanwhile, if it takes long.

    Args:
        body: The serialized message. The result borrows from it and keeps it alive.
        check: Asked before values of a long request are made; raises if no model takes them.

    Raises:
        OvmsError: As of :func:`decode_infer`, or of the check.
    """
    if len(body) <= LONGEST_PARSED_BYTES:
        return parse_infer(body)
    return await in_turns(read_long(body, check))


def parse_infer(body: bytes | bytearray) -> InferRequest:
    """Read a short request with the generated classes alone; the tests' and the scanner's authority.

    Raises:
        OvmsError: See :func:`decode_infer`.
    """
    proto = parsed_whole(ModelInferRequest, body)
    heads = [input_head(entry) for entry in proto.inputs]
    contents = [ParsedContents(entry.contents) for entry in proto.inputs]
    raws = [Raw(memoryview(entry)) for entry in proto.raw_input_contents]
    outputs = tuple([requested_output(entry) for entry in proto.outputs])
    parameters = parameters_of(proto.parameters)
    inputs = at_one_go(tensors_of(heads, raws, contents))
    return InferRequest(proto.model_name, proto.model_version, proto.id, inputs, outputs, parameters)


def scan_infer(body: bytes) -> InferRequest | None:
    """Read a request of the plain form; None for any other, and for one that is wrong."""
    try:
        found = _scan(body)
        return found.request(found.raws)
    except (NotPlain, IndexError, UnicodeDecodeError, DecodeError, OvmsError):
        return None


def scan_with(body: bytes, raws: Sequence[Raw]) -> InferRequest | None:
    """The same for a request whose ``raw_input_contents`` are elsewhere."""
    try:
        found = _scan(body)
        return found.request(raws) if not found.raws else None
    except (NotPlain, IndexError, UnicodeDecodeError, DecodeError, OvmsError):
        return None


def refused_id(body: bytes) -> str:
    """The id of a message that no reader took, for the answer that says so; empty where it cannot be told."""
    found = ""
    try:
        fields = FieldReader(body, ModelInferRequest.DESCRIPTOR.full_name).fields(0, len(body))
        for number, kind, start, stop in islice(fields, FIELDS_A_STEP):
            if number == ID_FIELD and kind == BYTES and stop - start <= LONGEST_PART_BYTES:
                found = body[start:stop].decode()
    except (MalformedPayload, UnicodeDecodeError):
        return ""
    return found


_TEXTS = frozenset((MODEL_NAME, MODEL_VERSION, ID))


class _Found:
    """The fields of a request of the plain form. PERF: not a dataclass, whose default factories cost 0.4 us."""

    __slots__ = ("heads", "outputs", "parameters", "raws", "texts")

    def __init__(self) -> None:
        self.texts: dict[int, str] = {}
        self.parameters: Parameters = NO_PARAMETERS
        self.heads: list[InputHead] = []
        self.outputs: list[RequestedOutput] = []
        self.raws: list[Raw] = []

    def request(self, raws: Sequence[Raw]) -> InferRequest:
        """The request with these values; raises what is caught above."""
        inputs: dict[str, GivenTensor] = {}
        used = 0
        for head in self.heads:
            if head.parameters:
                region = region_input(head.name, head.dtype, head.shape, head.parameters)
                if region is not None:
                    inputs[head.name] = region
                    continue
            # A list that is too short raises, too.
            inputs[head.name] = _tensor(head, raws[used])
            used += 1
        if used != len(raws) or len(inputs) != len(self.heads):
            raise NotPlain
        text = self.texts.get
        return InferRequest(
            text(MODEL_NAME, ""),
            text(MODEL_VERSION, ""),
            text(ID, ""),
            inputs,
            self.outputs,
            self.parameters,
        )


def _tensor(head: InputHead, raw: Raw) -> GivenTensor:
    if raw.lease is None and len(raw.octets) == head.nbytes and head.dtype is not DType.BYTES:
        return RawTensor(head.dtype, head.shape, raw.octets)  # PERF: the common case, without a generator.
    if head.dtype is DType.BYTES and element_count(head.shape) > STEP_ELEMENTS:
        raise NotPlain
    return at_one_go(raw_tensor(head, raw))


def _scan(body: bytes) -> _Found:
    """Find a plain request's fields. Raises what :func:`scan_infer` catches."""
    view = memoryview(body)
    found = _Found()
    at, end, fields = 0, len(body), 0
    while at < end:
        tag, size = body[at], body[at + 1]
        at += 2
        if size > 127:
            size, at = long_size(body, at - 1)
        stop = at + size
        fields += 1
        if stop > end or fields > MOST_NAMES:
            raise NotPlain
        if tag == RAW:
            found.raws.append(Raw(view[at:stop]))
        elif tag == INPUTS and size <= LONGEST_PLAIN_PART_BYTES:
            found.heads.append(_heads[body[at:stop]])
        elif tag == OUTPUTS and size <= LONGEST_PLAIN_PART_BYTES:
            found.outputs.append(_outputs[body[at:stop]])
        elif size > LONGEST_PART_BYTES:
            raise NotPlain
        elif tag in _TEXTS:
            found.texts[tag] = body[at:stop].decode()
        elif tag == PARAMETERS and size <= LONGEST_PLAIN_PART_BYTES:
            found.parameters = {**found.parameters, **_parameters(body[at:stop])}
        else:
            raise NotPlain
        at = stop
    return found


def _head_of(part: bytes) -> InputHead:
    proto = ModelInferRequest.InferInputTensor.FromString(part)
    if proto.HasField("contents"):
        raise NotPlain
    return input_head(proto)


def _output_of(part: bytes) -> RequestedOutput:
    return requested_output(ModelInferRequest.InferRequestedOutputTensor.FromString(part))


def _parameters(part: bytes) -> dict[str, Parameter]:
    """An entry of the map of parameters. Only within its map protobuf reads it as it reads entries."""
    proto = ModelInferRequest.FromString(bytes((PARAMETERS, len(part))) + part)
    return dict(parameters_of(proto.parameters))


# Inputs and outputs are read once by the generated classes and then known by their bytes, which are few.
_heads = Remembered(_head_of)
_outputs = Remembered(_output_of)
