# SPDX-License-Identifier: Apache-2.0
"""Shapes that fit a model's spec and cannot be served: of sizes that no tensor has, and of no elements at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.errors import ShapeMismatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.model.tensors import TensorSpec
    from ovms_mp.wire.records import TensorRef

_MOST_BYTES = 1 << 40
"""Of any tensor: the greatest --arena_size_mb."""


def refuse_impossible(spec: TensorSpec, shape: tuple[int, ...], arena_nbytes: int) -> None:
    """Refuse a shape of sizes that no tensor with elements could have.

    A tensor without elements, such as [0, 2^62], takes no memory, but what is computed of it may: outputs, and what an
    engine prepares for such shapes. So its other dimensions are held to what fits the arena, too.

    Args:
        spec: The model's input, which accepts the shape.
        shape: Of a tensor.
        arena_nbytes: Size of this front's shared memory.

    Raises:
        ShapeMismatch: There are too many elements.
    """
    is_empty = 0 in shape
    limit = arena_nbytes if is_empty else _MOST_BYTES
    nbytes = spec.dtype.nbytes(size or 1 for size in shape)
    if nbytes > limit:
        text = "its dimensions other than 0 would take" if is_empty else "it would take"
        raise ShapeMismatch(
            f"The input data is incorrect. Obtained shape {list(shape)}, which no tensor can have: {text} "
            f"{nbytes} bytes as {spec.dtype.name}, the limit is {limit} (--arena_size_mb) (input {spec.name!r})"
        )


def refuse_results_of_nothing(shapes: Sequence[tuple[int, ...]], results: Sequence[TensorRef]) -> None:
    """Refuse an answer with elements to a request without any.

    The engine's kernels do not count on that: with OpenVINO 2026.4 on CPU, TopK and GatherND of [3, 0] answer whatever
    is in their memory, and ReduceMax the least number there is. A request of which only some inputs are empty, such as
    the cache of a text generator before its first token, is what models are made for.

    Raises:
        ShapeMismatch: All inputs are empty, and an output is not.
    """
    if any(result.nbytes for result in results) and all(0 in shape for shape in shapes):
        text = ", ".join(str(list(shape)) for shape in shapes)
        raise ShapeMismatch(
            f"The input data is incorrect. Obtained shape {text}, which has no elements to compute an output of"
        )
