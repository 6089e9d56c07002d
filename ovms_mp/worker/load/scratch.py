# SPDX-License-Identifier: Apache-2.0
"""An arena for a proof: inputs and outputs lie in it as in a front's, and everything around them is watched."""

from __future__ import annotations

import operator
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ovms_mp.wire.allocator import ALIGNMENT_BYTES, aligned
from ovms_mp.wire.arena import Arena, create_arena_file
from ovms_mp.wire.records import ArenaHandle, TensorRef
from ovms_mp.wire.tasks import InferTask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.model.dtypes import AnyArray
    from ovms_mp.worker.load.variants import Shapes

_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Round:
    """One run of the task path: which values, and in which of two places inputs and outputs are."""

    values: int
    inputs: int
    outputs: int


@dataclass(frozen=True, slots=True)
class Answer:
    """An output as the engine's own tensor holds it. Compared as bytes: a NaN equals itself."""

    shape: tuple[int, ...]
    content: bytes


class Scratch:
    """An arena with two places for the inputs and two for the outputs.

    ::

        gap | inputs 0 | gap | outputs 0 | gap | inputs 1 | gap | outputs 1 | gap

    A gap is what an arena's alignment guarantees and no more: its places are aligned to 64 bytes, not to pages.
    """

    def __init__(self, given: Sequence[AnyArray], right: Sequence[Sequence[Answer]]) -> None:
        inputs = sum(aligned(array.nbytes) for array in given)
        self._output_nbytes = max(sum(aligned(len(part.content)) for part in answer) for answer in right)
        self._inputs: list[int] = []
        self._outputs: list[int] = []
        end = ALIGNMENT_BYTES
        for _ in range(2):
            self._inputs.append(end)
            self._outputs.append(end + inputs + ALIGNMENT_BYTES)
            end = self._outputs[-1] + self._output_nbytes + ALIGNMENT_BYTES
        descriptor = create_arena_file(0, end)
        try:
            self.arena = Arena(ArenaHandle(descriptor, end))
        finally:
            os.close(descriptor)
        self._bytes = np.frombuffer(self.arena.memory, np.uint8)

    def prepare(self, move: Round, shapes: Shapes, given: Sequence[AnyArray], pattern: int) -> InferTask:
        """Fill everything with the pattern and write the inputs; the task for them."""
        self._bytes.fill(pattern)
        refs: list[TensorRef] = []
        offset = self._inputs[move.inputs]
        for shape, array in zip(shapes, given, strict=True):
            refs.append(TensorRef(offset, array.nbytes, shape))
            self._bytes[offset : offset + array.nbytes] = array
            offset += aligned(array.nbytes)
        return InferTask(0, 0, tuple(refs), self._outputs[move.outputs], self._output_nbytes, 0)

    def is_otherwise_untouched(
        self,
        task: InferTask,
        given: Sequence[AnyArray],
        outputs: Sequence[TensorRef],
        right: Sequence[Answer],
        pattern: int,
    ) -> bool:
        """Whether everything but the outputs is as it was before the run."""
        kept = [(ref.offset_bytes, array) for ref, array in zip(task.inputs, given, strict=True)]
        kept += [
            (ref.offset_bytes, np.frombuffer(answer.content, np.uint8))
            for ref, answer in zip(outputs, right, strict=True)
        ]
        end = 0
        for offset, content in sorted(kept, key=operator.itemgetter(0)):
            if not np.array_equal(self._bytes[offset : offset + len(content)], content):
                return False
            if not _holds_only(self._bytes[end:offset], pattern):
                return False
            end = offset + len(content)
        return _holds_only(self._bytes[end:], pattern)


def _holds_only(content: AnyArray, byte: int) -> bool:
    """Whether all bytes are this one; in pieces, as what a comparison makes is as long as what it compares."""
    return all(
        bool((content[start : start + _PIECE_BYTES] == byte).all())
        for start in range(0, len(content), _PIECE_BYTES)
    )
