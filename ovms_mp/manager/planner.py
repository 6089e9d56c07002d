# SPDX-License-Identifier: Apache-2.0
"""The planner: from what is on disk, what the policy wants and what is loaded, to what to do next. Pure.

Availability comes first: a version is only taken away for a better one after that one is AVAILABLE. A version
whose load failed is left out when the policy chooses, so the next lower one is served instead, and it is
tried again when its back-off is over. Only a version that has gone from disk, or that the policy never
wanted, is unloaded at once. After TensorFlow Serving's ``availability_preserving_policy.cc``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.model.status import State
from ovms_mp.model.versions import desired_versions

if TYPE_CHECKING:
    from collections.abc import Mapping, Set

    from ovms_mp.model.versions import VersionPolicy


@dataclass(frozen=True, slots=True)
class Known:
    """What the planner needs to know of a version that was seen before.

    Attributes:
        state: Its state.
        has_failed: LOADING with an error.
        retry_at: Monotonic seconds; when a failed load may be tried again.
    """

    state: State
    has_failed: bool = False
    retry_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Actions, each ascending by version.

    Attributes:
        load: Versions to load, for the first time or again.
        unload: Versions to take out of service.
        forget: Versions whose load failed or waits, and that nobody wants any more: END without a worker's
            help.
        next_retry_at: When to plan again even if nothing changes; None for never.
    """

    load: tuple[int, ...]
    unload: tuple[int, ...]
    forget: tuple[int, ...]
    next_retry_at: float | None


def plan(available: Set[int], policy: VersionPolicy, known: Mapping[int, Known], now: float) -> Plan:
    """Decide for one model.

    Args:
        available: Versions complete on disk.
        policy: Which of them the model wants.
        known: Versions seen before.
        now: Monotonic seconds.
    """
    failed = {version for version, entry in known.items() if entry.has_failed}
    wanted = set(desired_versions(available, policy))
    serving = set(desired_versions(available - failed, policy))
    load: list[int] = []
    retries: list[float] = []
    # A failed version that would be served if it loaded is worth another try, below a better one that failed too.
    hoped = {
        version for version in failed if version in desired_versions(available - (failed - {version}), policy)
    }
    for version in sorted(wanted | serving | hoped):
        entry = known.get(version)
        if entry is None or entry.state is State.END:
            load.append(version)
        elif entry.has_failed:
            if entry.retry_at <= now:
                load.append(version)
            else:
                retries.append(entry.retry_at)
    may_replace = all(version in known and known[version].state is State.AVAILABLE for version in serving)
    unload: list[int] = []
    forget: list[int] = []
    for version, entry in sorted(known.items()):
        if version in wanted or version in serving or version in hoped:
            continue
        if entry.has_failed or entry.state is State.START:
            forget.append(version)
        elif entry.state is State.AVAILABLE and (may_replace or version not in available):
            unload.append(version)
    return Plan(tuple(load), tuple(unload), tuple(forget), min(retries, default=None))
