# SPDX-License-Identifier: Apache-2.0
"""The trial of a batch form: its answers are held against those of lone runs, bit by bit, and both are timed by turns.

Lone runs and batches take the way that tasks take later, in an arena of the trial's own. At each size there are batches
with one task in common, in the same row: its answers must be equal to the last bit also where rounding may differ from
that of lone runs, as a model whose samples look at each other must not pass for one that rounds. It is the first row in
one pair and the last row in another, as a model may look at earlier samples only. Everything around the outputs holds a
pattern, and has to hold it afterwards. At the end sizes and shapes change back, as they do between tasks.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ovms_mp.model.dtypes import Kind
from ovms_mp.wire.allocator import aligned
from ovms_mp.wire.arena import Arena, create_arena_file
from ovms_mp.wire.records import ArenaHandle, TensorRef
from ovms_mp.wire.tasks import InferTask
from ovms_mp.worker.batching.form import BatchForm
from ovms_mp.worker.batching.plan import BatchPlan
from ovms_mp.worker.batching.rows import NotBatched, NotNow
from ovms_mp.worker.load.agreement import random_input
from ovms_mp.worker.load.batches import OutputsTooLarge
from ovms_mp.worker.load.compiled import InferSlot

if TYPE_CHECKING:
    from collections.abc import Sequence

    import openvino as ov

    from ovms_mp.model.tensors import TensorSpec
    from ovms_mp.worker.load.compiled import CompiledVersion
    from ovms_mp.worker.load.variants import Shapes

_SEED = 20
_PATTERN = 0xC3
_FIRST_ARENA = -2
"""The number of the arena of a trial's first shapes, and down from there; the proof's is -1, fronts' begin at 0."""
_LEAST_OUTPUT_BYTES = 1 << 16
_TURNS, _LEAST_TURNS = 7, 2
"""PERF: of a run of 40 us the fastest of seven is within 5 % of that of a thousand; 30 ms for all sizes."""
_MOST_TURNS_S = 0.1
"""Of one size; longer runs vary less."""
_MOST_TRIAL_S = 1.0
_MOST_COMPARISON_S = 10.0
"""Sizes that this is too short for are not used: of a slow model that may have batches of a thousand, a load would take
hours."""
_CALM = 1.5
"""On a machine that does nothing else half of the lone runs take less than so many times the fastest one."""
_ROUNDING = 0.02
"""Of the largest value of an output: what bf16 rounds by in another order of additions, and less than a wrong row."""


@dataclass(frozen=True, slots=True)
class TrialBounds:
    """What a trial may find.

    Attributes:
        sizes: To try, ascending.
        is_exact: Whether a bit's difference is too much.
        has_timing: Whether to measure, too.
        is_wide: Whether fractions may be of either sign, and beyond 1.
        longest_s: What a lone run may take; longer shapes are not tried.
    """

    sizes: tuple[int, ...]
    is_exact: bool
    has_timing: bool
    is_wide: bool
    longest_s: float = float("inf")


@dataclass(frozen=True, slots=True)
class Timing:
    """What was measured.

    Attributes:
        single_s: Of a lone run.
        costs_s: Of a run of each size.
        shapes: Of the tasks that were tried.
        is_calm: Whether lone runs took about the same each time, so that another trial would find the same.
    """

    single_s: float
    costs_s: dict[int, float]
    shapes: tuple[Shapes, ...]
    is_calm: bool


