# SPDX-License-Identifier: Apache-2.0
"""Bytes of a ``tensorflow.serving.PredictRequest`` to a :class:`PredictCall`; tensors are not copied.

Two readers, one truth. The scanner knows the plain form in which protobuf libraries write a request: known
fields in one piece each, map entries as key then value. Values that it keeps are slices of the request. At
anything else it gives up without an opinion, and the generated protobuf classes read the same bytes from the
start. So the classes alone decide what is malformed and word every error, and the scanner only has to be
right about the bytes that it accepts; tests hold the two together on valid, odd and broken messages. Only where a
request is long the classes would cost too much, and :mod:`~ovms_mp.front.tfs.protobuf.decode_long` does it in steps.

PERF: [1, 10] floats in 1.9 us and 602 kB in 3.0 us; the generated classes alone take 5.1 us and 37 us, and
4.7 ms where the 602 kB are in ``float_val`` (CPython 3.11, protobuf 7.36, AMD EPYC, 2 cores).

Wire format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from google.protobuf.message import DecodeError

from ovms_mp.errors import OvmsError
from ovms_mp.front.protobuf.parts import (
    LONGEST_PARSED_BYTES,
    LONGEST_PART_BYTES,
    MOST_NAMES,
    parsed_whole,
)
from ovms_mp.front.protobuf.plain import LONGEST_PLAIN_PART_BYTES, NotPlain, Remembered, long_size
from ovms_mp.front.protobuf.turns import at_one_go, in_turns
from ovms_mp.front.tensors import NumberTensor, RawTensor
from ovms_mp.front.tfs._proto.tensorflow_framework_pb2 import TensorProto, TensorShapeProto
from ovms_mp.front.tfs._proto.tensorflow_serving_pb2 import ModelSpec, PredictRequest
from ovms_mp.front.tfs.protobuf.decode_long import read_long
from ovms_mp.front.tfs.protobuf.tags import (
    CONTENT,
    DOUBLES,
    DTYPE,
    ENTRY_KEY,
    ENTRY_VALUE,
    FLOATS,
    INPUTS,
    MODEL_SPEC,
    OUTPUT_FILTER,
    PACKED,
    SHAPE,
)
from ovms_mp.front.tfs.protobuf.values import given_tensor, static_shape
from ovms_mp.model.dtypes import NUMERIC_DTYPES, DType, element_count

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import TypeAlias

    from ovms_mp.front.protobuf.parts import Check
    from ovms_mp.front.tensors import GivenTensor
    from ovms_mp.model.dtypes import AnyArray

    Spec: TypeAlias = tuple[str, int | None, str, str]
    """Model name, version, version label, signature name."""
    Shape: TypeAlias = tuple[tuple[int, ...], int]
    """Dimensions and number of elements."""


@dataclass(slots=True)
class PredictCall:
    """A predict request, not yet held against any model.

    Attributes:
        model_name: Empty where the request has none.
        version: As sent, so possibly negative; None where the client leaves the choice to the server (unset
            or 0).
        version_label: Empty where unset; excludes ``version``.
        signature_name: Empty where unset.
        inputs: Tensors by the client's names for them. Their values may be slices of the request's bytes.
        output_filter: Names of the wanted outputs, as sent; none means all.
    """

    model_name: str
    version: int | None
    version_label: str
    signature_name: str
    inputs: dict[str, GivenTensor]
    output_filter: tuple[str, ...]


def decode_predict(body: bytes) -> PredictCall:
    """Read a predict request at one go.

    Args:
        body: The serialized message. The result borrows from it and keeps it alive.

    Raises:
        MalformedPayload: The bytes are no such message, or a tensor's values do not fit its shape and dtype.
        DtypeMismatch: An input has a dtype that no numeric tensor has.
    """
    call = scan_predict(body)
    if call is None and len(body) <= LONGEST_PARSED_BYTES:
        return parse_predict(body)
    return at_one_go(_long_call(body, None)) if call is None else call


async def decode_predict_in_turns(body: bytes | bytearray, check: Check) -> PredictCall:
    """The same for what :func:`scan_predict` has left; lets other tasks have their turn meanwhile, if it takes long.

    Args:
        body: The serialized message. The result borrows from it and keeps it alive.
        check: Asked before values of a long request are made; raises if no model takes them.

    Raises:
        OvmsError: As of :func:`decode_predict`, or of the check.
    """
    if len(body) <= LONGEST_PARSED_BYTES:
        return parse_predict(bytes(body))
    return await in_turns(_long_call(body, check))


def scan_predict(body: bytes) -> PredictCall | None:
    """Read a predict request of the plain form; None for any other, and for one that is wrong."""
    try:
        return _scan_request(body)
    except (NotPlain, IndexError, UnicodeDecodeError, DecodeError, OvmsError):
        return None


def _long_call(body: bytes | bytearray, check: Check | None) -> Generator[None, None, PredictCall]:
    request = yield from read_long(body, check)
    return PredictCall(*_spec_of(request.spec), request.inputs, request.output_filter)


def parse_predict(body: bytes) -> PredictCall:
    """Read a short predict request with the generated classes alone; the tests' and the scanner's authority.

    Raises:
        MalformedPayload: See :func:`decode_predict`.
        DtypeMismatch: See :func:`decode_predict`.
    """
    request = parsed_whole(PredictRequest, body)
    inputs: dict[str, GivenTensor] = {
        name: given_tensor(name, proto) for name, proto in request.inputs.items()
    }
    return PredictCall(*_spec_of(request.model_spec), inputs, tuple(request.output_filter))


_IN_PLACE = {DType.FP32.tf_number: FLOATS, DType.FP64.tf_number: DOUBLES}
"""Packed fields that hold a dtype's elements exactly as ``tensor_content`` does."""

