# SPDX-License-Identifier: Apache-2.0
"""Tensors of strings between an arena and the engine, without an object for any string.

openvino's Python API has strings as NumPy arrays of fixed width: zeros at a string's end are lost, and one long string
makes all others as long. Its own operations StringTensorPack and StringTensorUnpack keep every octet, and take and give
what lies in an arena (:mod:`ovms_mp.wire.strings`). So each tensor goes through a model that is nothing but that
operation.

PERF: 60 us a tensor, and 0.04 us a string (OpenVINO 2026.4, AMD EPYC, 2 cores).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import openvino as ov
from openvino import opset15 as ops

from ovms_mp.errors import InferenceFailed, ProtocolError
from ovms_mp.model.dtypes import element_count
from ovms_mp.wire.strings import MOST_ELEMENTS, begin_packed, open_packed, packed_nbytes

if TYPE_CHECKING:
    import numpy.typing as npt

    from ovms_mp.model.dtypes import AnyArray

_PROPERTIES = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
"""These models copy; whoever calls them is a thread of its own."""


@dataclass(frozen=True, slots=True)
class PackedStrings:
    """An output of strings, not in an arena yet; its numbers are borrowed from the engine.

    Attributes:
        shape: Of the tensor.
        ends: Where each string ends in the octets.
        octets: Of all strings.
    """

    shape: tuple[int, ...]
    ends: npt.NDArray[np.int32]
    octets: npt.NDArray[np.uint8]

    @property
    def nbytes(self) -> int:
        """Memory that it takes in an arena."""
        return packed_nbytes(len(self.ends), len(self.octets))

    def write(self, place: memoryview) -> None:
        """Write it to an arena; ``place`` is of exactly its size, which is not 0."""
        bounds, octets = begin_packed(place, len(self.ends))
        bounds[1:] = self.ends
        np.copyto(octets, self.octets)

    def to_bytes(self) -> bytes:
        """What :meth:`write` writes."""
        place = bytearray(self.nbytes)
        if place:
            self.write(memoryview(place))
        return bytes(place)


class StringInput:
    """Makes tensors for one input of one infer request. Each is the engine's to read until the next one is made."""

    def __init__(self) -> None:
        self._requests: dict[int, ov.InferRequest] = {}

    def tensor(self, place: memoryview, shape: tuple[int, ...]) -> ov.Tensor:
        """The engine's tensor of what lies in an arena.

        Raises:
            ProtocolError: It is no tensor of strings of this shape.
        """
        count = element_count(shape)
        if count > MOST_ELEMENTS:
            raise ProtocolError(f"a tensor of {count} strings; at most {MOST_ELEMENTS} are taken")
        if not count:
            return empty_tensor(shape)
        bounds, octets = open_packed(place, count)
        request = self._requests.get(len(shape))
        if request is None:
            request = self._requests[len(shape)] = _packing(len(shape)).create_infer_request()
        numbers = ov.Shape(shape)
        request.set_input_tensor(0, ov.Tensor(bounds[:-1], numbers, ov.Type.i32))
        request.set_input_tensor(1, ov.Tensor(bounds[1:], numbers, ov.Type.i32))
        request.set_input_tensor(2, _octets_tensor(octets))
        run(request)
        return request.get_output_tensor(0)


class StringOutput:
    """Reads tensors of one output of one infer request. What was read is there until the next one is."""

    def __init__(self) -> None:
        self._requests: dict[int, ov.InferRequest] = {}

    def read(self, tensor: ov.Tensor) -> PackedStrings:
        """The strings of a tensor of the engine.

        Raises:
            InferenceFailed: They are more than a tensor of ours can have.
        """
        shape = tuple(tensor.shape)
        count = element_count(shape)
        if not count:
            return PackedStrings(shape, np.empty(0, np.int32), np.empty(0, np.uint8))
        if count > MOST_ELEMENTS:
            raise InferenceFailed(f"an output of {count} strings; at most {MOST_ELEMENTS} can be answered")
        request = self._requests.get(len(shape))
        if request is None:
            request = self._requests[len(shape)] = _unpacking(len(shape)).create_infer_request()
        request.set_input_tensor(0, tensor)
        run(request)
        ends = np.asarray(request.get_output_tensor(1).data).reshape(-1)
        octets = np.asarray(request.get_output_tensor(2).data)
        if ends[-1] != len(octets) or (ends[1:] < ends[:-1]).any():
            raise InferenceFailed(f"an output of {count} strings of more bytes than can be answered")
        return PackedStrings(shape, ends, octets)


def run(request: ov.InferRequest) -> None:
    """Run an infer request without having its outputs copied: ``infer`` makes NumPy arrays of strings.

    Raises:
        RuntimeError: The engine failed.
    """
    request.start_async()
    request.wait()


def empty_tensor(shape: tuple[int, ...]) -> ov.Tensor:
    """A tensor of empty strings."""
    return ov.Tensor(ov.Type.string, ov.Shape(shape))


def made_up_strings(count: int, *, is_zero: bool) -> AnyArray:
    """So many strings as they lie in an arena: all empty, or such as differ from their neighbours."""
    if not count:
        return np.empty(0, np.uint8)
    texts = [b""] if is_zero else [b"a", b"Two words", b"", "\u00e9t\u00e9 ".encode(), b"1" * 40]
    items = [texts[index % len(texts)] for index in range(count)]
    ends = np.cumsum([len(item) for item in items]).astype(np.int32)
    packed = PackedStrings((count,), ends, np.frombuffer(b"".join(items), np.uint8))
    return np.frombuffer(packed.to_bytes(), np.uint8)


def _octets_tensor(octets: npt.NDArray[np.uint8]) -> ov.Tensor:
    shape = ov.Shape([len(octets)])
    return ov.Tensor(octets, shape, ov.Type.u8) if len(octets) else ov.Tensor(ov.Type.u8, shape)


@functools.cache
def _packing(rank: int) -> ov.CompiledModel:
    bounds = [ops.parameter([-1] * rank, ov.Type.i32) for _ in range(2)]
    octets = ops.parameter([-1], ov.Type.u8)
    packed = ops.string_tensor_pack(*bounds, octets)
    return _compiled(ov.Model([ops.result(packed)], [*bounds, octets], "pack"))


@functools.cache
def _unpacking(rank: int) -> ov.CompiledModel:
    strings = ops.parameter([-1] * rank, ov.Type.string)
    parts = ops.string_tensor_unpack(strings)
    return _compiled(ov.Model([ops.result(output) for output in parts.outputs()], [strings], "unpack"))


def _compiled(model: ov.Model) -> ov.CompiledModel:
    return ov.Core().compile_model(model, "CPU", _PROPERTIES)
