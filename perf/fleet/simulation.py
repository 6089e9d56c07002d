# SPDX-License-Identifier: Apache-2.0
"""The controller's own decision code through a simulated day, turn by turn."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from ovms_mp.fleet.decisions.decision import decide
from ovms_mp.fleet.decisions.plan import Plan
from ovms_mp.fleet.decisions.specification import FleetSpec, ModelSpec, ServerSpec, UpdateRule
from perf.fleet.world import ANSWERS_PER_S, NEW, OLD, Lost, World

if TYPE_CHECKING:
    from perf.fleet.day import Day

WARM_UP_S = 1800.0
"""Before the part that counts: the fleet begins with its least number."""
_PEAK = 0.85
"""Of the most servers are needed at the top of the daily curve."""
_LEAST = 0.05
_SURGE = 0.05
_ANOTHER_CLOCK_S = -1e6
_FLAP_S = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A turn: servers that the load needs, that are wanted, that are ready and routed to; lost requests of the turn."""

    time_s: float
    needed: float
    wanted: int
    serving: int
    lost: float
    new_part: float  # Of those that serve, by revision.


@dataclass(slots=True)
class Outcome:
    """What came of a day."""

    day: Day
    samples: list[Sample] = field(default_factory=list)
    sent: float = 0.0
    lost: Lost = field(default_factory=Lost)
    server_h: float = 0.0
    ideal_server_h: float = 0.0
    started: int = 0
    notes: dict[str, int] = field(default_factory=dict)  # Each with its number of turns.

    def lost_ppm(self) -> float:
        """Lost requests of a million."""
        return self.lost.total() / self.sent * 1e6 if self.sent else 0.0

    def cost(self) -> float:
        """Server hours relative to those of a fleet that always has exactly what its load needs."""
        return self.server_h / self.ideal_server_h

    def flaps(self) -> int:
        """How often what was wanted rose within a quarter of an hour after it had been reduced, or the reverse."""
        changes = [
            (after.time_s, after.wanted > before.wanted)
            for before, after in itertools.pairwise(self.samples)
            if after.wanted != before.wanted
        ]
        return sum(
            is_up != was_up and time_s - earlier_s < _FLAP_S
            for (earlier_s, was_up), (time_s, is_up) in itertools.pairwise(changes)
        )

    def updated_after_s(self) -> float | None:
        """How long after an update was asked for all servers were new."""
        if self.day.update_s is None:
            return None
        done = [s.time_s for s in self.samples if s.new_part == 1.0 and s.time_s > self.day.update_s]
        return done[0] - self.day.update_s if done else None


def specification(most: int, *, is_updated: bool, is_consistent: bool) -> FleetSpec:
    """The fleet that is asked for."""
    return FleetSpec(
        models=(ModelSpec(name="model", revision="1"),),
        server=ServerSpec(revision=NEW if is_updated else OLD),
        servers_min=max(1, round(most * _LEAST)),
        servers_max=most,
        update=UpdateRule(surge=max(1, round(most * _SURGE)), is_consistent=is_consistent),
    )


def simulate(day: Day, *, most: int, turn_s: float, begin_s: float, end_s: float, seed: int) -> Outcome:
    """Run a part of a day."""
    rule = specification(most, is_updated=False, is_consistent=False).scaling
    per_server = ANSWERS_PER_S * rule.utilisation
    world = World(day, most, _PEAK * most * per_server, seed)
    outcome, plan = Outcome(day), Plan()
    time_s = world.time_s = begin_s - WARM_UP_S
    now_offset_s = 0.0
    while time_s < end_s:
        if time_s < begin_s:
            world.reset()
        lost_before = world.lost.total()
        rate = world.advance(time_s)
        is_updated = day.update_s is not None and time_s >= day.update_s
        wanted = specification(most, is_updated=is_updated, is_consistent=day.is_consistent)
        if day.away is not None and time_s in day.away:
            now_offset_s = _ANOTHER_CLOCK_S
            plan = msgspec.json.decode(msgspec.json.encode(plan), type=Plan)
        else:
            decision = decide(wanted, world.observe(), plan, time_s + now_offset_s)
            plan = decision.plan
            world.routed = frozenset(decision.routed)
            world.carry_out(decision.actions)
            for note in decision.notes:
                outcome.notes[note] = outcome.notes.get(note, 0) + 1
        if time_s >= begin_s:
            needed = min(max(rate / per_server, wanted.servers_min), wanted.servers_max)
            outcome.ideal_server_h += needed * turn_s / 3600.0
            outcome.samples.append(
                Sample(
                    time_s=time_s,
                    needed=rate / per_server,
                    wanted=plan.scaling.wanted,
                    serving=world.serving(),
                    lost=world.lost.total() - lost_before,
                    new_part=world.new_part(),
                )
            )
        time_s += turn_s
    outcome.sent, outcome.lost, outcome.started = world.sent, world.lost, world.started
    outcome.server_h = world.server_s / 3600.0
    return outcome
