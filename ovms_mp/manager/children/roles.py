# SPDX-License-Identifier: Apache-2.0
"""Roles: names under which the supervisor keeps a child running, and when a dead child is replaced.

A successor is spawned at once when its predecessor had served, else after a growing, capped delay. A role whose
children die again and again before they are ready is given up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.manager.children.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovms_mp.child.specs import ChildSpec
    from ovms_mp.manager.children.child import Child

BACKOFF_LONGEST_S = 5.0
_BACKOFF_FIRST_S = 0.1
_MAX_DEATHS_IN_BOOT = 8
_STABLE_S = 1.0
"""A child that was ready for so long has served, whatever it counts as progress."""


@dataclass(frozen=True, slots=True)
class RoleFailure:
    """A role that cannot be filled.

    Attributes:
        role: Its name.
        reason: Why, for people.
        is_vital: Whether the server must stop; else the role has been given up, and it can do without.
    """

    role: str
    reason: str
    is_vital: bool


def no_pause() -> float:
    """No delay."""
    return 0.0


@dataclass(slots=True)
class Role:
    """A name, e.g. ``grpc-0``, that one child after another has.

    Attributes:
        kind: What its children run.
        make_spec: Makes the command line of a process with the given child id.
        descriptors: What they inherit.
        generation: How many children it has had; a part of the child id.
        is_wanted: Whether who dies is replaced.
        is_vital: Whether the server must stop when it cannot be filled.
        pause_s: How long a successor must wait at least; asked when one is due.
    """

    name: str
    kind: Kind
    make_spec: Callable[[str], ChildSpec]
    descriptors: tuple[int, ...]
    is_vital: bool = True
    pause_s: Callable[[], float] = no_pause
    generation: int = 0
    deaths_in_boot: int = 0
    quick_deaths: int = 0
    is_wanted: bool = True

    def next_id(self) -> str:
        """Return the child id of the next process."""
        self.generation += 1
        return f"{self.name}.{self.generation}"

    def spawn_failed(self) -> bool:
        """Count a spawn that the system refused; whether to try again."""
        self.deaths_in_boot += 1
        return self.deaths_in_boot <= _MAX_DEATHS_IN_BOOT

    def died(self, child: Child, reason: str, now: float) -> str:
        """Count a death.

        Args:
            child: Who died.
            reason: How.
            now: Monotonic seconds.

        Returns:
            Why a successor would fail as well; empty if one is to be spawned.
        """
        if not child.was_ready and child.status is not None and child.status >= 0:
            return f"{child.child_id} could not start: {reason}; its reason is in the log above"
        self.deaths_in_boot = 0 if child.was_ready else self.deaths_in_boot + 1
        if self.deaths_in_boot > _MAX_DEATHS_IN_BOOT:
            times = self.deaths_in_boot
            return f"{self.name} died {times} times in a row before it was ready; the last one: {reason}"
        # A worker's progress is requests answered; a front's only says that its loop turns.
        has_answered = child.kind is Kind.WORKER and child.progress > 0
        has_served = child.was_ready and (has_answered or now - child.ready_at > _STABLE_S)
        self.quick_deaths = 0 if has_served else self.quick_deaths + 1
        return ""

    def delay_s(self) -> float:
        """Delay before the next child is spawned, in seconds."""
        delay_s = 0.0
        if self.quick_deaths > 1:
            delay_s = min(BACKOFF_LONGEST_S, _BACKOFF_FIRST_S * 2.0 ** (self.quick_deaths - 2))
        return max(delay_s, self.pause_s())
