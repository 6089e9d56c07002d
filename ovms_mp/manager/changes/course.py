# SPDX-License-Identifier: Apache-2.0
"""What a kind of change has to be able to do: begin, and say what has come of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ovms_mp.wire.records import ErrorRecord


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a change, as far as the manager and the workers are concerned.

    Attributes:
        is_changed: Whether something was loaded, unloaded or set.
        error: Why not all that is wanted was done.
    """

    is_changed: bool = True
    error: ErrorRecord | None = None


class Course(Protocol):
    """One change, from its begin to its outcome."""

    @property
    def subject(self) -> str:
        """Changes of one subject come one after another; empty for one that may go beside any other."""

    def begin(self) -> None:
        """Do it, or have it done.

        Raises:
            OvmsError: It cannot be done.
        """

    def outcome(self) -> Outcome | None:
        """What came of it; None while it goes on. Cheap, as it is asked in every turn of the loop."""


class Snapshots(Protocol):
    """What fronts have been told, and have applied."""

    @property
    def epoch(self) -> int:
        """Number of the newest snapshot."""

    @property
    def covering_epoch(self) -> int:
        """Number of the first snapshot that shows everything as it is now."""

    @property
    def applied_epoch(self) -> int:
        """The snapshot that every front has applied."""

    def behind(self, epoch: int) -> list[str]:
        """Fronts that have not applied this snapshot."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A change that could not begin."""

    error: ErrorRecord
    subject: str = ""

    def begin(self) -> None:
        """Nothing to do."""

    def outcome(self) -> Outcome:
        """Why."""
        return Outcome(is_changed=False, error=self.error)
