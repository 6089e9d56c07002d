# SPDX-License-Identifier: Apache-2.0
"""A compiled model with its infer requests, and running a task on one of them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import openvino as ov

from ovms_mp.errors import InferenceFailed, ModelLoadFailed, ProtocolError
from ovms_mp.model.dtypes import AnyArray, dtype_of_openvino, element_count
from ovms_mp.model.tensors import TensorSpec
from ovms_mp.wire.allocator import aligned
from ovms_mp.wire.messages import TensorRef
from ovms_mp.worker.engine import engine_text
from ovms_mp.worker.states import has_states

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.wire.arena import Arena
    from ovms_mp.wire.messages import InferTask
    from ovms_mp.worker.variants import Shapes

_TENSOR_CACHE_LIMIT = 512
_LONG_RUN_S = 0.05
"""A first run that takes longer tells enough; what the second would save is noise beside it."""


class OutputsTooLarge(Exception):
    """The outputs do not fit the leased region; they would with ``needed_nbytes``."""

    def __init__(self, needed_nbytes: int) -> None:
        super().__init__(needed_nbytes)
        self.needed_nbytes = needed_nbytes


class InferSlot:
    """One infer request and what it is bound to. Used by one thread at a time."""

    def __init__(self, compiled: ov.CompiledModel, inputs: int, outputs: int) -> None:
        self.request = compiled.create_infer_request()
        self.bound_inputs: list[object] = [None] * inputs
        self.bound_outputs: list[object] = [None] * outputs


class CompiledVersion:
    """A compiled model with its infer requests.

    The tensors that a request is bound to are views of the fronts' arenas: an input is read where the front
    wrote it, and a static output is written where the front will read it. Views are cached, as leases come
    back to the same few places.
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
        self._tensors: dict[tuple[int, int, tuple[int, ...], ov.Type], ov.Tensor] = {}
        self._static_outputs = _static_layout(self.outputs)

    def bind(self, slot: InferSlot, task: InferTask, arena: Arena, arena_index: int) -> None:
        """Bind an infer request to a task's places in its front's arena.

        Ownership: the arena ranges of the task are read and written until :meth:`infer` returns.

        Raises:
            OutputsTooLarge: The outputs need a larger region.
            ProtocolError: The task does not match this version's specs or its arena.
        """
        self._bind_inputs(slot, task, arena, arena_index)
        if self._static_outputs is None:
            return
        layout, total = self._static_outputs
        if total > task.output_nbytes:
            raise OutputsTooLarge(total)
        for index, (offset, nbytes, shape) in enumerate(layout):
            key = (arena_index, task.output_offset_bytes + offset)
            if slot.bound_outputs[index] != key:
                ref = TensorRef(task.output_offset_bytes + offset, nbytes, shape)
                tensor = self._tensor(ref, self._output_types[index], arena, arena_index)
                slot.request.set_output_tensor(index, tensor)
                slot.bound_outputs[index] = key

    def infer(self, slot: InferSlot, task: InferTask, arena: Arena) -> tuple[TensorRef, ...]:
        """Run what was bound, in the calling thread; the outputs' places in the task's output region.

        Raises:
            InferenceFailed: The engine raised.
            OutputsTooLarge: The outputs need a larger region.
        """
        try:
            if self.has_states:
                slot.request.reset_state()
            results = slot.request.infer(share_outputs=True)
        except RuntimeError as error:
            # What the request was bound to may be half-set now.
            slot.bound_inputs = [None] * len(slot.bound_inputs)
            slot.bound_outputs = [None] * len(slot.bound_outputs)
            raise InferenceFailed(
                f"Error occurred during inference execution: {engine_text(error)}"
            ) from None
        if self._static_outputs is None:
            return _copy_outputs(list(results.values()), task, arena)
        start = task.output_offset_bytes
        layout, _ = self._static_outputs
        return tuple([TensorRef(start + offset, nbytes, shape) for offset, nbytes, shape in layout])

    def warm_up(self, shapes: Shapes | None = None) -> float | None:
        """Run every infer request on zeros, quick ones twice; seconds of the fastest run.

        Without ``shapes``, dynamic dimensions are as small as they may be. None when a model cannot take that, which
        says nothing about real ones.

        Raises:
            ModelLoadFailed: A model with static shapes, or one that was given ``shapes``, cannot run.
        """
        must_run = shapes is not None or self.is_static
        if shapes is None:
            shapes = tuple(tuple(max(low, 1) for low, _ in spec.bounds) for spec in self.inputs)
        best = float("inf")
        for slot in self.slots:
            try:
                for index, shape in enumerate(shapes):
                    tensor = ov.Tensor(self._input_types[index], ov.Shape(shape))
                    np.asarray(tensor.data).reshape(-1).view(np.uint8).fill(0)
                    slot.request.set_input_tensor(index, tensor)
                for _ in range(2):
                    start = time.perf_counter()
                    slot.request.infer(share_outputs=True)
                    best = min(best, time.perf_counter() - start)
                    if best > _LONG_RUN_S:
                        break
            except RuntimeError as error:
                if must_run:
                    raise ModelLoadFailed(f"trial inference failed: {engine_text(error)}") from None
                return None
        return best

    @property
    def is_static(self) -> bool:
        """Whether every input has one shape only."""
        return all(spec.static_nbytes is not None for spec in self.inputs)

    def describe(self) -> str:
        """The engine's plan, for the log: infer requests, streams, threads, hint."""
        facts = [f"nireq={self.nireq}"]
        for title, key in (
            ("streams", "NUM_STREAMS"),
            ("threads", "INFERENCE_NUM_THREADS"),
            ("hint", "PERFORMANCE_HINT"),
            ("devices", "EXECUTION_DEVICES"),
        ):
            try:
                value = self.compiled.get_property(key)
            except RuntimeError:
                continue  # Not every device has every property.
            text = "+".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            facts.append(f"{title}={text.rpartition('.')[2]}")
        return " ".join(facts)

    def close(self) -> None:
        """Give the engine's memory back. No task may run, and none may come."""
        self.slots.clear()
        self._tensors.clear()
        del self.compiled

    def _bind_inputs(self, slot: InferSlot, task: InferTask, arena: Arena, arena_index: int) -> None:
        if len(task.inputs) != len(self.inputs):
            raise ProtocolError(f"task has {len(task.inputs)} inputs, the model {len(self.inputs)}")
        for index, ref in enumerate(task.inputs):
            key = (arena_index, ref.offset_bytes, ref.shape)
            if slot.bound_inputs[index] != key:
                tensor = self._tensor(ref, self._input_types[index], arena, arena_index)
                slot.request.set_input_tensor(index, tensor)
                slot.bound_inputs[index] = key

    def _tensor(self, ref: TensorRef, element_type: ov.Type, arena: Arena, arena_index: int) -> ov.Tensor:
        key = (arena_index, ref.offset_bytes, ref.shape, element_type)
        tensor = self._tensors.get(key)
        if tensor is None:
            count = element_count(ref.shape)
            if count == 0:
                tensor = ov.Tensor(element_type, ov.Shape(ref.shape))
            else:
                if count * element_type.size != ref.nbytes:
                    raise ProtocolError(
                        f"{ref.nbytes} bytes are no {element_type} tensor of shape {ref.shape}"
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
        raise ModelLoadFailed(
            f"{what} {name!r} has element type {type_name}, which no protocol here can carry"
        )
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


def _copy_outputs(results: list[AnyArray], task: InferTask, arena: Arena) -> tuple[TensorRef, ...]:
    """Place outputs whose shape only the run could tell; one copy more than a static output costs.

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
        if ref.nbytes:
            # Not by the views' own assignment, which would hold the interpreter for as long as it takes.
            place = np.frombuffer(arena.view(ref), dtype=np.uint8)
            np.copyto(place, array.reshape(-1).view(np.uint8))
        refs.append(ref)
        offset += aligned(ref.nbytes)
    return tuple(refs)


def _static_layout(
    outputs: tuple[TensorSpec, ...],
) -> tuple[tuple[tuple[int, int, tuple[int, ...]], ...], int] | None:
    """(offset, nbytes, shape) of each output and the region's size; None when a shape is dynamic."""
    layout: list[tuple[int, int, tuple[int, ...]]] = []
    offset = 0
    for spec in outputs:
        if spec.static_nbytes is None:
            return None
        layout.append((offset, spec.static_nbytes, spec.dims))
        offset += aligned(spec.static_nbytes)
    return tuple(layout), offset
