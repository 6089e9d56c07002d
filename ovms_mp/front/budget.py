# SPDX-License-Identifier: Apache-2.0
"""How much memory the bodies that a front is working on may take: one budget for all of them.

Each body has a share, which grows as its bytes arrive, are unpacked and are read, and which ends with its request.
Arena memory is not counted here; it has its own bound. Lives on the front's event loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.errors import BodyMemoryFull, RequestTooLarge
from ovms_mp.model.dtypes import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

    from ovms_mp.model.tensors import TensorSpec

MEBIBYTE = 1 << 20
_FRAME_BYTES = 64 << 10
"""What a body may hold besides its tensors' elements."""
_ELEMENT_BYTES = 64
"""Text that an element may take: a float64 takes 24 characters at most; the rest is for white space and brackets."""
_ROW_BYTES = 16
_ENCODED_IMAGE_BYTES = 32 * MEBIBYTE
"""Of an encoded image, which may well be longer than what the model makes of it."""
_ESCAPED_CHARACTER_BYTES = 6
_UNPACKED_RATIO = 16
UNPACKED_FLOOR_BYTES = 4 * MEBIBYTE
"""Packed tensors of zeros are a thousandth of what they become, so a ratio alone would refuse short ones."""


class BodyBudget:
    """The memory that all bodies of one front may take."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0

    @property
    def is_short(self) -> bool:
        """Whether less than an eighth of it is left."""
        return 8 * self.used_bytes > 7 * self.limit_bytes

    def share(self) -> BodyShare:
        """A share for one body; nothing yet. Use it as a context, or end it with :meth:`BodyShare.release`."""
        return BodyShare(self)


class BodyShare:
    """What one body takes of the budget."""

    __slots__ = ("_budget", "nbytes")

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self.nbytes = 0

    def grow(self, nbytes: int) -> None:
        """Take more.

        Raises:
            RequestTooLarge: It would not fit if this body were the only one.
            BodyMemoryFull: It does not fit now.
        """
        budget = self._budget
        if budget.used_bytes + nbytes > budget.limit_bytes:
            if self.nbytes + nbytes > budget.limit_bytes:
                raise RequestTooLarge(
                    f"the request needs {self.nbytes + nbytes} bytes of memory while it is read, but this front has "
                    f"{budget.limit_bytes} for all bodies (--max_body_memory_mb)"
                )
            raise BodyMemoryFull(
                f"the bodies in flight hold {budget.used_bytes} of the {budget.limit_bytes} bytes that this front has "
                f"for them (--max_body_memory_mb); try again later"
            )
        budget.used_bytes += nbytes
        self.nbytes += nbytes

    def shrink(self, nbytes: int) -> None:
        """Give back a part that is not held any more."""
        self._budget.used_bytes -= nbytes
        self.nbytes -= nbytes

    def release(self) -> None:
        """Give everything back; harmless when that has been done."""
        self.shrink(self.nbytes)

    def __enter__(self) -> Self:
        """The share itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give everything back."""
        self.release()


def body_bound(inputs: Iterable[TensorSpec]) -> int | None:
    """The longest body that a request to a model with these inputs can need; None where an input has no largest size.

    Generous: JSON with any white space that people write, and names repeated in every row.
    """
    bound = _FRAME_BYTES
    rows, row_bytes = 1, 0
    for spec in inputs:
        elements = 1
        if spec.dtype.kind is Kind.STRING:
            return None
        for _, high in spec.bounds:
            if high < 0:
                return None
            elements *= high
        bound += elements * _ELEMENT_BYTES
        if spec.takes_images:
            bound += _ENCODED_IMAGE_BYTES * max(1, spec.bounds[0][1])
        rows = max(rows, spec.bounds[0][1] if spec.bounds else 1)
        row_bytes += _ESCAPED_CHARACTER_BYTES * len(spec.name) + _ROW_BYTES
    return bound + rows * row_bytes


def unpacked_limit(
    packed_bytes: int, bound_bytes: int | None, max_unpacked_bytes: int, max_message_bytes: int
) -> int:
    """How long a compressed body may become.

    Args:
        packed_bytes: What came over the wire.
        bound_bytes: What the model's inputs can need, see :func:`body_bound`; None without an end.
        max_unpacked_bytes: The setting; 0 where it is automatic.
        max_message_bytes: The limit of every body.
    """
    if max_unpacked_bytes:
        limit = max_unpacked_bytes
    elif bound_bytes is not None:
        limit = bound_bytes
    else:
        limit = max(UNPACKED_FLOOR_BYTES, _UNPACKED_RATIO * packed_bytes)
    return min(limit, max_message_bytes)
