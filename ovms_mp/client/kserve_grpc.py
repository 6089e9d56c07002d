# SPDX-License-Identifier: Apache-2.0
"""KServe v2 over gRPC."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from ovms_mp.client import grpc_framing
from ovms_mp.client.calls import ModelMetadata, ModelState, Outputs, TensorMetadata
from ovms_mp.client.datatypes import (
    BYTES,
    array_of,
    numpy_dtype,
    octets_of,
    row_of,
    shaped,
    strings_array,
    whole_numbers,
)
from ovms_mp.client.errors import unreadable
from ovms_mp.client.exchange import Operation, Reply
from ovms_mp.client.fields import (
    LENGTH,
    View,
    double_field,
    fields,
    number_field,
    numbers,
    octets_field,
    packed,
    signed,
    tag,
    text,
    text_field,
    varint,
)
from ovms_mp.client.places import REGION
from ovms_mp.codes import Code

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ovms_mp.client.calls import Parameter, Predict
    from ovms_mp.client.datatypes import AnyArray
    from ovms_mp.client.exchange import Octets, Request
    from ovms_mp.client.places import Place

_SERVICE = "/inference.GRPCInferenceService/"
INFER, STREAM = f"{_SERVICE}ModelInfer", f"{_SERVICE}ModelStreamInfer"
_RAW_INPUT, _RAW_OUTPUT, _PARAMETERS = tag(7), 6, 4
_CONTENTS = range(1, 9)
"""Fields of InferTensorContents."""
_MOST_KEPT = 256


class KServeGrpc(grpc_framing.GrpcDialect):
    """See :class:`~ovms_mp.client.calls.Dialect`."""

    def __init__(self) -> None:
        self._heads: dict[object, bytes] = {}
        self._tensors: dict[bytes, _Tensor] = {}

    def predict(self, call: Predict) -> Operation[Outputs]:
        """ModelInfer."""
        request = grpc_framing.request(INFER, self.message(call), call.request_id)
        places = call.output_places
        read = functools.partial(self._read_placed, places=places) if places else self._read_outputs
        return Operation(request, read)

    def message(self, call: Predict) -> list[Octets]:
        """A ModelInferRequest, in pieces."""
        places = call.input_places
        if call.request_id or call.parameters:
            pieces: list[Octets] = [_head(call)]
        else:
            # PERF: 0.5 us instead of 8, or of 20 with places.
            inputs = [(name, array.dtype, array.shape) for name, array in call.inputs.items()]
            key: tuple[object, ...] = (call.model, call.version, call.outputs, *inputs)
            if call.classes:
                key = (*key, tuple(call.classes.items()))
            if places or call.output_places:
                entries = (*places.items(), None, *call.output_places.items())
                key = (*key, *[entry and (entry[0], *entry[1][:3]) for entry in entries])
            head = self._heads.get(key)
            if head is None:
                if len(self._heads) >= _MOST_KEPT:
                    self._heads.clear()
                head = self._heads[key] = _head(call)
            pieces = [head]
        for name, array in call.inputs.items():
            if name not in places:
                octets = octets_of(array)
                pieces += (_RAW_INPUT + varint(len(octets)), octets)
        return pieces

    def _read_outputs(self, reply: Reply) -> Outputs:
        return self.outputs(grpc_framing.message_of(reply), {})

    def _read_placed(self, reply: Reply, places: Mapping[str, Place]) -> Outputs:
        return self.outputs(grpc_framing.message_of(reply), places)

    def outputs(self, message: View, places: Mapping[str, Place]) -> Outputs:
        """The outputs of a ModelInferResponse; of those in shared memory the ones that were asked for."""
        tensors: list[_Tensor] = []
        raw: list[View] = []
        for number, kind, start, end in fields(message):
            if kind == LENGTH and number == _RAW_OUTPUT:
                raw.append(message[start:end])
            elif kind == LENGTH and number == 5:
                tensors.append(self._tensor(bytes(message[start:end])))
        if places:
            elsewhere = {
                tensor.name: places[tensor.name].filled(tensor.name, tensor.datatype, tensor.shape)
                for tensor in tensors
                if tensor.is_elsewhere and tensor.name in places
            }
            return {**self._here(tensors, raw), **elsewhere}
        return self._here(tensors, raw)

    def _here(self, tensors: list[_Tensor], raw: list[View]) -> Outputs:
        here = [tensor for tensor in tensors if not tensor.is_elsewhere]
        if not raw:
            return {tensor.name: tensor.contents() for tensor in here}
        if len(raw) != len(here):
            raise unreadable(f"{len(here)} outputs with {len(raw)} contents")
        return {
            tensor.name: array_of(octets, tensor.datatype, tensor.shape)
            for tensor, octets in zip(here, raw, strict=True)
        }

    def stream_answer(self, message: View) -> tuple[str, Code, Outputs]:
        """The error with its code, and the outputs of a ModelStreamInferResponse."""
        error, code = "", Code.UNKNOWN
        outputs: Outputs = {}
        for number, kind, start, end in fields(message):
            if kind == LENGTH and number == 1:
                error = text(message, start, end)
            elif kind == LENGTH and number == 2 and error:
                code = _stream_code(message[start:end])
            elif kind == LENGTH and number == 2:
                outputs = self.outputs(message[start:end], {})
        return error, code, outputs

    def _tensor(self, octets: bytes) -> _Tensor:
        known = self._tensors.get(octets)
        if known is None:
            known = _Tensor(octets)
            if any(size < 0 for size in known.shape):
                raise unreadable(f"output {known.name!r} has the shape {known.shape}")
            if len(octets) < 256 and len(self._tensors) < _MOST_KEPT:
                self._tensors[octets] = known
        return known

    def metadata(self, model: str, version: int) -> Operation[ModelMetadata]:
        """ModelMetadata."""
        return Operation(_asked("ModelMetadata", _named(model, version)), _read_metadata)

    def models(self) -> Operation[list[ModelState]]:
        """RepositoryIndex."""
        return Operation(_asked("RepositoryIndex", b""), _read_index)

    def model_ready(self, model: str, version: int) -> Operation[bool]:
        """ModelReady."""
        return Operation(_asked("ModelReady", _named(model, version)), _read_flag)

    def ready(self) -> Operation[bool]:
        """ServerReady."""
        return Operation(_asked("ServerReady", b""), _read_flag)

    def live(self) -> Operation[bool]:
        """ServerLive."""
        return Operation(_asked("ServerLive", b""), _read_flag)


class _Tensor:
    """An InferOutputTensor."""

    def __init__(self, octets: bytes) -> None:
        shape: list[int] = []
        self.name = self.datatype = ""
        self.is_elsewhere = False
        self._contents = b""
        for number, kind, start, end in fields(octets):
            if number == 3:
                shape += map(signed, numbers(octets, kind, start, end))
            elif kind == LENGTH and number == 1:
                self.name = text(octets, start, end)
            elif kind == LENGTH and number == 2:
                self.datatype = text(octets, start, end)
            elif kind == LENGTH and number == 4:
                self.is_elsewhere |= _texts(octets[start:end]).get(1) == REGION
            elif kind == LENGTH and number == 5:
                self._contents = octets[start:end]
        self.shape = tuple(shape)

    def contents(self) -> AnyArray:
        """The values, where they are not raw."""
        values: list[bytes] = []
        for number, kind, start, end in fields(self._contents):
            if number in _CONTENTS and kind == LENGTH:
                values.append(self._contents[start:end])
        if self.datatype == BYTES:
            return strings_array(values, self.shape)
        dtype = numpy_dtype(self.datatype)
        if dtype is None or len(values) > 1:
            raise unreadable(f"output {self.name!r} has contents that {self.datatype} does not have")
        octets = values[0] if values else b""
        flat = np.frombuffer(octets, dtype) if dtype.kind == "f" else whole_numbers(octets, dtype)
        return shaped(flat, self.shape, self.datatype)


def _asked(method: str, message: bytes) -> Request:
    return grpc_framing.request(f"{_SERVICE}{method}", (message,))


def _named(model: str, version: int) -> bytes:
    return text_field(1, model) + text_field(2, str(version) if version else "")


def _head(call: Predict) -> bytes:
    """All of a ModelInferRequest but its tensors' octets."""
    parts = [
        text_field(1, call.model),
        text_field(2, str(call.version) if call.version else ""),
        text_field(3, call.request_id),
        _parameters(4, call.parameters),
    ]
    for name, array in call.inputs.items():
        place = call.input_places.get(name)
        described = (
            text_field(1, name)
            + text_field(2, row_of(array.dtype)[0])
            + packed(3, array.shape)
            + (_parameters(4, place.parameters) if place else b"")
        )
        parts.append(octets_field(5, described))
    parts += [
        octets_field(6, text_field(1, name) + _parameters(2, call.output_parameters(name)))
        for name in call.outputs
    ]
    return b"".join(parts)