_DTYPES: list[DType | None] = [None] * 128
for _dtype in NUMERIC_DTYPES:
    _DTYPES[_dtype.tf_number] = _dtype


def _scan_request(body: bytes) -> PredictCall:
    """Read a plain request. Raises what :func:`decode_predict` catches.

    NOTE: Below this level, a length that leads out of its message is not noticed where it is read, but where
    the message's end is missed: every scan ends exactly at its end or gives up.
    """
    view = memoryview(body)
    spec: Spec | None = None
    inputs: dict[str, GivenTensor] = {}
    names: list[str] = []
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
        if tag == INPUTS:
            _scan_input(body, view, at, stop, inputs)
        elif tag == MODEL_SPEC and spec is None and size <= LONGEST_PLAIN_PART_BYTES:
            spec = _specs[body[at:stop]]
        elif tag == OUTPUT_FILTER and size <= LONGEST_PART_BYTES:
            names.append(body[at:stop].decode())
        else:
            raise NotPlain
        at = stop
    name, version, label, signature = spec or _NO_SPEC
    return PredictCall(name, version, label, signature, inputs, tuple(names))


def _scan_input(body: bytes, view: memoryview, at: int, end: int, inputs: dict[str, GivenTensor]) -> None:
    """Read one entry of the map of inputs: the key, then the tensor that fills the rest.

    The last entry of a key wins, as in protobuf's maps.
    """
    size = body[at + 1]
    stop = at + 2 + size
    name = body[at + 2 : stop].decode()
    if body[at] != ENTRY_KEY or size > 127 or body[stop] != ENTRY_VALUE:
        raise NotPlain
    size = body[stop + 1]
    at = stop + 2
    if size > 127:
        size, at = long_size(body, at - 1)
    if at + size != end:
        raise NotPlain
    inputs[name] = _scan_tensor(body, view, at, end, name)


def _scan_tensor(body: bytes, view: memoryview, at: int, end: int, name: str) -> GivenTensor:
    """Read a tensor whose values are in at most one field."""
    first = at
    number = holder = values_at = nbytes = 0
    shape: Shape | None = None
    while at < end:
        tag, size = body[at], body[at + 1]
        at += 2
        if tag == DTYPE:
            number = size
            continue
        if size > 127:
            size, at = long_size(body, at - 1)
        if tag == SHAPE and shape is None and size <= LONGEST_PLAIN_PART_BYTES:
            shape = _shapes[body[at : at + size]]
        elif not holder and (tag == CONTENT or tag in PACKED):
            holder, values_at, nbytes = tag, at, size
        else:
            raise NotPlain
        at += size
    dtype = _DTYPES[number]
    if at != end or dtype is None:
        raise NotPlain
    dimensions, count = shape or _SCALAR
    if holder == CONTENT or holder == _IN_PLACE.get(number):
        if nbytes == count * dtype.itemsize:
            return RawTensor(dtype, dimensions, view[values_at : values_at + nbytes])
        return NumberTensor(dtype, dimensions, _few_values(body, dtype, count, holder, values_at, nbytes))
    if len(body) > LONGEST_PARSED_BYTES:
        raise NotPlain
    return given_tensor(name, TensorProto.FromString(body[first:end]))


def _few_values(body: bytes, dtype: DType, count: int, holder: int, at: int, nbytes: int) -> AnyArray:
    """Take the compact form in place: packed floats, fewer than the shape has elements."""
    if holder == CONTENT or nbytes > count * dtype.itemsize or nbytes % dtype.itemsize:
        raise NotPlain
    return np.frombuffer(body, dtype.numpy, nbytes // dtype.itemsize, at)


def _spec_of(proto: ModelSpec) -> Spec:
    return proto.name, proto.version.value or None, proto.version_label, proto.signature_name


def _shape_of(part: bytes) -> Shape:
    dimensions = static_shape("", TensorShapeProto.FromString(part))
    return dimensions, element_count(dimensions)


# A model spec and a shape are read once by the generated classes and then known by their bytes, which are few.
_specs = Remembered(lambda part: _spec_of(ModelSpec.FromString(part)))
_shapes = Remembered(_shape_of)
_NO_SPEC = _spec_of(ModelSpec())
_SCALAR: Shape = ((), 1)
