# SPDX-License-Identifier: Apache-2.0
"""How much is traced. Fronts have it by their snapshots; nobody else traces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.errors import UnsupportedOperation
from ovms_mp.manager.changes.course import Outcome
from ovms_mp.wire.records import TraceSettings

if TYPE_CHECKING:
    from ovms_mp.wire.changes import SetTrace


class TraceState:
    """Owned by the manager's loop.

    Attributes:
        settings: What fronts are to do; None where the server was started without tracing.
        is_changed: Whether the newest snapshot does not have them.
    """

    def __init__(self, settings: TraceSettings | None) -> None:
        self.settings = settings
        self.is_changed = False

    def note_snapshot(self, _epoch: int) -> None:
        """What has changed until now is in a snapshot."""
        self.is_changed = False

    def set(self, change: SetTrace) -> bool:
        """Trace more or less from now on; whether it is.

        Raises:
            UnsupportedOperation: The server was started without tracing.
        """
        now = self.settings
        if now is None:
            raise UnsupportedOperation("this server was started without --trace")
        settings = TraceSettings(
            now.is_on if change.is_on is None else change.is_on,
            now.rate if change.rate is None else change.rate,
        )
        is_other = settings != now
        self.settings = settings
        self.is_changed |= is_other
        return is_other

    def course(self, change: SetTrace) -> TraceCourse:
        """A change of these."""
        return TraceCourse(self, change)


@dataclass(slots=True)
class TraceCourse:
    """See :class:`~.course.Course`; has its outcome when it has begun."""

    state: TraceState
    change: SetTrace
    subject: str = ""
    is_changed: bool = False

    def begin(self) -> None:
        """Trace more or less."""
        self.is_changed = self.state.set(self.change)

    def outcome(self) -> Outcome:
        """It is done."""
        return Outcome(self.is_changed)
