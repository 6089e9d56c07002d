# SPDX-License-Identifier: Apache-2.0
"""Which lines of the log are written, in every process: the truth about it, and who has been told.

Fronts have it by their snapshots. Workers and the fetcher get a message and answer it, the arbiter reads it from its
pipe; what starts later is told on its command line. A trial, which ends by itself, logs to its end as it began.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.defects import contain
from ovms_mp.log import apply_levels
from ovms_mp.log_levels import LogLevels
from ovms_mp.manager.changes.course import Outcome
from ovms_mp.manager.children.child import Child, ChildState
from ovms_mp.manager.children.kinds import Kind
from ovms_mp.wire.messages import LevelsChanged

if TYPE_CHECKING:
    from ovms_mp.manager.children.control import ControlChannel
    from ovms_mp.manager.children.supervisor import Supervisor
    from ovms_mp.manager.fronts.arbiter_pipes import ArbiterPipes
    from ovms_mp.wire.changes import SetLog

_TOLD = (Kind.WORKER, Kind.FETCHER)
"""Children that are told by a message of their own."""


class CurrentLevels:
    """What is to be logged at this moment; for those who start children."""

    def __init__(self, levels: LogLevels) -> None:
        self.levels = levels

    def read(self) -> LogLevels:
        """The levels."""
        return self.levels


class LogState:
    """Owned by the manager's loop.

    Attributes:
        is_changed: Whether the newest snapshot does not have the levels as they are.
    """

    def __init__(
        self,
        current: CurrentLevels,
        log_file: str,
        supervisor: Supervisor,
        control: ControlChannel,
        arbiter: ArbiterPipes,
    ) -> None:
        """Prepare.

        Args:
            current: Changed here only.
            log_file: The file that is logged to, as clients are told; empty for none.
            supervisor: Of all children.
            control: The way to workers and fetcher.
            arbiter: The way to the arbiter.
        """
        self._current = current
        self.log_file = log_file
        self._supervisor = supervisor
        self._control = control
        self._arbiter = arbiter
        self._epoch = 0
        self.is_changed = False

    @property
    def levels(self) -> LogLevels:
        """What is to be logged."""
        return self._current.levels

    def set(self, change: SetLog) -> bool:
        """Log something else from now on; whether it is something else."""
        now = self.levels
        levels = LogLevels(
            now.info if change.info is None else change.info,
            now.warning if change.warning is None else change.warning,
            now.error if change.error is None else change.error,
            now.verbose if change.verbose is None else change.verbose,
            now.form if change.form is None else change.form,
        )
        if levels == now:
            return False
        self._current.levels = levels
        apply_levels(levels)
        self._arbiter.tell(levels)
        self.is_changed = True
        return True

    def note_snapshot(self, epoch: int) -> None:
        """What has changed until now is in the snapshot of this number: tell those that get none."""
        if self.is_changed:
            self._epoch = epoch
            self.is_changed = False
            for child in self._children():
                contain("manager.levels", child.child_id, self._tell, child)

    def greeted(self, child: Child) -> None:
        """A child has said hello; what it was told at its start may be old."""
        if self._epoch and child.kind in _TOLD:
            self._tell(child)

    def is_applied(self) -> bool:
        """Whether workers and fetcher log what they are to, and fronts are being told."""
        return not self.is_changed and all(child.applied_epoch >= self._epoch for child in self._children())

    def course(self, change: SetLog) -> LogCourse:
        """A change of the levels."""
        return LogCourse(self, change)

    def _children(self) -> list[Child]:
        return [child for child in self._supervisor.living(*_TOLD) if child.state is not ChildState.SPAWNED]

    def _tell(self, child: Child) -> None:
        self._control.send(child, LevelsChanged(self._epoch, self.levels))


@dataclass(slots=True)
class LogCourse:
    """See :class:`~.course.Course`."""

    log: LogState
    change: SetLog
    subject: str = ""
    is_changed: bool = False

    def begin(self) -> None:
        """Log something else."""
        self.is_changed = self.log.set(self.change)

    def outcome(self) -> Outcome | None:
        """It is done when the last worker has said so."""
        return Outcome(self.is_changed) if self.log.is_applied() else None
