# SPDX-License-Identifier: Apache-2.0
"""The trial of a batch form: its answers are held against those of lone runs, bit by bit, and both are timed by turns.

Lone runs and batches take the way that tasks take later, in an arena of the trial's own. At each size there are two
batches with one task in common, in the same row: its answers must be equal to the last bit also where rounding may
differ from that of lone runs, as a model whose samples look at each other must not pass for one that rounds.
Everything around the outputs holds a pattern, and has to hold it afterwards.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ovms_mp.errors import OvmsError
from ovms_mp.model.dtypes import Kind, element_count
from ovms_mp.wire.allocator import aligned
from ovms_mp.wire.arena import Arena, create_arena_file
from ovms_mp.wire.records import ArenaHandle, TensorRef
from ovms_mp.wire.tasks import InferTask
from ovms_mp.worker.batching.eligibility import NotBatched
from ovms_mp.worker.batching.form import BatchForm
from ovms_mp.worker.batching.plan import BatchPlan
from ovms_mp.worker.load.batches import OutputsTooLarge
from ovms_mp.worker.load.compiled import InferSlot

if TYPE_CHECKING:
    from collections.abc import Sequence

    import openvino as ov

    from ovms_mp.model.dtypes import AnyArray
    from ovms_mp.model.tensors import TensorSpec
    from ovms_mp.worker.load.compiled import CompiledVersion
    from ovms_mp.worker.load.variants import Shapes

_SEED = 20
_PATTERN = 0xC3
_TRIAL_ARENA = -2
"""The number of the trial's arena; the proof's is -1, those of fronts begin at 0."""
_LEAST_OUTPUT_BYTES = 1 << 16
_TURNS = 7
"""PERF: of a run of 40 us the fastest of seven is within 5 % of that of a thousand; 30 ms for all sizes."""
_MOST_TRIAL_S = 1.0
_ROUNDING = 0.02
"""Of the largest value of an output: what bf16 rounds by in another order of additions, and less than a wrong row."""


@dataclass(frozen=True, slots=True)
class TrialBounds:
    """What a trial may find.

    Attributes:
        sizes: To try, ascending.
        is_exact: Whether a bit's difference is too much.
        has_timing: Whether to measure, too.
    """

    sizes: tuple[int, ...]
    is_exact: bool
    has_timing: bool


@dataclass(frozen=True, slots=True)
class Timing:
    """What was measured: of a lone run, and of a run of each size."""

    single_s: float
    costs_s: dict[int, float]


def try_batches(
    version: CompiledVersion,
    compiled: ov.CompiledModel,
    units: Shapes,
    shapes: Sequence[Shapes],
    bounds: TrialBounds,
) -> Timing:
    """Try a batch form beside a version, on each of the given shapes; the times are of the last ones.

    Raises:
        NotBatched: It answers differently, or cannot run.
    """
    timing = Timing(0.0, {})
    until_s = time.monotonic() + _MOST_TRIAL_S
    for last, each in enumerate(shapes, 1):
        form = BatchForm(compiled, units, BatchPlan(1.0, dict.fromkeys(bounds.sizes, 1.0)))
        trial = _Trial(version, form, each, bounds)
        try:
            timing = trial.run(until_s, has_timing=bounds.has_timing and last == len(shapes))
        except OutputsTooLarge:
            raise NotBatched("its outputs have other sizes from run to run") from None
        except OvmsError as error:
            raise NotBatched(f"its trial failed: {error.message}") from None
        finally:
            version.forget_places()
    return timing


class _Trial:
    """On one set of shapes."""

    def __init__(
        self, version: CompiledVersion, form: BatchForm, shapes: Shapes, bounds: TrialBounds
    ) -> None:
        self._version = version
        self._form = form
        self._bounds = bounds
        self._slot = InferSlot(version.compiled, len(version.inputs), len(version.outputs))
        random = np.random.default_rng(_SEED)
        most = bounds.sizes[-1] + 1  # So that there are two batches with one task in common.
        self._given = [
            [random_input(spec, shape, random) for spec, shape in zip(version.inputs, shapes, strict=True)]
            for _ in range(most)
        ]
        self._shapes = shapes
        self._inputs_end = sum(aligned(array.nbytes) for array in self._given[0])
        self._right: list[tuple[tuple[tuple[int, ...], bytes], ...]] = []
        self._output_nbytes = self._find_output_nbytes()
        self._stride = self._inputs_end + self._output_nbytes + 64
        self._arena = _new_arena(self._stride * most)
        self._tasks = [self._task(number, self._arena, number * self._stride) for number in range(most)]

    def run(self, until_s: float, *, has_timing: bool) -> Timing:
        """Compare at each size, and measure as many as there is time for."""
        costs_s: dict[int, float] = {}
        single_s = float("inf")
        for size in self._bounds.sizes:
            numbers = list(range(size))
            others = [0, *(len(self._given) - number for number in numbers[1:])]
            if self._compare(numbers) != self._compare(others):
                raise NotBatched(f"what a request gets depends on the others in a batch of {size}")
            if not has_timing:
                continue
            cost_s = float("inf")
            for _ in range(_TURNS):
                start = time.perf_counter()
                self._single(0)
                between = time.perf_counter()
                self._batch(numbers)
                single_s = min(single_s, between - start)
                cost_s = min(cost_s, time.perf_counter() - between)
            costs_s[size] = cost_s
            if time.monotonic() > until_s:
                break
        return Timing(single_s, costs_s)

    def _single(self, number: int) -> tuple[TensorRef, ...]:
        task = self._tasks[number]
        self._version.bind(self._slot, task, self._arena, _TRIAL_ARENA)
        return self._version.infer(self._slot, task, self._arena)

    def _batch(self, numbers: Sequence[int]) -> list[tuple[TensorRef, ...]]:
        members = [(self._tasks[number], self._arena) for number in numbers]
        found = []
        for refs in self._form.infer(self._slot, members):
            if isinstance(refs, OutputsTooLarge):
                raise refs
            found.append(refs)
        return found

    def _compare(self, numbers: Sequence[int]) -> list[bytes]:
        """Hold a batch against lone runs; what its first task got."""
        while len(self._right) <= max(numbers):
            refs = self._single(len(self._right))
            self._right.append(tuple((ref.shape, bytes(self._arena.view(ref))) for ref in refs))
        for number in numbers:
            self._cover(number)
        first: list[bytes] = []
        for number, refs in zip(numbers, self._batch(numbers), strict=True):
            end = self._tasks[number].output_offset_bytes
            for spec, ref, (shape, content) in zip(
                self._version.outputs, refs, self._right[number], strict=True
            ):
                if ref.shape != shape:
                    raise NotBatched(f"output {spec.name!r} of a task in a batch has another shape")
                found = bytes(self._arena.view(ref))
                if found != content and (self._bounds.is_exact or not is_close(spec, found, content)):
                    how = "bits" if is_close(spec, found, content) else "values"
                    raise NotBatched(f"output {spec.name!r} has other {how} in a batch of {len(numbers)}")
                end = ref.offset_bytes + ref.nbytes
                if number == 0:
                    first.append(found)
            start = number * self._stride + self._inputs_end
            rest = self._arena.memory[end : start + self._output_nbytes + 64]
            if bytes(rest).strip(bytes([_PATTERN])):
                raise NotBatched("a batch writes where no output is")
        return first

    def _cover(self, number: int) -> None:
        start = number * self._stride + self._inputs_end
        length = self._output_nbytes + 64
        self._arena.memory[start : start + length] = bytes([_PATTERN]) * length

    def _task(self, number: int, arena: Arena, start: int) -> InferTask:
        refs: list[TensorRef] = []
        offset = start
        for shape, array in zip(self._shapes, self._given[number], strict=True):
            arena.memory[offset : offset + array.nbytes] = array.tobytes()
            refs.append(TensorRef(offset, array.nbytes, shape))
            offset += aligned(array.nbytes)
        return InferTask(number, 0, tuple(refs), offset, self._output_nbytes, 0)

    def _find_output_nbytes(self) -> int:
        """How many bytes the outputs of a task take."""
        nbytes = _LEAST_OUTPUT_BYTES
        for _ in range(2):
            self._output_nbytes = nbytes
            arena = _new_arena(self._inputs_end + nbytes)
            task = self._task(0, arena, 0)
            try:
                self._version.bind(self._slot, task, arena, _TRIAL_ARENA)
                refs = self._version.infer(self._slot, task, arena)
            except OutputsTooLarge as error:
                nbytes = error.needed_nbytes
                continue
            finally:
                self._version.forget_places()
                self._slot.bound_inputs = [None] * len(self._slot.bound_inputs)
                self._slot.bound_outputs = [None] * len(self._slot.bound_outputs)
            return sum(aligned(ref.nbytes) for ref in refs)
        raise NotBatched("its outputs have other sizes from run to run")


def random_input(spec: TensorSpec, shape: tuple[int, ...], random: np.random.Generator) -> AnyArray:
    """Values of an input. No integer is above 1: it may be an index, and some operations read wherever that points."""
    count = element_count(shape)
    if spec.dtype.kind is Kind.FLOAT:
        return random.standard_normal(count).astype(spec.dtype.numpy).view(np.uint8)
    return random.integers(0, 2, count).astype(spec.dtype.numpy).view(np.uint8)


def is_close(spec: TensorSpec, found: bytes, right: bytes) -> bool:
    """Whether an output differs by rounding only."""
    if spec.dtype.kind is not Kind.FLOAT:
        return found == right
    one, other = (np.frombuffer(part, spec.dtype.numpy).astype(np.float64) for part in (found, right))
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return found == right
    return bool(np.abs(one - other).max(initial=0.0) <= _ROUNDING * np.abs(other).max(initial=0.0))


def _new_arena(nbytes: int) -> Arena:
    descriptor = create_arena_file(0, nbytes)
    try:
        return Arena(ArenaHandle(descriptor, nbytes))
    finally:
        os.close(descriptor)
