# SPDX-License-Identifier: Apache-2.0
"""Shares of a device: which of the models with waiting tasks may start one, so that their times are as their weights.

Start-time fair queueing of the time that infer requests run (Goyal, Vin and Cheng, 1996). Each model has a clock, which
a run moves by its time divided by the model's weight and by the number of its infer requests, as all of these together
have the device. The model that is behind starts; others do so while they are ahead of it by one of its runs at most,
so that infer requests of several models stay busy. A model that comes back begins where the others are: who has asked
for nothing has saved nothing up.

All versions of a model, and their variants, have one share. A model that waits alone costs a look.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from collections.abc import Sequence

_STALL_RUNS, _LEAST_STALL_S = 10, 0.1
"""A model that has started nothing for so many of its run times, e.g. as its engine hangs, holds nobody up."""


@dataclass(slots=True, weakref_slot=True)
class Share:
    """Of one model.

    Attributes:
        weight: Its time in proportion to others'.
        clock_s: What it has had of the device, by its weight, since some moment that all clocks share.
        is_waiting: Whether it had tasks when it was last looked at.
        started_s: When its last run began, of a version that runs in threads; monotonic.
    """

    weight: int = 1
    clock_s: float = 0.0
    is_waiting: bool = False
    started_s: float = 0.0


class Contender(Protocol):
    """A version, as far as its model's share goes."""

    share: Share
    run_time_s: float

    @property
    def nireq(self) -> int:
        """So many of its runs at once have the device."""

    @property
    def has_tasks(self) -> bool:
        """Whether some wait."""

    def free_pool(self) -> object | None:
        """What can take a task now."""


ContenderT = TypeVar("ContenderT", bound=Contender)


class Shares:
    """The shares of all models of one worker. Belongs to the loop."""

    def __init__(self) -> None:
        """Begin with none."""
        self._shares: WeakValueDictionary[str, Share] = WeakValueDictionary()
        self._now_s = 0.0
        """The clock of who started last, at that moment."""

    def of(self, name: str, weight: int) -> Share:
        """A model's share, which its versions have together; a newer one says the weight for all."""
        share = self._shares.get(name)
        if share is None:
            share = self._shares[name] = Share(clock_s=self._now_s)
        share.weight = weight
        return share

    def due(self, waiting: Sequence[ContenderT], now_s: float) -> Sequence[ContenderT]:
        """Those that may start a task, out of those that have some and that are compiled.

        Args:
            waiting: All that have tasks, in the order of their turns.
            now_s: Monotonic.
        """
        least: ContenderT | None = None
        for version in waiting:
            share = version.share
            if not share.is_waiting:
                share.is_waiting = True
                share.clock_s = max(share.clock_s, self._now_s)
            if (least is None or share.clock_s < least.share.clock_s) and (
                version.free_pool() or not _has_stalled(version, now_s)
            ):
                least = version
        if least is None:
            return ()
        most_s = least.share.clock_s + charge_s(least, least.run_time_s)
        return [version for version in waiting if version.share.clock_s <= most_s and version.free_pool()]

    def began(self, version: Contender, now_s: float) -> float:
        """A run begins that takes its usual time; what it was charged."""
        share = version.share
        share.started_s = now_s
        if not share.is_waiting:
            share.clock_s = max(share.clock_s, self._now_s)
        self._now_s = max(self._now_s, share.clock_s)
        charged_s = charge_s(version, version.run_time_s)
        share.clock_s += charged_s
        share.is_waiting = version.has_tasks
        return charged_s


def charge_s(version: Contender, run_time_s: float) -> float:
    """By how much a run moves its model's clock."""
    return run_time_s / (version.nireq * version.share.weight)


def _has_stalled(version: Contender, now_s: float) -> bool:
    return now_s - version.share.started_s > max(_LEAST_STALL_S, _STALL_RUNS * version.run_time_s)
