# SPDX-License-Identifier: Apache-2.0
"""What runs several tasks of one compiled model at once, as the rest of the worker knows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import openvino as ov

    from ovms_mp.wire.arena import Arena
    from ovms_mp.wire.records import TensorRef
    from ovms_mp.wire.tasks import InferTask
    from ovms_mp.worker.load.variants import Shapes


class OutputsTooLarge(Exception):
    """The outputs do not fit the leased region; they would with ``needed_nbytes``."""

    def __init__(self, needed_nbytes: int) -> None:
        super().__init__(needed_nbytes)
        self.needed_nbytes = needed_nbytes


@dataclass(frozen=True, slots=True)
class FirstForm:
    """What another form of a version that serves is to be batched like.

    Attributes:
        verdict: See :attr:`Batches.verdict`; None where the version is not batched.
    """

    verdict: object


class Batches(Protocol):
    """Implemented by :class:`ovms_mp.worker.batching.form.BatchForm`."""

    @property
    def verdict(self) -> object:
        """What the trial has found, for who loads another form of the version."""

    def again(self, old: ov.CompiledModel, new: ov.CompiledModel, slots: Iterable[object]) -> Batches:
        """The same for a version that has been compiled again, as the old compiled model was broken."""

    def most(self, waiting: int) -> int:
        """How many of so many tasks to run together now; 1 for none. Called by the loop."""

    def shapes_of(self, task: InferTask) -> Shapes | None:
        """A task's shapes; those of equal ones may run together. None where it has to run alone."""

    def ran_alone(self, task: InferTask, outputs: Sequence[TensorRef]) -> None:
        """A task has run by itself; others of its shapes may run together from now on. Called by the loop."""

    def infer(
        self, slot: object, members: Sequence[tuple[InferTask, Arena]]
    ) -> list[tuple[TensorRef, ...] | OutputsTooLarge]:
        """Run tasks together, beside an infer request that is not used meanwhile; each one's outputs.

        Raises:
            InferenceFailed: The engine raised.
            ProtocolError: One of them does not fit; which one, running them alone tells.
        """

    def pause(self) -> None:
        """A batch has failed: run tasks one by one for a while. Callable from any thread."""
