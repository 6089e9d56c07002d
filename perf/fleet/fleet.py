# SPDX-License-Identifier: Apache-2.0
"""Run a fleet's decision code through days of load and faults, with simulated servers.

Lost requests, cost relative to a fleet that always has exactly what its load needs, and flaps: how often the wanted
number rose within a quarter of an hour after it had been reduced, or the reverse. The same seed gives the same figures.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from perf.fleet.crowd import COMMON, RARE, SERVERS, simulate_crowd
from perf.fleet.day import DAYS, HOUR_S
from perf.fleet.drawing import draw
from perf.fleet.simulation import Outcome, simulate
from perf.report.console import say, say_table

_HEAD = (
    "day",
    "lost ppm",
    "refused",
    "died",
    "cut off",
    "stopped",
    "nobody",
    "cost",
    "flaps",
    "started",
    "updated",
)


def main(arguments: list[str]) -> int:
    """Run the command line; the exit code."""
    names = [day.name for day in DAYS]
    parser = argparse.ArgumentParser(prog="python -m perf fleet", description=__doc__.splitlines()[0])
    parser.add_argument("days", nargs="*", metavar="DAY", help=f"of {', '.join(names)}; all without any")
    parser.add_argument("--servers", type=int, default=1000, help="the most that are wanted")
    parser.add_argument("--turn", type=float, default=10.0, help="seconds between two turns")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--begin", type=float, default=0.0, help="hour of the day")
    parser.add_argument("--end", type=float, default=24.0, help="hour of the day")
    parser.add_argument("--quick", action="store_true", help="100 servers, for a look")
    parser.add_argument("--svg", type=Path, help="draw the days to this file")
    parser.add_argument("--models", action="store_true", help="a day of many models on few servers instead")
    parser.add_argument("--notes", action="store_true", help="what the controller said")
    given = parser.parse_args(arguments)
    if given.models:
        _say_crowd(given.turn, given.seed, given.end)
        return 0
    if unknown := set(given.days) - set(names):
        parser.error(f"no such day: {', '.join(sorted(unknown))}")
    most = 100 if given.quick else given.servers
    outcomes = []
    for day in DAYS:
        if not given.days or day.name in given.days:
            begun_s = time.monotonic()
            outcome = simulate(
                day,
                most=most,
                turn_s=given.turn,
                begin_s=given.begin * HOUR_S,
                end_s=given.end * HOUR_S,
                seed=given.seed,
            )
            outcomes.append(outcome)
            say(f"{day.name}: {day.about}; {time.monotonic() - begun_s:.0f} s")
            if given.notes:
                for note, turns in outcome.notes.items():
                    say(f"  {turns} turns: {note}")
    say_table([_HEAD, *map(_row, outcomes)])
    if given.svg is not None:
        given.svg.write_text(
            draw(outcomes, f"Simulated days of a fleet of up to {most} servers, seed {given.seed}")
        )
    return 0


def _row(outcome: Outcome) -> tuple[str, ...]:
    lost, after_s = outcome.lost, outcome.updated_after_s()
    return (
        outcome.day.name,
        f"{outcome.lost_ppm():,.2f}",
        *(f"{count:,.0f}" for count in (lost.refused, lost.died, lost.cut, lost.stopped, lost.nobody)),
        f"{outcome.cost():.3f}",
        f"{outcome.flaps()}",
        f"{outcome.started}",
        "" if outcome.day.update_s is None else "no" if after_s is None else f"{after_s / 60:.0f} min",
    )


def _say_crowd(turn_s: float, seed: int, end_h: float) -> None:
    say(
        f"{COMMON} models with a copy of their own and {RARE} that are loaded when asked for, {SERVERS} servers at most"
    )
    rows: list[tuple[str, ...]] = [
        ("memory", "not served", "overload", "loads", "unloads", "deaths", "wait for a load, median and most")
    ]
    for memory_gb in (32, 16):
        crowd = simulate_crowd(turn_s=turn_s, seed=seed, hours=end_h, memory_gb=memory_gb)
        waits = sorted(crowd.waits_s) or [0.0]
        rows.append(
            (
                f"{memory_gb} GB",
                f"{crowd.without_model_s / crowd.demand_s:.2%}",
                f"{crowd.over_s / crowd.demand_s:.2%}",
                f"{crowd.placed}",
                f"{crowd.removed}",
                f"{crowd.deaths}",
                f"{waits[len(waits) // 2]:.0f} s, {waits[-1]:.0f} s, of {len(waits)}",
            )
        )
    say_table(rows)
