# SPDX-License-Identifier: Apache-2.0
"""The proof of a compiled model: its answers in shared memory equal those in the engine's own tensors, bit by bit.

How an engine treats tensors that it is given cannot be taken for granted. Seen with OpenVINO 2026.4 on CPU: where an
output is an input that passes through, ``set_output_tensor`` replaces the *input*, and the model answers with what was
in the output's place before: another client's data. So a freshly compiled model has its outputs copied, and they are
bound to shared memory only once a few runs have shown that this changes nothing::

    own tensors of a fresh infer request: zeros, made-up values --> what is right
    the task path of CompiledVersion (bind, infer), outputs bound    -- equal --> bound
                                     ... places set to zero first    -- equal --> cleared
                                     ... outputs copied              -- equal --> copied
                                     ... inputs copied, too          -- equal --> copied inputs=copied
                                                                     -- not   --> ModelLoadFailed

From run to run tensors move to other places and back, as leases do, and the whole scratch arena holds a pattern before
each: a byte that a run did not write, or wrote where it should not, is a difference. (With dynamic shapes, an output
that is an input was seen to be written to where the input of the run before was.) Nothing has to be checked for each
request then: requests are bound the same way, and operations that may leave a part of their output unwritten, as they
find less than there is room for, find next to nothing in the proof's inputs.

A compiled model on which something went wrong is not used any more: its nodes may keep pointing at places that it was
bound to, even when another infer request runs (seen: a crash, when those places were gone), or stay broken after a run
that failed. The next attempt is for the next one.

The probe proves what it compiles, so that a crash is its own; the worker proves it again, as its compiled model is
another one: imported from the cache.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ovms_mp.errors import InferenceFailed, ModelLoadFailed, ProtocolError
from ovms_mp.model.dtypes import DType, Kind, element_count
from ovms_mp.worker.engine.engine import engine_text
from ovms_mp.worker.engine.stages import FIRST_INFERENCE, begin_stage
from ovms_mp.worker.load.batches import OutputsTooLarge
from ovms_mp.worker.load.compiled import CompiledVersion, InferSlot, OutputPath, Result
from ovms_mp.worker.load.scratch import Answer, Round, Scratch
from ovms_mp.worker.load.string_tensors import PackedStrings, StringInput, made_up_strings, run

if TYPE_CHECKING:
    import openvino as ov

    from ovms_mp.model.dtypes import AnyArray
    from ovms_mp.model.tensors import TensorSpec
    from ovms_mp.worker.load.variants import Shapes

_QUICK_RUN_S, _LONG_RUN_S, _VERY_LONG_RUN_S = 0.005, 0.05, 0.5
"""PERF: ResNet-50 (14 ms on two cores) is run four times instead of two, a tenth of what its load took."""
_PATTERNS = (0xA5, 0x5A)
"""What the scratch arena is filled with, in turns; both, as an output may well consist of one of them."""
_SCRATCH_ARENA = -1
"""The scratch arena's number; those of fronts begin at 0."""

_MOVES = (Round(0, 0, 0), Round(1, 1, 1))
_BACK = Round(0, 0, 0)
_MORE_MOVES = (Round(1, 0, 0), Round(0, 1, 0), Round(1, 1, 1))
"""New values in the same places, and inputs and outputs moving by themselves."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What to prove of a compiled model.

    Attributes:
        number: How many differences there were before; decides how outputs reach shared memory.
        has_values: Whether to run it on made-up values, too, and not on zeros only.
        remark: Why it is not the first attempt.
    """

    number: int = 0
    has_values: bool = True
    remark: str = ""


class AttemptFailed(Exception):
    """The attempt failed, and what was compiled is spoilt; the next one is for the model compiled again."""

    def __init__(self, next_attempt: Attempt) -> None:
        super().__init__(next_attempt.remark)
        self.next_attempt = next_attempt


@dataclass(frozen=True, slots=True)
class Proof:
    """What the proof of a compiled model has shown.

    Attributes:
        path: How outputs reach shared memory from now on.
        run_time_s: Of the fastest run; None where the model cannot run on the smallest shapes it takes, which says
            nothing about real ones.
        trial_s: How long the proof took.
        remark: What people should know about it; may be empty.
        answers: A digest of what is right on the values that it ran; empty where it ran none.
    """

    path: OutputPath
    run_time_s: float | None
    trial_s: float
    remark: str = ""
    answers: bytes = b""

    def __str__(self) -> str:
        """For the log and the version's status."""
        remark = f" ({self.remark})" if self.remark else ""
        return f"outputs={self.path.value}{remark} trial_s={self.trial_s:.3f}"


