# SPDX-License-Identifier: Apache-2.0
"""One turn of a fleet's controller: from what is wanted, observed and planned to a new plan, routes and actions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ovms_mp.fleet.decisions.observation import Action, Observation
from ovms_mp.fleet.decisions.plan import Plan
from ovms_mp.fleet.decisions.specification import FleetSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What follows from a turn.

    Attributes:
        plan: To be kept, before anything else is done.
        routed: Servers that requests go to.
        routes: The same for each model: those of them that serve it.
        actions: To be carried out when the balancers have the routes.
        notes: Sentences on what does not go as wanted, for the fleet's status.
    """

    plan: Plan
    routed: tuple[int, ...]
    routes: Mapping[str, tuple[int, ...]]
    actions: tuple[Action, ...]
    notes: tuple[str, ...]


def decide(specification: FleetSpec, observation: Observation, plan: Plan, now_s: float) -> Decision:
    """Decide what the fleet does next.

    Args:
        specification: What it is to be.
        observation: What it is; servers that are not in it do not exist.
        plan: The last turn's; an empty one at the beginning.
        now_s: The caller's monotonic clock.
    """
    raise NotImplementedError
