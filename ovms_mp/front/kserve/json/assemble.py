# SPDX-License-Identifier: Apache-2.0
"""From the JSON of an inference request and the octets behind it to the request: where each input's elements are.

An input has its elements in exactly one place: as ``data``, behind the JSON (``binary_data_size``), or in a region of
the client's shared memory. Binary tensors are slices of the body, in the order of the inputs.

Format: Triton's binary tensor data extension.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ovms_mp.errors import InputNameMismatch, MalformedPayload
from ovms_mp.front.convert import write_values
from ovms_mp.front.json.reader import described, quoted
from ovms_mp.front.kserve.infer_request import REGION, InferRequest
from ovms_mp.front.kserve.json.binary import Part
from ovms_mp.front.kserve.regions.parameters import region_input
from ovms_mp.front.strings import Strings, read_length_prefixed
from ovms_mp.front.tensors import BytesTensor, NumberTensor, PlacedTensor, RawTensor, bytes_tensor
from ovms_mp.model.dtypes import DType, element_count
from ovms_mp.model.tensors import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from ovms_mp.front.kserve.json.binary import Binary
    from ovms_mp.front.kserve.json.request import JsonInput, JsonRequest
    from ovms_mp.front.tensors import GivenTensor
    from ovms_mp.model.dtypes import AnyArray

BINARY_SIZE, BINARY, ALL_BINARY = "binary_data_size", "binary_data", "binary_data_output"
HEADER = "Inference-Header-Content-Length"


def header_length(text: str, body_bytes: int) -> int:
    """How long the JSON in front of binary tensors is, as the header says.

    Raises:
        MalformedPayload: It is no number, or longer than the body.
    """
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise MalformedPayload(
            f"{HEADER} header is invalid and couldn't be parsed: {quoted(text)} is no number of bytes"
        )
    if int(text) > body_bytes:
        raise MalformedPayload(
            f"{HEADER} header exceeds actual payload length: it is {int(text)}, and the body has {body_bytes} bytes"
        )
    return int(text)


def assemble(
    parsed: JsonRequest,
    binary: Binary | None,
    specs: Sequence[TensorSpec],
    model_name: str,
    model_version: str,
) -> Generator[None, None, InferRequest]:
    """Make the request of what was read. Yields now and then where strings are many.

    Args:
        parsed: The JSON.
        binary: What is behind it; None where the whole body is JSON.
        specs: The model's inputs.
        model_name: From the path.
        model_version: From the path.

    Raises:
        MalformedPayload: An input has no elements, or has them twice, or not as many as it says.
        DtypeMismatch: A number is none that the datatype can hold.
    """
    wanted = {spec.name: spec.dtype for spec in specs}
    given: dict[str, GivenTensor] = {}
    for item in parsed.inputs:
        if item.name in given:
            raise InputNameMismatch(f"input {quoted(item.name)} is there twice")
        if not item.parameters:
            given[item.name] = _of_data(item, wanted)
        elif _check_places(item):
            given[item.name] = yield from _of_part(item, _cut(item, binary))
        else:
            region = region_input(item.name, item.dtype, item.shape, item.parameters)
            given[item.name] = _of_data(item, wanted) if region is None else region
    if binary is not None and binary.left_bytes:
        raise MalformedPayload(
            f"{binary.left_bytes} bytes of the body belong to no input: the JSON is as long as {HEADER} says, and "
            f"behind it there must be as much as all {BINARY_SIZE} say together"
        )
    return InferRequest(model_name, model_version, parsed.id, given, parsed.outputs, parsed.parameters)


def raw_request(body: Part, specs: Sequence[TensorSpec], model_name: str, model_version: str) -> InferRequest:
    """Make the request of a body that is nothing but the elements of a model's one input.

    All outputs are answered in binary form then.

    Raises:
        MalformedPayload: The model has several inputs, or the body's length does not say the shape.
    """
    if len(specs) != 1:
        raise MalformedPayload(
            f"{HEADER}: 0 means that the body is the model's only input; this model has {len(specs)}: "
            f"{[spec.name for spec in specs]}"
        )
    (spec,) = specs
    if spec.dtype is DType.BYTES:
        tensor: GivenTensor = bytes_tensor((1,) * len(spec.dims), Strings.of([body.octets]))
    else:
        tensor = _of_memory(spec.dtype, _raw_shape(spec, len(body.octets)), body)
    return InferRequest(model_name, model_version, "", {spec.name: tensor}, (), {ALL_BINARY: True})


def _raw_shape(spec: TensorSpec, nbytes: int) -> tuple[int, ...]:
    free = spec.dims.count(-1)
    known = element_count(size for size in spec.dims if size >= 0) * spec.dtype.itemsize
    if free > 1:
        raise MalformedPayload(
            f"{HEADER}: 0 leaves the shape to the server, but input {spec.name!r} has the shape {spec.shape_text()}, "
            f"in which {free} dimensions may vary; send the shape in JSON"
        )
    if not free and nbytes == known:
        return spec.dims
    if free and known and not nbytes % known:
        return tuple(nbytes // known if size < 0 else size for size in spec.dims)
    raise MalformedPayload(
        f"the body has {nbytes} bytes, and input {spec.name!r} ({spec.dtype.name}) of the shape {spec.shape_text()} "
        f"needs {'a multiple of ' if free else ''}{known}"
    )


def _of_data(item: JsonInput, wanted: Mapping[str, DType]) -> GivenTensor:
    """The tensor whose elements are in the JSON."""
    data = item.data
    if isinstance(data, NumberTensor):
        if data.shape != item.shape:
            _check_nesting(item, data.shape, len(data.values))
        if item.dtype is data.dtype or wanted.get(item.name) is item.dtype:
            return NumberTensor(data.dtype, item.shape, data.values)
        return NumberTensor(item.dtype, item.shape, _as_declared(item, data))
    if isinstance(data, BytesTensor):
        if data.shape != item.shape:
            _check_nesting(item, data.shape, len(data.strings or ()))
        return bytes_tensor(item.shape, data.strings)
    raise MalformedPayload(
        f"Could not parse input content. input {quoted(item.name)} has no elements: it must have exactly one of "
        f"'data', and the parameters {BINARY_SIZE!r} and {REGION!r}"
    )


def _check_nesting(item: JsonInput, found: tuple[int, ...], count: int) -> None:
    """Elements may be nested as the shape says, with or without dimensions of 1, or flat."""
    expected = element_count(item.shape)
    if count != expected:
        raise MalformedPayload(
            f"Could not parse input content. input {quoted(item.name)}: data has {count} elements, and the shape "
            f"{list(item.shape)} has {expected}"
        )
    if len(found) > 1 and [size for size in found if size != 1] not in (
        [size for size in item.shape if size != 1],
        [expected],
    ):
        raise MalformedPayload(
            f"Could not parse input content. input {quoted(item.name)}: data is nested as {list(found)}, but the shape "
            f"is {list(item.shape)}"
        )


def _as_declared(item: JsonInput, data: NumberTensor) -> AnyArray:
    """Numbers as the datatype holds them, where the model's is another one.

    What is sent as FP16 is rounded to that before it becomes FP32, as in binary form.
    """
    place = bytearray(item.dtype.nbytes(item.shape))
    write_values(data.values, data.dtype, TensorSpec.of(item.name, item.dtype, ()), memoryview(place))
    return np.frombuffer(place, item.dtype.numpy)


def _check_places(item: JsonInput) -> bool:
    """Whether an input with parameters has its elements behind the JSON.

    Raises:
        MalformedPayload: It has them in two places.
    """
    is_binary = BINARY_SIZE in item.parameters
    if (item.data is not None) + is_binary + (REGION in item.parameters) > 1:
        raise MalformedPayload(
            f"Request contains values both in binary data and in content value: input {quoted(item.name)} must have "
            f"exactly one of 'data', and the parameters {BINARY_SIZE!r} and {REGION!r}"
        )
    return is_binary


def _cut(item: JsonInput, binary: Binary | None) -> Part:
    """The octets of an input."""
    size = item.parameters[BINARY_SIZE]
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise MalformedPayload(
            f"{BINARY_SIZE} parameter is invalid and cannot be parsed: that of input {quoted(item.name)} is "
            f"{described(size)}, expected a whole number of bytes"
        )
    if not size:
        return Part(memoryview(b""))
    if binary is None:
        raise MalformedPayload(
            f"input {quoted(item.name)} has the parameter {BINARY_SIZE!r}, but without the header {HEADER} the "
            f"whole body is JSON"
        )
    if size > binary.left_bytes:
        raise MalformedPayload(
            f"Received buffer size is smaller than {BINARY_SIZE} parameter indicates: input {quoted(item.name)} takes "
            f"{size} bytes, and {binary.left_bytes} are left of the body"
        )
    return binary.cut(size)


def _of_part(item: JsonInput, part: Part) -> Generator[None, None, GivenTensor]:
    """The tensor whose elements are behind the JSON."""
    count, octets = element_count(item.shape), part.octets
    if item.dtype is DType.BYTES:
        what = f"Invalid input buffer - input {quoted(item.name)}"
        return bytes_tensor(item.shape, (yield from read_length_prefixed(octets, count, what)))
    nbytes = count * item.dtype.itemsize
    if len(octets) != nbytes:
        raise MalformedPayload(
            f"Invalid content size of tensor proto - Expected: {nbytes} bytes; Actual: {len(octets)} bytes; input "
            f"name: {quoted(item.name)} (shape {list(item.shape)} of {item.dtype.name}, {BINARY_SIZE} {len(octets)})"
        )
    return _of_memory(item.dtype, item.shape, part)


def _of_memory(dtype: DType, shape: tuple[int, ...], part: Part) -> RawTensor:
    if part.lease is not None:
        return PlacedTensor(dtype, shape, part.octets, part.lease)
    return RawTensor(dtype, shape, part.octets)
