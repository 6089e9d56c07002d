# SPDX-License-Identifier: Apache-2.0
"""A compiled model with its infer requests, and running a task on one of them."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import openvino as ov

from ovms_mp.errors import InferenceFailed, ModelLoadFailed, ProtocolError
from ovms_mp.model.dtypes import AnyArray, DType, dtype_of_openvino, element_count
from ovms_mp.model.tensors import TensorSpec
from ovms_mp.wire.allocator import aligned
from ovms_mp.wire.records import TensorRef
from ovms_mp.worker.engine.engine import engine_text, hides_failures
from ovms_mp.worker.load.batches import OutputsTooLarge
from ovms_mp.worker.load.states import has_states
from ovms_mp.worker.load.string_tensors import PackedStrings, StringInput, StringOutput, empty_tensor, run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ovms_mp.wire.arena import Arena
    from ovms_mp.wire.tasks import InferTask
    from ovms_mp.worker.load.batches import Batches
    from ovms_mp.worker.load.variants import Shapes

_Layout: TypeAlias = tuple[tuple[tuple[int, int, tuple[int, ...]], ...], int]
"""Offset, size in bytes and shape of each output; the size of all."""

Result: TypeAlias = AnyArray | PackedStrings
"""An output that the engine holds."""

_TENSOR_CACHE_LIMIT = 512
_OUTSIZE_BYTES = 256 << 20
"""Dynamic outputs beyond this are not worth keeping their memory for the next run."""


class OutputPath(enum.Enum):
    """How outputs reach the place where a front reads them; the quickest first. The values are for people."""

    BOUND = "bound"
    """The engine writes them there."""
    CLEARED = "cleared"
    """The same; the place is set to zero before each run, as the engine does not write all of it."""
    COPIED = "copied"
    """The engine writes tensors of its own, which are copied."""
    BOTH_COPIED = "copied inputs=copied"
    """The same, and it reads inputs from tensors of its own, too: shared memory is out of its reach."""


class InferSlot:
    """One infer request and what it is bound to. Used by one thread at a time."""

    def __init__(self, compiled: ov.CompiledModel, inputs: int, outputs: int) -> None:
        self.request = compiled.create_infer_request()
        self.bound_inputs: list[object] = [None] * inputs
        self.bound_outputs: list[object] = [None] * outputs
        self.string_inputs: dict[int, StringInput] = {}
        self.string_outputs: dict[int, StringOutput] = {}


class CompiledVersion:
    """A compiled model with its infer requests.

    The tensors that a request is bound to are views of the fronts' arenas: an input is read where the front
    wrote it, and a static output is written where the front will read it. Views are cached, as leases come
    back to the same few places.

    Everything is copied until :mod:`ovms_mp.worker.load.proof` has shown that it can be bound.
    """

    def __init__(
        self, compiled: ov.CompiledModel, inputs: Sequence[str], outputs: Sequence[str], nireq: int
    ) -> None:
        """Wrap a compiled model.

        Args:
            compiled: Bound to its device.
            inputs: The names that clients use, in the order of its ports.
            outputs: The same.
            nireq: Number of infer requests to make.

        Raises:
            ModelLoadFailed: No protocol of ours can carry one of its tensors.
        """
        self.inputs = specs_of(compiled.inputs, inputs, "input")
        self.outputs = specs_of(compiled.outputs, outputs, "output")
        self.compiled = compiled
        self.nireq = nireq
        self.slots = [InferSlot(compiled, len(self.inputs), len(self.outputs)) for _ in range(nireq)]
        self.has_states = has_states(self.slots[0].request)
        self._input_types = tuple(port.element_type for port in compiled.inputs)
        self._output_types = tuple(port.element_type for port in compiled.outputs)
        self._string_inputs = _places_of_strings(self.inputs)
        self._string_outputs = _places_of_strings(self.outputs)
        self._must_wait = bool(self._string_outputs) or hides_failures(compiled)
        self._tensors: dict[tuple[int, int, int, int, tuple[int, ...], ov.Type], ov.Tensor] = {}
        self._static_outputs = _static_layout(self.outputs)
        self.batches: Batches | None = None
        self.tried_shapes = self.least_shapes
        """Of its inputs in the proof's runs."""
        self.has_tried_values = False
        """Whether these ran on values, and not on zeros only."""
        self.take(OutputPath.BOTH_COPIED)

    @property
    def can_bind(self) -> bool:
        """Whether the shapes of all outputs are known before a run."""
        return self._static_outputs is not None

    def take(self, path: OutputPath) -> None:
        """Have outputs take this path from the next task on; no infer request may have been bound yet."""
        is_bound = path in (OutputPath.BOUND, OutputPath.CLEARED)
        self._bound_outputs = self._static_outputs if is_bound else None
        self._clears_outputs = path is OutputPath.CLEARED
        self.copies_inputs = path is OutputPath.BOTH_COPIED

    def forget_places(self) -> None:
        """Drop the cached views of arenas. No task may run."""
        self._tensors.clear()

    def bind(self, slot: InferSlot, task: InferTask, arena: Arena, arena_index: int) -> None:
        """Bind an infer request to a task's places in its front's arena.

        Ownership: the arena ranges of the task are read and written until :meth:`infer` returns.

        Raises:
            OutputsTooLarge: The outputs need a larger region.
            ProtocolError: The task does not match this version's specs or its arena.
        """
        self._bind_inputs(slot, task, arena, arena_index)
        if self._bound_outputs is None:
            return
        layout, total = self._bound_outputs
        if total > task.output_nbytes:
            raise OutputsTooLarge(total)
        for index, (offset, nbytes, shape) in enumerate(layout):
            key = (arena_index, task.output_offset_bytes + offset)
            if slot.bound_outputs[index] != key:
                ref = TensorRef(task.output_offset_bytes + offset, nbytes, shape)
                tensor = self._tensor(ref, self._output_types[index], arena, arena_index)
                slot.request.set_output_tensor(index, tensor)
                slot.bound_outputs[index] = key
        if self._clears_outputs:
            for offset, nbytes, shape in layout:
                arena.view(TensorRef(task.output_offset_bytes + offset, nbytes, shape))[:] = bytes(nbytes)

    def infer(self, slot: InferSlot, task: InferTask, arena: Arena) -> tuple[TensorRef, ...]:
        """Run what was bound, in the calling thread; the outputs' places in the task's output region.

        Raises:
            InferenceFailed: The engine raised.
            OutputsTooLarge: The outputs need a larger region.
        """
        try:
            if self.has_states:
                slot.request.reset_state()
            results: Mapping[object, AnyArray] = {}
            if self._must_wait:
                run(slot.request)
            else:
                results = slot.request.infer(share_outputs=True)
        except RuntimeError as error:
            # What the request was bound to may be half-set now.
            slot.bound_inputs = [None] * len(slot.bound_inputs)
            slot.bound_outputs = [None] * len(slot.bound_outputs)
            raise InferenceFailed(
                f"Error occurred during inference execution: {engine_text(error)}"
            ) from None
        if self._bound_outputs is None:
            arrays: list[Result] = list(results.values()) or self.results_of(slot)
            try:
                return copy_outputs(arrays, task, arena)
            finally:
                if sum([array.nbytes for array in arrays]) > _OUTSIZE_BYTES:
                    arrays.clear()
                    del results
                    self._give_back(slot)
        start = task.output_offset_bytes
        layout, _ = self._bound_outputs
        return tuple([TensorRef(start + offset, nbytes, shape) for offset, nbytes, shape in layout])

    def results_of(self, slot: InferSlot) -> list[Result]:
        """The outputs of the last run, in the engine's memory.

        Raises:
            InferenceFailed: An output has more strings than can be answered.
        """
        results: list[Result] = []
        for index in range(len(self.outputs)):
            tensor = slot.request.get_output_tensor(index)
            if index in self._string_outputs:
                results.append(slot.string_outputs.setdefault(index, StringOutput()).read(tensor))
            else:
                results.append(np.asarray(tensor.data))
        return results

    def _give_back(self, slot: InferSlot) -> None:
        """Give the memory of outsize outputs back to the machine.

        Seen with OpenVINO 2026.4 on CPU: an infer request keeps its largest outputs for ever; so does the compiled
        model after the request has gone, until its next run, which is why there is one.
        """
        fresh = InferSlot(self.compiled, len(self.inputs), len(self.outputs))
        slot.request = fresh.request
        slot.bound_inputs = fresh.bound_inputs
        slot.bound_outputs = fresh.bound_outputs
        try:
            for index, shape in enumerate(self.least_shapes):
                if index in self._string_inputs:
                    slot.request.set_input_tensor(index, empty_tensor(shape))
                    continue
                tensor = ov.Tensor(self._input_types[index], ov.Shape(shape))
                np.asarray(tensor.data).reshape(-1).view(np.uint8).fill(0)
                slot.request.set_input_tensor(index, tensor)
            run(slot.request)
        except RuntimeError:
            return  # Not every model takes zeros, or its smallest shapes; the next request does it then.

    @property
    def least_shapes(self) -> Shapes:
        """Shapes of the inputs with dynamic dimensions as small as they may be, and not 0."""
        return tuple(
            tuple(max(low, 1) if low != high else low for low, high in spec.bounds) for spec in self.inputs
        )

    @property
    def is_static(self) -> bool:
        """Whether every input has one shape only."""
        return all(spec.is_static for spec in self.inputs)

    @property
    def streams(self) -> int:
        """How many runs the engine has at a time; 0 where the device does not tell. Without streams it is one."""
        try:
            return max(1, int(self.compiled.get_property("NUM_STREAMS")))
        except (RuntimeError, TypeError, ValueError):
            return 0

    def describe(self) -> str:
        """The engine's plan, for the log: infer requests, streams, threads, hint, precision."""
        facts = [f"nireq={self.nireq}"]
        for title, key in (
            ("streams", "NUM_STREAMS"),
            ("threads", "INFERENCE_NUM_THREADS"),
            ("hint", "PERFORMANCE_HINT"),
            ("precision", "INFERENCE_PRECISION_HINT"),
            ("devices", "EXECUTION_DEVICES"),
        ):
            try:
                value = self.compiled.get_property(key)
            except RuntimeError:
                continue  # Not every device has every property.
            values = value if isinstance(value, (list, tuple)) else (value,)
            text = "+".join(each.to_string() if isinstance(each, ov.Type) else str(each) for each in values)
            facts.append(f"{title}={text.rpartition('.')[2]}")
        return " ".join(facts)

    def close(self) -> None:
        """Give the engine's memory back. No task may run, and none may come."""
        self.slots.clear()
        self._tensors.clear()
        self.batches = None
        del self.compiled

    def _bind_inputs(self, slot: InferSlot, task: InferTask, arena: Arena, arena_index: int) -> None:
        if len(task.inputs) != len(self.inputs):
            raise ProtocolError(f"task has {len(task.inputs)} inputs, the model {len(self.inputs)}")
        if self.copies_inputs:
            self._copy_inputs(slot, task, arena)
            return
        for index, ref in enumerate(task.inputs):
            if index in self._string_inputs:
                self._set_strings(slot, index, ref, arena)
                continue
            key = (arena_index, ref.region, ref.offset_bytes, ref.nbytes, ref.shape)
            if slot.bound_inputs[index] != key:
                tensor = self._tensor(ref, self._input_types[index], arena, arena_index)
                slot.request.set_input_tensor(index, tensor)
                slot.bound_inputs[index] = key

    def _copy_inputs(self, slot: InferSlot, task: InferTask, arena: Arena) -> None:
        for index, ref in enumerate(task.inputs):
            if index in self._string_inputs:
                self._set_strings(slot, index, ref, arena)
                continue
            tensor = slot.request.get_input_tensor(index)
            if tuple(tensor.shape) != ref.shape:
                tensor.shape = ref.shape
            place = np.asarray(tensor.data).reshape(-1).view(np.uint8)
            if place.nbytes != ref.nbytes:
                raise ProtocolError(
                    f"{ref.nbytes} bytes are not a tensor of type {tensor.element_type} and shape {ref.shape}"
                )
            place[:] = np.frombuffer(arena.view(ref), np.uint8)

    def _set_strings(self, slot: InferSlot, index: int, ref: TensorRef, arena: Arena) -> None:
        """Strings are never read in place, so what is set is new each time."""
        place = arena.view(ref) if ref.nbytes else memoryview(b"")
        maker = slot.string_inputs.setdefault(index, StringInput())
        slot.request.set_input_tensor(index, maker.tensor(place, ref.shape))

    def _tensor(self, ref: TensorRef, element_type: ov.Type, arena: Arena, arena_index: int) -> ov.Tensor:
        key = (arena_index, ref.region, ref.offset_bytes, ref.nbytes, ref.shape, element_type)
        tensor = self._tensors.get(key)
        if tensor is None:
            count = element_count(ref.shape)
            if count == 0:
                tensor = ov.Tensor(element_type, ov.Shape(ref.shape))
            else:
                if count * element_type.size != ref.nbytes:
                    raise ProtocolError(
                        f"{ref.nbytes} bytes are not a tensor of type {element_type} and shape {ref.shape}"
                    )
                view = np.frombuffer(arena.view(ref), dtype=np.uint8)
                tensor = ov.Tensor(view, ov.Shape(ref.shape), element_type)
            if len(self._tensors) >= _TENSOR_CACHE_LIMIT:
                self._tensors.clear()
            self._tensors[key] = tensor
        return tensor