def _parameters(number: int, parameters: Mapping[str, Parameter]) -> bytes:
    entries = []
    for key, value in parameters.items():
        if isinstance(value, bool):
            written = number_field(1, value)
        elif isinstance(value, int):
            written = number_field(2 if value < 1 << 63 else 5, value)
        elif isinstance(value, float):
            written = double_field(4, value)
        else:
            written = octets_field(3, value.encode())
        entries.append(octets_field(number, octets_field(1, key.encode()) + octets_field(2, written)))
    return b"".join(entries)


def _texts(message: View) -> dict[int, str]:
    """The fields of a message that may be text; of each the last."""
    found = {}
    for number, kind, start, end in fields(message):
        if kind == LENGTH:
            found[number] = str(message[start:end], "utf-8", "replace")
    return found


def _stream_code(answer: View) -> Code:
    """What a failed ModelInferResponse of a stream says in the parameter grpc_status; UNKNOWN where it has none."""
    for number, kind, start, end in fields(answer):
        if number == _PARAMETERS and kind == LENGTH:
            entry = answer[start:end]
            parts = {part: entry[begin:stop] for part, how, begin, stop in fields(entry) if how == LENGTH}
            if bytes(parts.get(1, b"")) == b"grpc_status" and 2 in parts:
                return Code.__members__.get(_texts(parts[2]).get(3, ""), Code.UNKNOWN)
    return Code.UNKNOWN


