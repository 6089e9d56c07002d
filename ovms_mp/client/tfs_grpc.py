# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Serving's API over gRPC."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ovms_mp.client import grpc_framing
from ovms_mp.client.calls import ModelMetadata, ModelState, Outputs, TensorMetadata
from ovms_mp.client.datatypes import (
    BYTES,
    array_of,
    datatype_of_tf,
    numpy_dtype,
    octets_of,
    row_of,
    shaped,
    strings_array,
    strings_of,
    whole_numbers,
)
from ovms_mp.client.errors import Unsupported, unreadable
from ovms_mp.client.exchange import Operation, Reply, Request
from ovms_mp.client.fields import (
    FIXED32,
    FIXED64,
    LENGTH,
    VARINT,
    View,
    fields,
    number_field,
    octets_field,
    signed,
    tag,
    text,
    text_field,
    varint,
)
from ovms_mp.codes import Code

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ovms_mp.client.calls import Predict
    from ovms_mp.client.datatypes import AnyArray
    from ovms_mp.client.exchange import Octets

_PREDICTION, _MODEL = "/tensorflow.serving.PredictionService/", "/tensorflow.serving.ModelService/"
_AVAILABLE = 30
_STRING = 7
_CONTENT, _STRING_VAL = 4, 8
_TYPED = {5: FIXED32, 6: FIXED64, 7: VARINT, 10: VARINT, 11: VARINT, 13: VARINT, 16: VARINT, 17: VARINT}
"""Fields of TensorProto with values of numbers, and how protobuf writes one."""
_FLOAT8 = 18
_MOST_ELEMENTS = 1 << 30
"""A short message can stand for many equal ones."""
_METADATA = "signature_def"


class TfsGrpc(grpc_framing.GrpcDialect):
    """See :class:`~ovms_mp.client.calls.Dialect`."""

    def predict(self, call: Predict) -> Operation[Outputs]:
        """PredictionService.Predict."""
        pieces: list[Octets] = [octets_field(1, _model_spec(call.model, call.version))]
        for name, array in call.inputs.items():
            tensor = tensor_message(array)
            key = octets_field(1, name.encode())
            size = sum(map(len, tensor))
            value_head = tag(2) + varint(size)
            pieces.append(tag(2) + varint(len(key) + len(value_head) + size) + key + value_head)
            pieces += tensor
        pieces.extend(octets_field(3, name.encode()) for name in call.outputs)
        return Operation(
            grpc_framing.request(f"{_PREDICTION}Predict", pieces, call.request_id), _read_outputs
        )

    def metadata(self, model: str, version: int) -> Operation[ModelMetadata]:
        """PredictionService.GetModelMetadata."""
        message = octets_field(1, _model_spec(model, version)) + octets_field(2, _METADATA.encode())
        return Operation(_asked(f"{_PREDICTION}GetModelMetadata", message), _read_metadata)

    def models(self) -> Operation[list[ModelState]]:
        """There is no such call."""
        raise Unsupported(
            Code.UNIMPLEMENTED, "TensorFlow Serving's API over gRPC lists no models; use KServe's, or REST"
        )

    def model_ready(self, model: str, version: int) -> Operation[bool]:
        """ModelService.GetModelStatus."""
        message = octets_field(1, _model_spec(model, version))
        return Operation(_asked(f"{_MODEL}GetModelStatus", message), _read_status)

    def ready(self) -> Operation[bool]:
        """GRPC's standard health service, which this API has none of."""
        return Operation(_asked("/grpc.health.v1.Health/Check", b""), _read_health)

    def live(self) -> Operation[bool]:
        """Whether it answers at all."""
        return Operation(_asked("/grpc.health.v1.Health/Check", b""), _read_any)


def tensor_message(array: AnyArray) -> list[Octets]:
    """A TensorProto, in pieces; its elements in ``tensor_content``, strings in ``string_val``.

    Args:
        array: As :func:`~ovms_mp.client.datatypes.as_array` gives it.
    """
    dims = b"".join(octets_field(2, number_field(1, size) if size else b"") for size in array.shape)
    number = row_of(array.dtype)[1]
    head = number_field(1, number) + octets_field(2, dims)
    if number == _STRING:
        return [head, *(octets_field(_STRING_VAL, string) for string in strings_of(array))]
    octets = octets_of(array)
    return [head + tag(_CONTENT) + varint(len(octets)), octets]


def tensor_array(message: View) -> AnyArray:
    """The array of a TensorProto; a view of its octets where they are all there.

    Raises:
        Failed: It is no tensor of numbers, booleans or strings.
    """
    shape: list[int] = []
    strings: list[bytes] = []
    typed: list[tuple[int, int, View]] = []
    content: View | None = None
    number = 0
    for field, kind, start, end in fields(message):
        if field in _TYPED or field == _FLOAT8:
            typed.append((field, kind, varint(start) if kind == VARINT else message[start:end]))
        elif field == 1:
            number = start
        elif field == 2:
            shape = _dims(message[start:end])
        elif field == _CONTENT:
            content = message[start:end]
        elif field == _STRING_VAL:
            strings.append(bytes(message[start:end]))
    name = datatype_of_tf(number)
    count = _count(shape)
    if content and name != BYTES:
        return array_of(content, name, shape)
    if name == BYTES:
        missing = count - len(strings) if strings else 0
        return strings_array(strings + strings[-1:] * missing, shape)
    return shaped(_filled(_typed_values(typed, name), count), shape, name)