def specs_of(ports: Sequence[ov.ConstOutput], names: Sequence[str], what: str) -> tuple[TensorSpec, ...]:
    """The specs of a model's ports, under the names that clients use.

    Raises:
        ModelLoadFailed: No protocol of ours can carry one of them.
    """
    return tuple(_spec_of(port, name, what) for port, name in zip(ports, names, strict=True))


def _spec_of(port: ov.ConstOutput, name: str, what: str) -> TensorSpec:
    type_name = port.get_element_type().get_type_name()
    dtype = dtype_of_openvino(type_name)
    if dtype is None:
        raise ModelLoadFailed(f"{what} {name!r} has element type {type_name}, which no protocol can carry")
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        raise ModelLoadFailed(
            f"{what} {name!r} has a dynamic number of dimensions; reshape the model to a known rank"
        )
    bounds = tuple(
        (dimension.get_length(), dimension.get_length())
        if dimension.is_static
        else (dimension.get_min_length(), dimension.get_max_length())
        for dimension in shape
    )
    return TensorSpec.of(name, dtype, bounds)


def _places_of_strings(specs: tuple[TensorSpec, ...]) -> frozenset[int]:
    return frozenset(index for index, spec in enumerate(specs) if spec.dtype is DType.BYTES)


def copy_outputs(results: list[Result], task: InferTask, arena: Arena) -> tuple[TensorRef, ...]:
    """Place outputs whose shape only the run could tell, or that cannot be bound; one copy more than binding costs.

    PERF: shapes are the arrays'. Going through an ``ov.Shape`` ends by an exception in C++, which takes 20 us.

    Args:
        results: Views of the infer request's own tensors, in the order of the outputs.
        task: Whose output region they shall go to.
        arena: Where that is.

    Raises:
        OutputsTooLarge: They need a larger region.
        ProtocolError: The region is not inside the arena.
    """
    needed = sum([aligned(array.nbytes) for array in results])
    if needed > task.output_nbytes:
        raise OutputsTooLarge(needed)
    refs: list[TensorRef] = []
    offset = task.output_offset_bytes
    for array in results:
        ref = TensorRef(offset, array.nbytes, array.shape)
        if isinstance(array, PackedStrings) and ref.nbytes:
            array.write(arena.view(ref))
        elif not isinstance(array, PackedStrings) and ref.nbytes:
            # Not by the views' own assignment, which would hold the interpreter for as long as it takes.
            place = np.frombuffer(arena.view(ref), dtype=np.uint8)
            np.copyto(place, array.reshape(-1).view(np.uint8))
        refs.append(ref)
        offset += aligned(ref.nbytes)
    return tuple(refs)


def _static_layout(outputs: tuple[TensorSpec, ...]) -> _Layout | None:
    """(offset, nbytes, shape) of each output and the region's size; None when a shape is dynamic."""
    layout: list[tuple[int, int, tuple[int, ...]]] = []
    offset = 0
    for spec in outputs:
        if spec.static_nbytes is None:
            return None
        layout.append((offset, spec.static_nbytes, spec.dims))
        offset += aligned(spec.static_nbytes)
    return tuple(layout), offset