def _read_metadata(reply: Reply) -> ModelMetadata:
    message = grpc_framing.message_of(reply)
    name = platform = ""
    versions: list[str] = []
    tensors: dict[int, list[TensorMetadata]] = {4: [], 5: []}
    for number, kind, start, end in fields(message):
        if kind != LENGTH:
            continue
        if number in tensors:
            tensor = _Tensor(bytes(message[start:end]))
            tensors[number].append(TensorMetadata(tensor.name, tensor.datatype, tensor.shape))
        elif number == 1:
            name = text(message, start, end)
        elif number == 2:
            versions.append(text(message, start, end))
        elif number == 3:
            platform = text(message, start, end)
    return ModelMetadata(name, tuple(versions), platform, tuple(tensors[4]), tuple(tensors[5]))


def _read_index(reply: Reply) -> list[ModelState]:
    message = grpc_framing.message_of(reply)
    states = []
    for number, kind, start, end in fields(message):
        if kind == LENGTH and number == 1:
            entry = _texts(message[start:end])
            state = entry.get(3, "")
            states.append(
                ModelState(entry.get(1, ""), entry.get(2, ""), state == "READY", state, entry.get(4, ""))
            )
    return states


def _read_flag(reply: Reply) -> bool:
    return any(number == 1 and bool(value) for number, _, value, _ in fields(grpc_framing.message_of(reply)))
