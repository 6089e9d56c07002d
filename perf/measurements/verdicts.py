# SPDX-License-Identifier: Apache-2.0
"""Whether a scenario's targets are met."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from perf.load.scenario import Scenario, Target
from perf.report.records import SERVER, Measurement, Verdict


def judge(scenario: Scenario, measurements: Sequence[Measurement]) -> list[Verdict]:
    """Hold the server against the scenario's targets; nothing without measurements of both sides."""
    verdicts: list[Verdict] = []
    for target in scenario.targets:
        values = _target_values(target, measurements)
        if not values:
            continue
        value = statistics.median(values)
        is_met = value >= target.limit if target.measure == "rate_ratio" else value <= target.limit
        verdicts.append(
            Verdict(
                scenario=scenario.name,
                floor=target.floor,
                measure=target.measure,
                limit=target.limit,
                value=value,
                low=min(values),
                high=max(values),
                is_met=is_met,
            )
        )
    return verdicts


def _target_values(target: Target, measurements: Sequence[Measurement]) -> list[float]:
    """The target's measure, once a repeat."""
    floors = {found.repeat: found for found in measurements if found.subject == target.floor}
    servers = [found for found in measurements if found.subject == SERVER and found.repeat in floors]
    if target.measure == "rate_ratio":
        return [found.rate_per_s / floors[found.repeat].rate_per_s for found in servers]
    pairs = ((found.p50_ms, floors[found.repeat].p50_ms) for found in servers)
    known = [(ours, floor) for ours, floor in pairs if ours is not None and floor is not None]
    if target.measure == "p50_ratio":
        return [ours / floor for ours, floor in known]
    return [ours - floor for ours, floor in known]