def try_batches(
    version: CompiledVersion,
    compiled: ov.CompiledModel,
    units: Shapes,
    shapes: Sequence[Shapes],
    bounds: TrialBounds,
) -> Timing:
    """Try a batch form beside a version, on each of the given shapes; the times are of the last ones.

    Raises:
        NotBatched: It answers differently, or runs for too long.
        OvmsError: It cannot run.
    """
    plan = BatchPlan(1.0, dict.fromkeys(bounds.sizes, 1.0))
    form = BatchForm(compiled, units, plan, is_bound=binds_rows(version, compiled))
    place, sizes = object(), bounds.sizes
    # What has been timed before fits.
    until_s = time.monotonic() + _MOST_COMPARISON_S if bounds.has_timing else float("inf")
    trials: list[_Trial] = []
    try:
        for each in shapes:
            trial = _Trial(version, form, place, each, bounds, _FIRST_ARENA - len(trials))
            if trial.lone_run_s() > bounds.longest_s:
                if not trials:
                    raise NotNow(f"a run takes more than {1000 * bounds.longest_s:.0f} ms by itself")
                break
            trials.append(trial)
            sizes = trial.compare(sizes, until_s)
        for trial in trials:
            trial.compare(sizes[:1])
            trial.compare(sizes[-1:])
        tried = tuple(shapes[: len(trials)])
        return trials[-1].measure(tried, sizes) if bounds.has_timing else Timing(0.0, {}, tried, is_calm=True)
    except OutputsTooLarge:
        raise NotBatched("its outputs have other sizes from run to run") from None
    finally:
        version.forget_places()


def binds_rows(version: CompiledVersion, compiled: ov.CompiledModel) -> bool:
    """Whether rows are in tensors that infer requests are bound to, as lone runs of the same model are."""
    return compiled is version.compiled and not version.copies_inputs


