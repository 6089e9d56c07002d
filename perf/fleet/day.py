# SPDX-License-Identifier: Apache-2.0
"""A day: how many requests a second clients send, and what goes wrong when. Everything follows from a seed."""

from __future__ import annotations

import math
from dataclasses import dataclass

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
_PEAK_AT_S = 14 * HOUR_S


@dataclass(frozen=True, slots=True)
class Window:
    """A part of the day."""

    begin_s: float
    end_s: float

    def __contains__(self, time_s: float) -> bool:
        return self.begin_s <= time_s < self.end_s


def hours(begin: float, length: float) -> Window:
    """So many hours of the day from one on."""
    return Window(begin * HOUR_S, (begin + length) * HOUR_S)


@dataclass(frozen=True, slots=True)
class Spike:
    """Clients send more by a factor: it rises in a minute, stays, and falls in a minute."""

    window: Window
    factor: float
    ramp_s: float = 60.0

    def factor_at(self, time_s: float) -> float:
        """The factor at a time."""
        rise = (time_s - self.window.begin_s) / self.ramp_s
        fall = (self.window.end_s - time_s) / self.ramp_s
        return 1.0 + (self.factor - 1.0) * min(1.0, max(0.0, min(rise, fall)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """A day's load and faults.

    Attributes:
        night: Load at night as a part of the peak's.
        noise: Relative standard deviation of the load from turn to turn, and of what servers report.
        deaths_per_day: Of each server, on average.
        bad_share: Part of the machines on which every server dies soon after it was ready.
        slow: When servers take ``slow_factor`` as long to start.
        lost_zone: When a third of the machines is cut off.
        blind: When the controller hears nothing of ``blind_share`` of the servers, which serve all the same.
        away: When there is no controller; its successor has another clock.
        update_s: When another revision of the servers is asked for.
        is_bad_update: Servers of it are never ready.
        is_consistent: The update is to be.
        room: Servers that the machines have room for, relative to the most that is wanted.
    """

    name: str
    about: str
    night: float = 0.15
    noise: float = 0.03
    spikes: tuple[Spike, ...] = ()
    deaths_per_day: float = 0.0
    bad_share: float = 0.0
    slow: Window | None = None
    slow_factor: float = 10.0
    lost_zone: Window | None = None
    blind: Window | None = None
    blind_share: float = 1.0
    away: Window | None = None
    update_s: float | None = None
    is_bad_update: bool = False
    is_consistent: bool = False
    room: float = 1.5

    def load(self, time_s: float) -> float:
        """The load at a time, relative to the peak of the daily curve."""
        wave = 0.5 + 0.5 * math.cos(2 * math.pi * (time_s - _PEAK_AT_S) / DAY_S)
        load = self.night + (1.0 - self.night) * math.pow(wave, 1.5)
        for spike in self.spikes:
            load *= spike.factor_at(time_s)
        return load


_SPIKES = (
    Spike(hours(7.0, 0.4), 1.8),
    Spike(hours(11.0, 0.25), 1.5),
    Spike(hours(19.0, 0.5), 2.0),
    Spike(hours(2.0, 0.05), 3.0),
)
DAYS = (
    Day(name="curve", about="the daily curve alone"),
    Day(name="spikes", about="four spikes of 1.5 to 3 times", spikes=_SPIKES),
    Day(
        name="deaths",
        about="a server dies once a day, on 1% of the machines at once",
        deaths_per_day=1.0,
        bad_share=0.01,
    ),
    Day(name="zone", about="a third of the machines is cut off at the peak", lost_zone=hours(13.5, 1.0)),
    Day(name="no-room", about="the same, and no room for more", lost_zone=hours(13.5, 1.0), room=1.05),
    Day(
        name="slow",
        about="starts take ten times as long, from before a spike on",
        slow=hours(6.5, 2.0),
        spikes=_SPIKES,
    ),
    Day(name="update", about="a rolling update in the morning", update_s=9 * HOUR_S),
    Day(
        name="consistent",
        about="a consistent update in the morning",
        update_s=9 * HOUR_S,
        is_consistent=True,
        room=2.2,
    ),
    Day(
        name="bad-update",
        about="an update that is never ready, and deaths",
        update_s=7 * HOUR_S,
        is_bad_update=True,
        deaths_per_day=4.0,
    ),
    Day(
        name="blind",
        about="the controller hears nothing of any server for 10 minutes",
        blind=hours(13.5, 1 / 6),
    ),
    Day(name="half-blind", about="... of half of them", blind=hours(13.5, 1 / 6), blind_share=0.5),
    Day(
        name="away",
        about="no controller for 10 minutes in the morning",
        away=hours(8.0, 1 / 6),
        deaths_per_day=1.0,
    ),
    Day(
        name="all",
        about="spikes, deaths, a lost zone, slow starts, an update, a blind and an absent controller",
        spikes=_SPIKES,
        deaths_per_day=1.0,
        bad_share=0.01,
        slow=hours(8.0, 2.0),
        lost_zone=hours(13.5, 1.0),
        blind=hours(16.0, 1 / 6),
        away=hours(10.5, 1 / 6),
        update_s=9 * HOUR_S,
    ),
)
"""By what they try; the last has everything at once."""