def prove(
    version: CompiledVersion,
    attempt: Attempt,
    shapes: Shapes | None = None,
    *,
    must_run: bool,
    must_agree: bool = True,
) -> Proof:
    """Find out whether a compiled model answers as the engine by itself does, and warm it up.

    Args:
        version: Freshly compiled; nothing has run on it, and nothing runs on it meanwhile.
        attempt: What to prove.
        shapes: Of its inputs; without them, dynamic dimensions are as small as they may be.
        must_run: Whether a model that cannot run on zeros is broken.
        must_agree: Whether a model that answers differently even when outputs are copied is broken; not where several
            devices may answer, each a little differently.

    Raises:
        ModelLoadFailed: It cannot run though it must, or it answers differently each way.
        AttemptFailed: There is another attempt to make.
    """
    begin_stage(FIRST_INFERENCE)
    start = time.perf_counter()
    version.tried_shapes = shapes or version.least_shapes
    runs = _ProofRuns(version, version.tried_shapes)
    try:
        runs.ask(0)
    except RuntimeError as error:
        if must_run:
            raise ModelLoadFailed(f"trial inference failed: {engine_text(error)}") from None
        remark = "the trial's shapes cannot be run"
        return Proof(OutputPath.BOTH_COPIED, None, time.perf_counter() - start, remark)
    if attempt.has_values:
        try:
            runs.ask(1)
            version.has_tried_values = True
        except RuntimeError:
            remark = "tried on zeros only, as it cannot run on made-up values"
            raise AttemptFailed(replace(attempt, has_values=False, remark=remark)) from None
    path, remark = _choose_path(version, attempt, runs, must_agree=must_agree)
    runs.warm_up()
    return Proof(path, runs.best_s, time.perf_counter() - start, remark, runs.digest())


def _choose_path(
    version: CompiledVersion, attempt: Attempt, runs: _ProofRuns, *, must_agree: bool
) -> tuple[OutputPath, str]:
    """Have the outputs take the path of the attempt, if that changes nothing; path and remark."""
    if attempt.number and not runs.is_repeatable():
        # No comparison can tell; what is copied is at least what the engine wrote.
        version.take(OutputPath.BOTH_COPIED)
        return OutputPath.BOTH_COPIED, "its answers differ from run to run"
    paths = _paths(version, attempt)
    path = paths[attempt.number]
    version.take(path)
    difference = runs.difference()
    if not difference:
        return path, attempt.remark
    if attempt.number < len(paths) - 1:
        remark = (
            attempt.remark if attempt.number else _joined(attempt.remark, f"when {path.value}, {difference}")
        )
        raise AttemptFailed(replace(attempt, number=attempt.number + 1, remark=remark))
    if must_agree:
        raise ModelLoadFailed(f"it answers differently each time its tensors move in memory: {difference}")
    return path, "its answers may come from several devices"


def _paths(version: CompiledVersion, attempt: Attempt) -> tuple[OutputPath, ...]:
    """What to attempt, one after another."""
    if not version.can_bind:
        return (OutputPath.COPIED, OutputPath.BOTH_COPIED)
    # On zeros alone, an output that was only cleared looks right.
    return tuple(path for path in OutputPath if attempt.has_values or path is not OutputPath.CLEARED)


def _joined(*remarks: str) -> str:
    return "; ".join(filter(None, remarks))


