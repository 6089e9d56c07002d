# SPDX-License-Identifier: Apache-2.0
"""Reloads: each has ended when everything that followed from it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.manager.changes.course import Outcome

if TYPE_CHECKING:
    from ovms_mp.manager.models.catalogue import Catalogue
    from ovms_mp.manager.models.rescans import Rescans


class Reloads:
    """Owned by the manager's loop."""

    def __init__(self, catalogue: Catalogue, rescans: Rescans) -> None:
        self._catalogue = catalogue
        self._rescans = rescans

    def course(self) -> ReloadCourse:
        """A reload."""
        return ReloadCourse(self)

    def begin(self) -> tuple[int, int]:
        """Look at everything in this turn; how many changes and failures there have been before."""
        self._rescans.look_now()
        return self._catalogue.changes, self._catalogue.failures

    def outcome(self, before: tuple[int, int]) -> Outcome | None:
        """What has come of one; None while something goes on that it may have begun."""
        rescans = self._rescans
        if rescans.is_due or rescans.is_reading or not self._catalogue.is_settled():
            return None
        changes, failures = before
        refusal = rescans.config_refusal
        error = None if refusal is None else refusal.error
        if error is None and self._catalogue.failures > failures:
            error = self._catalogue.last_failure
        return Outcome(self._catalogue.changes != changes, error)


@dataclass(slots=True)
class ReloadCourse:
    """See :class:`~.course.Course`. Several at once are as good as one."""

    reloads: Reloads
    subject: str = ""
    before: tuple[int, int] = (0, 0)

    def begin(self) -> None:
        """Look at everything."""
        self.before = self.reloads.begin()

    def outcome(self) -> Outcome | None:
        """What came of it."""
        return self.reloads.outcome(self.before)