class _Trial:
    """On one set of shapes."""

    def __init__(
        self,
        version: CompiledVersion,
        form: BatchForm,
        place: object,
        shapes: Shapes,
        bounds: TrialBounds,
        number: int,
    ) -> None:
        """Make up tasks, and find out how much room their outputs take.

        Args:
            version: Runs them one by one.
            form: Runs them together.
            place: Whose infer request of the form is used.
            shapes: Of their inputs.
            bounds: Of the trial.
            number: Of their arena.
        """
        self._version = version
        self._form = form
        self._place = place
        self._number = number
        self._bounds = bounds
        self._slot = InferSlot(version.compiled, len(version.inputs), len(version.outputs))
        random = np.random.default_rng(_SEED)
        most = bounds.sizes[-1] + 1  # So that there are batches with one task in common.
        # By turns: of some functions a negative value has no result.
        self._given = [
            [
                random_input(spec, shape, random, is_wide=bounds.is_wide and number % 2 == 1)
                for spec, shape in zip(version.inputs, shapes, strict=True)
            ]
            for number in range(most)
        ]
        self._shapes = shapes
        self._inputs_end = sum(aligned(array.nbytes) for array in self._given[0])
        self._right: list[tuple[tuple[tuple[int, ...], bytes], ...]] = []
        self._output_nbytes = self._find_output_nbytes()
        self._stride = self._inputs_end + self._output_nbytes + 64
        self._arena = _new_arena(self._stride * most)
        self._tasks = [self._task(number, self._arena, number * self._stride) for number in range(most)]

    def compare(self, sizes: tuple[int, ...], until_s: float = float("inf")) -> tuple[int, ...]:
        """Hold batches of these sizes against lone runs, and against each other; those that there was time for.

        Raises:
            NotBatched: They answer differently.
        """
        for place, size in enumerate(sizes):
            if place and time.monotonic() > until_s:
                return sizes[:place]
            numbers = list(range(size))
            # Other tasks around the first one, and around the last one.
            others = [size - number for number in range(size - 1)]
            found = self._compare(numbers)
            first = self._compare([0, *others])
            last = found if self._bounds.is_exact else self._compare([*others, size - 1])
            if found[0] != first[0] or found[-1] != last[-1]:
                raise NotBatched(f"what a request gets depends on the others in a batch of {size}")
        return sizes

    def lone_run_s(self) -> float:
        """What a lone run takes; the first one of these shapes is not it."""
        self._single(0)
        start = time.perf_counter()
        self._single(0)
        return time.perf_counter() - start

    def measure(self, tried: tuple[Shapes, ...], sizes: tuple[int, ...]) -> Timing:
        """Time lone runs and batches by turns, at as many sizes as there is time for.

        Before each batch that is timed there is one of another size, as there is between clients' tasks.
        PERF: after another size a run of 14 us takes 25 us more.
        """
        until_s = time.monotonic() + _MOST_TRIAL_S
        costs_s: dict[int, float] = {}
        singles: list[float] = []
        for size in sizes:
            numbers = list(range(size))
            another = list(range(next((other for other in sizes if other != size), size)))
            costs: list[float] = []
            enough_s = time.monotonic() + _MOST_TURNS_S
            while len(costs) < _LEAST_TURNS or (len(costs) < _TURNS and time.monotonic() < enough_s):
                self._batch(another)
                start = time.perf_counter()
                self._single(numbers[len(costs) % size])
                between = time.perf_counter()
                self._batch(numbers)
                singles.append(between - start)
                costs.append(time.perf_counter() - between)
            costs_s[size] = min(costs)
            if time.monotonic() > until_s:
                break
        single_s = min(singles)
        is_calm = sorted(singles)[len(singles) // 2] <= _CALM * single_s
        return Timing(single_s, costs_s, tried, is_calm)

    def _single(self, number: int) -> tuple[TensorRef, ...]:
        task = self._tasks[number]
        self._version.bind(self._slot, task, self._arena, self._number)
        return self._version.infer(self._slot, task, self._arena)

    def _batch(self, numbers: Sequence[int]) -> list[tuple[TensorRef, ...]]:
        members = [(self._tasks[number], self._arena) for number in numbers]
        found = []
        for refs in self._form.infer(self._place, members):
            if isinstance(refs, OutputsTooLarge):
                raise refs
            found.append(refs)
        return found

    def _compare(self, numbers: Sequence[int]) -> list[list[bytes]]:
        """Hold a batch against lone runs; what each task got."""
        while len(self._right) <= max(numbers):
            refs = self._single(len(self._right))
            self._right.append(tuple((ref.shape, bytes(self._arena.view(ref))) for ref in refs))
        for number in numbers:
            self._cover(number)
        gotten: list[list[bytes]] = []
        for number, refs in zip(numbers, self._batch(numbers), strict=True):
            end = self._tasks[number].output_offset_bytes
            gotten.append([])
            for spec, ref, (shape, content) in zip(
                self._version.outputs, refs, self._right[number], strict=True
            ):
                if ref.shape != shape:
                    raise NotBatched(f"output {spec.name!r} of a task in a batch has another shape")
                found = bytes(self._arena.view(ref))
                if found != content and not self._is_same(spec, found, content):
                    how = "bits" if is_close(spec, found, content) else "values"
                    raise NotBatched(f"output {spec.name!r} has other {how} in a batch of {len(numbers)}")
                end = ref.offset_bytes + ref.nbytes
                gotten[-1].append(found)
            start = number * self._stride + self._inputs_end
            rest = self._arena.memory[end : start + self._output_nbytes + 64]
            if bytes(rest).strip(bytes([_PATTERN])):
                raise NotBatched("a batch writes where no output is")
        return gotten

    def _is_same(self, spec: TensorSpec, found: bytes, right: bytes) -> bool:
        """Whether an output differs by rounding only, where that is allowed, or by the bits of what is no number."""
        if not self._bounds.is_exact and is_close(spec, found, right):
            return True
        if spec.dtype.kind is not Kind.FLOAT:
            return False
        one, other = (np.frombuffer(part, spec.dtype.numpy) for part in (found, right))
        are_none = np.isnan(one)
        return bool(
            (are_none == np.isnan(other)).all() and one[~are_none].tobytes() == other[~are_none].tobytes()
        )

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
                self._version.bind(self._slot, task, arena, self._number)
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
