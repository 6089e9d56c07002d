# SPDX-License-Identifier: Apache-2.0
"""Reloads: each has ended when everything that followed from it has.

What may have followed from it is what was under way once it had looked. Each model is waited for until it has come to
rest once: where clients load and unload models all the time, there may be no moment at which all of them are at rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
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

    @property
    def is_looking(self) -> bool:
        """Whether more may be wanted than is known, but for what stores have of it."""
        return self._rescans.is_due or self._rescans.is_reading_config

    def under_way(self) -> set[str]:
        """Models, by name, of which a store is being read, or something is being loaded, unloaded or copied."""
        return self._catalogue.unsettled() | self._rescans.awaited()

    def outcome(self, before: tuple[int, int]) -> Outcome:
        """What has come of one."""
        changes, failures = before
        refusal = self._rescans.config_refusal
        error = None if refusal is None else refusal.error
        if error is None and self._catalogue.failures > failures:
            error = self._catalogue.last_failure
        return Outcome(self._catalogue.changes != changes, error)


@dataclass(slots=True)
class ReloadCourse:
    """See :class:`~.course.Course`. Several at once are as good as one.

    Attributes:
        before: What :meth:`Reloads.begin` said.
        has_looked: Whether :attr:`awaited` is known.
        awaited: Models that something of this may still be under way for.
    """

    reloads: Reloads
    subject: str = ""
    before: tuple[int, int] = (0, 0)
    has_looked: bool = False
    awaited: set[str] = field(default_factory=set)

    def begin(self) -> None:
        """Look at everything."""
        self.before = self.reloads.begin()

    def outcome(self) -> Outcome | None:
        """What came of it."""
        if not self.has_looked:
            if self.reloads.is_looking:
                return None
            self.has_looked, self.awaited = True, self.reloads.under_way()
        elif self.awaited:
            self.awaited &= self.reloads.under_way()
        return None if self.awaited else self.reloads.outcome(self.before)
