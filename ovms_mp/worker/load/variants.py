# SPDX-License-Identifier: Apache-2.0
"""Shapes of a version that is compiled for one set of input shapes at a time. Pure bookkeeping.

Where ``auto`` shapes cannot be served by one dynamic compiled model, the version has *variants*: one compiled model for
each set of input shapes that clients send. They are kept, up to a number, and the least recently used makes room::

    new shapes --> waiting (tasks queue up) --> held (compiling, then serving) --> let go (finishes what it has)
                       |                            ^
                       +-- no room: until a held variant is idle, or patience ends

Nothing here compiles, waits or answers; :mod:`ovms_mp.worker.run.shaping` does.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

from ovms_mp.errors import Code

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovms_mp.errors import OvmsError

Shapes: TypeAlias = tuple[tuple[int, ...], ...]
"""The shape of each input, in the order of the version's input specs."""
VariantT = TypeVar("VariantT")

MOST_VARIANTS = 16
"""Each holds a compiled model, which for a large one is hundreds of megabytes; clients that send more shapes than
this in turn should bucket them, or give the model a range instead of ``auto``."""
_PATIENCE_S = 1.0
"""So long shapes without room wait for a held variant to become idle; then the least recently used one has to go."""
_MOST_REFUSALS = 64
_RETRY_AFTER_S = 30.0
"""A failure that is not about the shapes themselves, such as memory that ran out, is remembered for this long."""


@dataclass(slots=True)
class _Waiting(Generic[VariantT]):
    variant: VariantT
    since_s: float


@dataclass(frozen=True, slots=True)
class Turn(Generic[VariantT]):
    """What to compile now, and who had to make room for it."""

    shapes: Shapes
    variant: VariantT
    let_go: VariantT | None


@dataclass(slots=True)
class VariantTable(Generic[VariantT]):
    """The variants of one version that take new tasks, by their shapes."""

    capacity: int = MOST_VARIANTS
    _held: OrderedDict[Shapes, VariantT] = field(default_factory=OrderedDict)
    """Compiled or being compiled; the least recently used first."""
    _waiting: OrderedDict[Shapes, _Waiting[VariantT]] = field(default_factory=OrderedDict)
    """Not begun; the oldest first."""

    def find(self, shapes: Shapes) -> VariantT | None:
        """The variant for these shapes, which counts as its use; None when there is none yet."""
        variant = self._held.get(shapes)
        if variant is not None:
            self._held.move_to_end(shapes)
            return variant
        waiting = self._waiting.get(shapes)
        return None if waiting is None else waiting.variant

    def hold(self, shapes: Shapes, variant: VariantT) -> None:
        """Take in a variant that is compiled already."""
        self._held[shapes] = variant

    def queue(self, shapes: Shapes, variant: VariantT, now_s: float) -> None:
        """Take in a variant that still has to be compiled."""
        self._waiting[shapes] = _Waiting(variant, now_s)

    def drop(self, shapes: Shapes) -> None:
        """Forget a variant that cannot be compiled, or that nobody waits for any more."""
        self._held.pop(shapes, None)
        self._waiting.pop(shapes, None)

    def next_turn(self, is_idle: Callable[[VariantT], bool], now_s: float) -> Turn[VariantT] | None:
        """The longest waiting variant, which now counts as held; None when none waits or none can make room.

        Args:
            is_idle: Whether a held variant has neither tasks nor a run, and is not being compiled.
            now_s: This moment.
        """
        if not self._waiting:
            return None
        let_go: VariantT | None = None
        shapes, oldest = next(iter(self._waiting.items()))
        if len(self._held) >= self.capacity:
            victim = next((held for held, variant in self._held.items() if is_idle(variant)), None)
            if victim is None and now_s - oldest.since_s >= _PATIENCE_S:
                victim = next(iter(self._held))
            if victim is None:
                return None
            let_go = self._held.pop(victim)
        del self._waiting[shapes]
        self._held[shapes] = oldest.variant
        return Turn(shapes, oldest.variant, let_go)

    @property
    def has_waiting(self) -> bool:
        """Whether a variant waits to be compiled."""
        return bool(self._waiting)

    def shapes(self) -> tuple[tuple[Shapes, ...], tuple[Shapes, ...]]:
        """(held, waiting), each in its order; for people and tests."""
        return tuple(self._held), tuple(self._waiting)


@dataclass(slots=True)
class Refusals:
    """Shapes that a version cannot take, with the reason, so that a client's mistake is not examined each time."""

    _errors: OrderedDict[Shapes, tuple[OvmsError, float]] = field(default_factory=OrderedDict)

    def add(self, shapes: Shapes, error: OvmsError, now_s: float) -> None:
        """Remember a refusal: for good where the client's shapes are wrong, else for a while."""
        is_final = error.code is Code.INVALID_ARGUMENT
        self._errors[shapes] = (error, float("inf") if is_final else now_s + _RETRY_AFTER_S)
        self._errors.move_to_end(shapes)
        if len(self._errors) > _MOST_REFUSALS:
            self._errors.popitem(last=False)

    def find(self, shapes: Shapes, now_s: float) -> OvmsError | None:
        """The remembered reason, as an exception that nobody has raised yet."""
        found = self._errors.get(shapes)
        if found is None:
            return None
        error, until_s = found
        if now_s >= until_s:
            del self._errors[shapes]
            return None
        self._errors.move_to_end(shapes)
        return type(error)(error.message)
