# SPDX-License-Identifier: Apache-2.0
"""The batch form of a compiled model, and running tasks of several clients on it at once.

::

    task 0: input in its front's arena --copy--> | row 0 |             | row 0 | --copy--> task 0's output region
    task 1:                            --copy--> | row 1 |  -- run --> | row 1 | --copy--> task 1's
                                task 1 once more | row 2 |             | row 2 |           (nobody's)

Where lengths may differ, those of one length run together once one of them has run alone: what a model refuses of one
task it may take of two, in whose common row both are; and how long an output is, the run tells.

The rows are the own tensors of an infer request of the batch form, which belongs to whoever has the infer request of
the version that it stands beside: no memory that can go is in the engine's reach. A row that no task of this run has is
the last one's once more: nothing of an earlier run is read again, and zeros may be what a model cannot take (an integer
division by one ends the process). What a task gets is its own rows, copied to where it alone reads.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
import openvino as ov

from ovms_mp.errors import InferenceFailed, ProtocolError
from ovms_mp.model.dtypes import element_count
from ovms_mp.worker.engine.engine import engine_text
from ovms_mp.worker.load.agreement import input_tensor
from ovms_mp.worker.load.batches import OutputsTooLarge
from ovms_mp.worker.load.compiled import copy_outputs
from ovms_mp.worker.load.string_tensors import run

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ovms_mp.model.dtypes import AnyArray
    from ovms_mp.wire.arena import Arena
    from ovms_mp.wire.records import TensorRef
    from ovms_mp.wire.tasks import InferTask
    from ovms_mp.worker.batching.plan import BatchPlan
    from ovms_mp.worker.load.compiled import Result
    from ovms_mp.worker.load.variants import Shapes

MOST_SCRATCH_BYTES: Final = 64 << 20
"""Of the inputs of one infer request's batch, and of the outputs."""
_MOST_LENGTHS = 1024
"""Of which it is known whether tasks may run together."""
_PAUSE_S = 1.0
"""Tasks that make batches fail cost one run in vain a second, not one for each batch."""


@dataclass(slots=True)
class _BatchSlot:
    """An infer request of the batch form.

    Attributes:
        request: Used by one thread at a time.
        kind: Shapes of a task's inputs, and the number of rows, that its tensors are for now.
        rows: Of each input, the octets of each row.
    """

    request: ov.InferRequest
    kind: tuple[Shapes, int] | None = None
    rows: list[AnyArray] = field(default_factory=list)


