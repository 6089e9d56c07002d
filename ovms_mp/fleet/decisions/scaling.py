# SPDX-License-Identifier: Apache-2.0
"""How many servers a fleet needs, by what those that requests go to have to do."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.fleet.decisions.observation import ObservedServer
    from ovms_mp.fleet.decisions.plan import Scaling
    from ovms_mp.fleet.decisions.specification import FleetSpec

_ROUNDING = 1e-6


def rescale(
    scaling: Scaling, specification: FleetSpec, servers: Sequence[ObservedServer], time_s: float
) -> None:
    """Set the number of servers that is wanted.

    More are wanted at once; less only when less has been enough for a while, and then step by step. Servers whose load
    is not known count like the others; while none is known, what is wanted is taken to be needed.

    Args:
        scaling: Is changed.
        specification: The rule, and the bounds.
        servers: Those that share the load.
        time_s: The plan's clock.
    """
    rule = specification.scaling
    needed = _needed(specification, servers)
    if needed is None:
        needed = float(scaling.wanted)
    peaks = [
        (at_s, peak) for at_s, peak in scaling.peaks if at_s > time_s - rule.down_after_s and peak > needed
    ]
    scaling.peaks = [*peaks, (time_s, needed)]
    peak = scaling.peaks[0][1]
    if needed > scaling.wanted * (1 + rule.tolerance):
        scaling.wanted = math.ceil(needed - _ROUNDING)
    elif (
        peak < scaling.wanted * (1 - rule.tolerance)
        and time_s >= rule.down_after_s
        and time_s >= scaling.reduced_s + rule.cool_down_s
    ):
        step = max(1, int(scaling.wanted * rule.down_step))
        scaling.wanted = max(math.ceil(peak - _ROUNDING), scaling.wanted - step)
        scaling.reduced_s = time_s
    scaling.wanted = min(max(scaling.wanted, specification.servers_min), specification.servers_max)


def _needed(specification: FleetSpec, servers: Sequence[ObservedServer]) -> float | None:
    rule = specification.scaling
    loads = [
        server.utilisation + min((server.queue_depth or 0.0) / rule.queue_depth, 1.0)
        for server in servers
        if server.utilisation is not None
    ]
    return sum(loads) / len(loads) * len(servers) / rule.utilisation if loads else None
