# SPDX-License-Identifier: Apache-2.0
"""Memory for the outputs of a request: known, learned or guessed, and bounded where requests choose its size."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from ovms_mp.errors import AnswerTooLarge
from ovms_mp.model.dtypes import DType
from ovms_mp.wire.allocator import aligned

if TYPE_CHECKING:
    from ovms_mp.front.routing import VersionRoute

_Shapes: TypeAlias = tuple[tuple[int, ...], ...]

_GUESSED_STRING_BYTES = 16
"""As a multiple of the least that a string takes."""
_MAX_HINTS = 1024
_MOST_GUESSED_BYTES = 64 << 20


class OutputRoom:
    """Sizes of outputs, by version and input shapes."""

    def __init__(self, max_nbytes: int) -> None:
        """Begin with nothing learned.

        Args:
            max_nbytes: Longest outputs of a model whose output shapes are dynamic.
        """
        self._max_nbytes = max_nbytes
        self._hints: dict[tuple[int, _Shapes], int] = {}

    def nbytes(self, route: VersionRoute, shapes: _Shapes) -> int:
        """Room for the outputs: exact for static shapes, what was learned for dynamic ones, else a guess."""
        if route.static_output_nbytes is not None:
            return route.static_output_nbytes
        hint = self._hints.get((route.handle, shapes))
        if hint is not None:
            return hint
        # The first dimension of an output mostly is the batch, as is the first input's.
        batch = shapes[0][0] if shapes and shapes[0] else 1
        guess = sum(
            aligned(
                (_GUESSED_STRING_BYTES if spec.dtype is DType.BYTES else 1)
                * spec.dtype.nbytes(
                    size if size >= 0 else (batch if axis == 0 else 1) for axis, size in enumerate(spec.dims)
                )
            )
            for spec in route.outputs
        )
        # A batch costs nothing where another dimension is 0.
        return min(guess, _MOST_GUESSED_BYTES)

    def check(self, route: VersionRoute, needed_nbytes: int) -> None:
        """Hold what a request's outputs need against the limit.

        Raises:
            AnswerTooLarge: The request chose more.
        """
        if route.static_output_nbytes is None and needed_nbytes > self._max_nbytes:
            raise AnswerTooLarge(
                f"{route.title}: the outputs of this request have {needed_nbytes} bytes, the limit is "
                f"{self._max_nbytes}, the lower of --max_message_mb and half of --arena_size_mb"
            ) from None

    def learn(self, route: VersionRoute, shapes: _Shapes, needed_nbytes: int) -> None:
        """Remember what outputs needed for these input shapes."""
        if len(self._hints) >= _MAX_HINTS:
            self._hints.clear()
        self._hints[(route.handle, shapes)] = needed_nbytes
