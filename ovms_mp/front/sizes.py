# SPDX-License-Identifier: Apache-2.0
"""Shapes that fit a model's spec, and that no tensor can have: refused before anything is sized by them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.errors import ShapeMismatch
from ovms_mp.model.dtypes import element_count

if TYPE_CHECKING:
    from ovms_mp.model.tensors import TensorSpec

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
    nbytes = element_count(size or 1 for size in shape) * spec.dtype.itemsize
    if nbytes > limit:
        text = "its dimensions other than 0 would take" if is_empty else "it would take"
        raise ShapeMismatch(
            f"The input data is incorrect. Obtained shape {list(shape)}, which no tensor can have: {text} {nbytes} bytes "
            f"as {spec.dtype.name}, the limit is {limit} (--arena_size_mb) (input {spec.name!r})"
        )