def _count(shape: list[int]) -> int:
    """How many elements a tensor has."""
    count = math.prod(shape)
    if any(size < 0 for size in shape) or count > _MOST_ELEMENTS:
        raise unreadable(f"a tensor of the shape {shape}")
    return count


def _typed_values(typed: list[tuple[int, int, View]], name: str) -> AnyArray:
    """The values of the field of a tensor's type."""
    dtype = numpy_dtype(name)
    wide = np.dtype(np.float32) if dtype is None else dtype
    pieces = []
    for field, _, octets in typed:
        if field == _FLOAT8:
            pieces.append(np.frombuffer(octets, wide))
        elif _TYPED[field] != VARINT:
            pieces.append(
                np.frombuffer(octets, np.float32 if _TYPED[field] == FIXED32 else np.float64).astype(wide)
            )
        elif field == 13:  # The bits of floats of 16.
            halves = whole_numbers(octets, np.dtype(np.uint16))
            pieces.append(array_of(halves.tobytes(), name, (len(halves),)))
        else:
            pieces.append(whole_numbers(octets, wide))
    return np.concatenate(pieces) if pieces else np.zeros(0, wide)


def _filled(values: AnyArray, count: int) -> AnyArray:
    """TensorFlow's compact form: the last value stands for all that are not there; none at all for zeros."""
    if len(values) >= count:
        return values
    filled = np.zeros(count, values.dtype)
    filled[: len(values)] = values
    if len(values):
        filled[len(values) :] = values[-1]
    return filled


def _dims(message: View) -> list[int]:
    shape = []
    for number, kind, start, end in fields(message):
        if number == 2 and kind == LENGTH:
            sizes = [
                value for field, sort, value, _ in fields(message[start:end]) if field == 1 and sort == VARINT
            ]
            shape.append(signed(sizes[-1]) if sizes else 0)
    return shape


def _asked(method: str, message: bytes) -> Request:
    return grpc_framing.request(method, (message,))


def _model_spec(model: str, version: int) -> bytes:
    return text_field(1, model) + (octets_field(2, number_field(1, version)) if version else b"")


def _entries(message: View, number: int) -> Mapping[str, View]:
    """A map of messages by text."""
    found: dict[str, View] = {}
    for field, kind, start, end in fields(message):
        if field == number and kind == LENGTH:
            entry = message[start:end]
            parts = {key: (first, last) for key, sort, first, last in fields(entry) if sort == LENGTH}
            name = text(entry, *parts[1]) if 1 in parts else ""
            found[name] = entry[slice(*parts[2])] if 2 in parts else b""
    return found


def _read_outputs(reply: Reply) -> Outputs:
    entries = _entries(grpc_framing.message_of(reply), 1)
    return {name: tensor_array(message) for name, message in entries.items()}


def _read_metadata(reply: Reply) -> ModelMetadata:
    message = grpc_framing.message_of(reply)
    name, version = "", ""
    for number, kind, start, end in fields(message):
        if number == 1 and kind == LENGTH:
            name, version = _named(message[start:end])
    packed = _entries(message, 2).get(_METADATA, b"")  # An Any of a SignatureDefMap.
    values = [
        packed[start:end] for number, kind, start, end in fields(packed) if number == 2 and kind == LENGTH
    ]
    signatures = _entries(values[0], 1) if values else {}
    signature = signatures.get("serving_default", next(iter(signatures.values()), b""))
    versions = (version,) if version else ()
    return ModelMetadata(name, versions, "", _tensors(signature, 1), _tensors(signature, 2))


def _named(spec: View) -> tuple[str, str]:
    name = version = ""
    for number, kind, start, end in fields(spec):
        if number == 1 and kind == LENGTH:
            name = text(spec, start, end)
        elif number == 2 and kind == LENGTH:
            version = "".join(str(value) for field, _, value, _ in fields(spec[start:end]) if field == 1)
    return name, version


def _tensors(signature: View, number: int) -> tuple[TensorMetadata, ...]:
    found = []
    for name, message in _entries(signature, number).items():
        dtype = 0
        shape: tuple[int, ...] = ()
        for field, kind, start, end in fields(message):
            if field == 2 and kind == VARINT:
                dtype = start
            elif field == 3 and kind == LENGTH:
                shape = tuple(_dims(message[start:end]))
        found.append(TensorMetadata(name, datatype_of_tf(dtype), shape))
    return tuple(found)


def _read_status(reply: Reply) -> bool:
    message = grpc_framing.message_of(reply)
    return any(
        number == 2 and kind == VARINT and state == _AVAILABLE
        for entry, sort, start, end in fields(message)
        if entry == 1 and sort == LENGTH
        for number, kind, state, _ in fields(message[start:end])
    )


def _read_health(reply: Reply) -> bool:
    return any(number == 1 and value == 1 for number, _, value, _ in fields(grpc_framing.message_of(reply)))


def _read_any(reply: Reply) -> bool:
    grpc_framing.message_of(reply)
    return True