class _ProofRuns:
    """The runs of one proof."""

    def __init__(self, version: CompiledVersion, shapes: Shapes) -> None:
        self.best_s = float("inf")
        self._version = version
        self._shapes = shapes
        self._given = [
            [
                made_up(spec, shape, is_zero=is_zero)
                for spec, shape in zip(version.inputs, shapes, strict=True)
            ]
            for is_zero in (True, False)
        ]
        self._right: list[list[Answer]] = []
        self._own = InferSlot(version.compiled, len(version.inputs), len(version.outputs))

    @functools.cached_property
    def _scratch(self) -> Scratch:
        return Scratch(self._given[0], self._right)

    def ask(self, values: int) -> None:
        """Have the engine answer with tensors of its own; what it says is right.

        Raises:
            RuntimeError: It cannot.
        """
        self._right.append(self._ask(values))

    def digest(self) -> bytes:
        """Of what is right."""
        found = hashlib.blake2b(digest_size=16)
        for answers in self._right:
            for answer in answers:
                found.update(repr(answer.shape).encode())
                found.update(answer.content)
        return found.digest()

    def is_repeatable(self) -> bool:
        """Whether the engine answers as it did, when it is asked again."""
        try:
            return all(self._ask(values) == right for values, right in enumerate(self._right))
        except RuntimeError:
            return False

    def difference(self) -> str:
        """What is different from what is right on the task path; empty when nothing is."""
        version = self._version
        slot = InferSlot(version.compiled, len(version.inputs), len(version.outputs))
        for number, move in enumerate(self._moves()):
            if move.values < len(self._right):
                pattern = _PATTERNS[number % len(_PATTERNS)]
                if difference := self._difference(slot, move, pattern):
                    return difference
        version.forget_places()
        return ""

    def _moves(self) -> tuple[Round, ...]:
        """As many rounds as the time of a run allows."""
        if self.best_s <= _QUICK_RUN_S:
            return (*_MOVES, _BACK, *_MORE_MOVES)
        if not self._version.is_static or not self._version.can_bind:
            return (*_MOVES, _BACK)
        return _MOVES if self.best_s <= _VERY_LONG_RUN_S or len(self._right) == 1 else _MOVES[1:]

    def warm_up(self) -> None:
        """Run the infer requests but the first on zeros, quick ones twice; the proof's runs stand for the first.

        On the task path, as all runs from now on.
        """
        version = self._version
        # Answers that differ from run to run may not fit either.
        with contextlib.suppress(OutputsTooLarge, InferenceFailed):
            for slot in version.slots[1:]:
                for _ in range(2 if self.best_s <= _LONG_RUN_S else 1):
                    task = self._scratch.prepare(_MOVES[0], self._shapes, self._given[0], 0)
                    version.bind(slot, task, self._scratch.arena, _SCRATCH_ARENA)
                    version.infer(slot, task, self._scratch.arena)
        version.forget_places()

    def _ask(self, values: int) -> list[Answer]:
        request = self._own.request
        _reset_state(request)
        if self._version.can_bind:
            # What it does not write shall be zeros, not what was in the memory that it got.
            for index in range(len(self._version.outputs)):
                _bytes_of(request.get_output_tensor(index)).fill(0)
        for index, (shape, array) in enumerate(zip(self._shapes, self._given[values], strict=True)):
            if self._version.inputs[index].dtype is DType.BYTES:
                maker = self._own.string_inputs.setdefault(index, StringInput())
                request.set_input_tensor(index, maker.tensor(array.data, shape))
                continue
            tensor = request.get_input_tensor(index)
            if tuple(tensor.shape) != shape:
                tensor.shape = shape
            _bytes_of(tensor)[:] = array
        start = time.perf_counter()
        run(request)
        self.best_s = min(self.best_s, time.perf_counter() - start)
        return [_answer_of(result) for result in self._version.results_of(self._own)]

    def _difference(self, slot: InferSlot, move: Round, pattern: int) -> str:
        scratch = self._scratch
        version, right = self._version, self._right[move.values]
        task = scratch.prepare(move, self._shapes, self._given[move.values], pattern)
        _reset_state(slot.request)
        try:
            version.bind(slot, task, scratch.arena, _SCRATCH_ARENA)
            start = time.perf_counter()
            refs = version.infer(slot, task, scratch.arena)
            self.best_s = min(self.best_s, time.perf_counter() - start)
        except OutputsTooLarge as error:
            return f"{error.needed_nbytes} bytes of outputs in place of {task.output_nbytes}"
        except (InferenceFailed, ProtocolError) as error:
            return error.message
        for spec, ref, answer in zip(version.outputs, refs, right, strict=True):
            if ref.shape != answer.shape:
                return f"output {spec.name!r} has shape {list(ref.shape)} in place of {list(answer.shape)}"
            if scratch.arena.view(ref) != answer.content:
                return f"output {spec.name!r} has other values"
        if not scratch.is_otherwise_untouched(task, self._given[move.values], refs, right, pattern):
            return "it writes where no output is"
        return ""


def made_up(spec: TensorSpec, shape: tuple[int, ...], *, is_zero: bool) -> AnyArray:
    """The bytes of an input to try a model on.

    No integer is above 1: it may be an index, and some operations read wherever that points. Fractions differ from
    their neighbours, and are below 1 as they may become integers.
    """
    count = element_count(shape)
    if spec.dtype is DType.BYTES:
        return made_up_strings(count, is_zero=is_zero)
    if is_zero:
        return np.zeros(count * spec.dtype.itemsize, np.uint8)
    period = [(1 + step) / 64 for step in range(47)] if spec.dtype.kind is Kind.FLOAT else [1, 0]
    return np.resize(np.array(period).astype(spec.dtype.numpy), count).view(np.uint8)


def _answer_of(result: Result) -> Answer:
    if isinstance(result, PackedStrings):
        return Answer(result.shape, result.to_bytes())
    return Answer(result.shape, result.tobytes())


def _reset_state(request: ov.InferRequest) -> None:
    with contextlib.suppress(RuntimeError):  # Not every device has states.
        request.reset_state()


def _bytes_of(tensor: ov.Tensor) -> AnyArray:
    return np.asarray(tensor.data).reshape(-1).view(np.uint8)
