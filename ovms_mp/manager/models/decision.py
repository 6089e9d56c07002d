# SPDX-License-Identifier: Apache-2.0
"""What to do next with a model's versions, from what is on disk, what the policy wants and what is loaded. Pure.

Availability comes first: a version is only taken away for a better one after that one is AVAILABLE. A version
whose load failed is left out when the policy chooses, so the next lower one is served instead, and it is
tried again when its back-off is over. That holds also for a version that has gone from disk: what is in memory
serves until another can, if there is another. A version whose settings are not today's goes on serving until it
has been loaded anew beside itself. After TensorFlow Serving's ``availability_preserving_policy.cc``.
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
    """What counts of a version that was seen before.

    Attributes:
        state: Its state.
        has_failed: LOADING with an error.
        is_outdated: AVAILABLE, or about to be, with other settings than the configuration's, or with files that a
            client asked to be read again; and its successor is not on its way yet.
        retry_at: Monotonic seconds; when a failed load may be tried again.
    """

    state: State
    has_failed: bool = False
    is_outdated: bool = False
    retry_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """Actions, each ascending by version.

    Attributes:
        load: Versions to load, for the first time or again.
        replace: Versions to load again beside themselves.
        unload: Versions to take out of service.
        forget: Versions that are not served yet and that nobody wants any more: END without a front's help.
        next_retry_at: When to decide again even if nothing changes; None for never.
    """

    load: tuple[int, ...]
    replace: tuple[int, ...]
    unload: tuple[int, ...]
    forget: tuple[int, ...]
    next_retry_at: float | None


def decide(available: Set[int], policy: VersionPolicy, known: Mapping[int, Known], now: float) -> Decision:
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
    # A failed version that would be served if it loaded is worth another try, below a better one that failed too.
    hoped = {
        version for version in failed if version in desired_versions(available - (failed - {version}), policy)
    }
    kept = wanted | serving | hoped
    load: list[int] = []
    replace: list[int] = []
    retries: list[float] = []
    for version in sorted(kept):
        entry = known.get(version)
        actions = replace if entry is not None and entry.state is State.AVAILABLE else load
        if not _needs_load(entry):
            continue
        if entry is None or entry.retry_at <= now:
            actions.append(version)
        else:
            retries.append(entry.retry_at)
    may_replace = all(version in known and known[version].state is State.AVAILABLE for version in serving)
    unload: list[int] = []
    forget: list[int] = []
    for version, entry in sorted(known.items()):
        if version in kept or entry.state in (State.UNLOADING, State.END):
            continue
        if entry.state is State.AVAILABLE:
            if may_replace:
                unload.append(version)
        elif entry.has_failed or entry.state is State.START or may_replace or version not in available:
            forget.append(version)
    return Decision(tuple(load), tuple(replace), tuple(unload), tuple(forget), min(retries, default=None))


def _needs_load(entry: Known | None) -> bool:
    """Whether a version that is wanted lacks something that a load would bring."""
    if entry is None or entry.state in (State.START, State.END) or entry.has_failed:
        return True
    return entry.state is State.AVAILABLE and entry.is_outdated