class BatchForm:
    """A compiled model whose first dimensions are open, with an infer request beside each of the version's."""

    def __init__(
        self,
        compiled: ov.CompiledModel,
        units: Shapes,
        plan: BatchPlan,
        longest: Shapes | None = None,
        verdict: object = None,
        slots: Iterable[object] = (),
        *,
        is_bound: bool = False,
    ) -> None:
        """Take a compiled model that does not serve yet; further infer requests are made when they are needed first.

        Args:
            compiled: With the version's tensors, and a first dimension that may be a multiple of a task's.
            units: Shapes of a task's inputs; -1 for dimensions that may differ from task to task.
            plan: How many to run together.
            longest: No task with longer dimensions is one of several; None where that does not matter.
            verdict: See :attr:`ovms_mp.worker.load.batches.Batches.verdict`.
            slots: The version's infer requests, to make one beside each of them now, and not while others run.
            is_bound: Whether lone runs of the same compiled model are bound to their inputs.
        """
        self.verdict = verdict
        self._is_bound = is_bound
        self._longest = longest or tuple(tuple(-1 for _ in unit) for unit in units)
        self.plan = plan
        self._compiled = compiled
        self._units = units
        self._open = any(-1 in unit for unit in units)
        self._known: dict[Shapes, bool] = {}
        """Shapes of tasks that have run alone, and whether such run together."""
        self._types = tuple(port.element_type for port in compiled.inputs)
        self._outputs = len(compiled.outputs)
        self._slots = {id(slot): _BatchSlot(compiled.create_infer_request()) for slot in slots}
        self._resumes_s = 0.0

    def again(self, old: ov.CompiledModel, new: ov.CompiledModel, slots: Iterable[object]) -> BatchForm:
        """See :class:`ovms_mp.worker.load.batches.Batches`."""
        compiled = new if self._compiled is old else self._compiled
        return BatchForm(
            compiled, self._units, self.plan, self._longest, self.verdict, slots, is_bound=self._is_bound
        )

    def most(self, waiting: int) -> int:
        """See :class:`ovms_mp.worker.load.batches.Batches`."""
        if self._resumes_s:
            if time.monotonic() < self._resumes_s:
                return 1
            self._resumes_s = 0.0
        return self.plan.most(waiting)

    def pause(self) -> None:
        """See :class:`ovms_mp.worker.load.batches.Batches`."""
        self._resumes_s = time.monotonic() + _PAUSE_S

    def shapes_of(self, task: InferTask) -> Shapes | None:
        """See :class:`ovms_mp.worker.load.batches.Batches`."""
        shapes = tuple([ref.shape for ref in task.inputs])
        return shapes if shapes == self._units or self._known.get(shapes) else None

    def ran_alone(self, task: InferTask, outputs: Sequence[TensorRef]) -> None:
        """See :class:`ovms_mp.worker.load.batches.Batches`."""
        if not self._open:
            return
        shapes = tuple([ref.shape for ref in task.inputs])
        if shapes not in self._known:
            if len(self._known) >= _MOST_LENGTHS:
                self._known.clear()
            self._known[shapes] = self._fits(shapes, sum([ref.nbytes for ref in outputs]))

    def infer(
        self, slot: object, members: Sequence[tuple[InferTask, Arena]]
    ) -> list[tuple[TensorRef, ...] | OutputsTooLarge]:
        """See :class:`ovms_mp.worker.load.batches.Batches`."""
        place = self._slots.get(id(slot))
        if place is None:
            place = self._slots[id(slot)] = _BatchSlot(self._compiled.create_infer_request())
        size = self.plan.size_of(len(members))
        try:
            self._gather(place, members, size)
            run(place.request)
            results = [
                np.asarray(place.request.get_output_tensor(index).data) for index in range(self._outputs)
            ]
        except RuntimeError as error:
            # What it was prepared for may be half-set; another one is made for the next batch.
            del self._slots[id(slot)]
            raise InferenceFailed(
                f"a batch of {len(members)} requests failed: {engine_text(error)}"
            ) from None
        return [self._scatter(results, index, size, *member) for index, member in enumerate(members)]

    def _gather(self, place: _BatchSlot, members: Sequence[tuple[InferTask, Arena]], size: int) -> None:
        shapes = tuple([ref.shape for ref in members[0][0].inputs])
        if place.kind != (shapes, size):
            place.kind = None
            place.rows = [
                _rows_of(place.request, index, shape, size, is_bound=self._is_bound)
                for index, shape in enumerate(shapes)
            ]
            place.kind = (shapes, size)
        for index, rows in enumerate(place.rows):
            for row, (task, arena) in enumerate(members):
                ref = task.inputs[index]
                if ref.nbytes != rows.shape[1]:
                    raise ProtocolError(f"{ref.nbytes} bytes are not a tensor of shape {ref.shape}")
                rows[row] = np.frombuffer(arena.view(ref), np.uint8)
            rows[len(members) :] = rows[len(members) - 1]

    def _scatter(
        self, results: list[AnyArray], index: int, size: int, task: InferTask, arena: Arena
    ) -> tuple[TensorRef, ...] | OutputsTooLarge:
        own: list[Result] = []
        for result in results:
            if not result.ndim or result.shape[0] % size:
                raise InferenceFailed(f"an output of a batch of {size} has shape {list(result.shape)}")
            each = result.shape[0] // size
            own.append(result[index * each : (index + 1) * each])
        try:
            return copy_outputs(own, task, arena)
        except OutputsTooLarge as error:
            return error

    def _fits(self, shapes: Shapes, output_nbytes: int) -> bool:
        nbytes = 0
        for shape, unit, most, kind in zip(shapes, self._units, self._longest, self._types, strict=True):
            if len(shape) != len(unit) or 0 in shape:
                return False
            if any(wanted not in (-1, size) for size, wanted in zip(shape, unit, strict=True)):
                return False
            if any(-1 < limit < size for size, limit in zip(shape, most, strict=True)):
                return False
            nbytes += element_count(shape) * kind.size
        return max(nbytes, output_nbytes) * self.plan.sizes[-1] <= MOST_SCRATCH_BYTES


def _rows_of(
    request: ov.InferRequest, index: int, shape: tuple[int, ...], size: int, *, is_bound: bool
) -> AnyArray:
    """The octets of an input by rows, once it has so many."""
    tensor = input_tensor(request, index, (shape[0] * size, *shape[1:]), is_bound=is_bound)
    return np.asarray(tensor.data).reshape(-1).view(np.uint8).reshape(size, -1)
