# SPDX-License-Identifier: Apache-2.0
"""A turn under way: what it was given, the plan that it makes, and what several of its steps ask."""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from typing import TYPE_CHECKING

from ovms_mp.fleet.decisions.observation import ObservedServer, ServerState

if TYPE_CHECKING:
    from ovms_mp.fleet.decisions.observation import Observation
    from ovms_mp.fleet.decisions.plan import Plan, PlannedServer
    from ovms_mp.fleet.decisions.specification import FleetSpec, ModelSpec, ServerSpec


class Turn:
    """See above. Its steps change ``plan`` and add to ``notes``."""

    def __init__(self, specification: FleetSpec, observation: Observation, plan: Plan) -> None:
        self.specification = specification
        self.observation = observation
        self.plan = plan
        self.seen = {server.number: server for server in observation.servers}
        self.notes: list[str] = []

    def look(self, number: int) -> ObservedServer:
        """What was seen of a server, which may be nothing."""
        return self.seen.get(number) or ObservedServer(number=number, state=ServerState.STARTING)

    @cached_property
    def models(self) -> dict[str, ModelSpec]:
        """Those that the fleet is to have."""
        return {model.name: model for model in self.specification.models}

    @property
    def good(self) -> FleetSpec:
        """What has proved to run, or is taken to as there is nothing else."""
        return self.plan.good or self.specification

    @property
    def good_models(self) -> dict[str, ModelSpec]:
        """Those with the revisions that have proved to run."""
        return {model.name: model for model in self.plan.good.models} if self.plan.good else {}

    @property
    def aim(self) -> str:
        """The revision that all servers are to become."""
        wanted = self.specification.server.revision
        return self.good.server.revision if wanted in self.plan.failed else wanted

    @property
    def is_consistent(self) -> bool:
        """Whether servers of two revisions never answer at the same time."""
        return self.specification.update.is_consistent

    def server_of(self, revision: str) -> ServerSpec | None:
        """The settings that a revision names; None if nobody knows them any more."""
        known = (self.specification.server, self.good.server)
        return next((server for server in known if server.revision == revision), None)

    def model_of(self, name: str, revision: str) -> ModelSpec | None:
        """The settings of a model's revision; None if nobody knows them any more."""
        known = (self.models.get(name), self.good_models.get(name))
        return next((model for model in known if model is not None and model.revision == revision), None)

    def live(self) -> dict[int, PlannedServer]:
        """Servers that are to stay."""
        return {number: server for number, server in self.plan.servers.items() if not server.is_leaving}

    def begun(self) -> dict[int, PlannedServer]:
        """Those of them whose start is not put off."""
        return {n: server for n, server in self.live().items() if server.started_s <= self.plan.time_s}

    def has_settled(self, server: PlannedServer) -> bool:
        """Whether it has been ready for long enough to be called good, if only until it failed."""
        until_s = self.plan.time_s if server.unready_s is None else server.unready_s
        return (
            server.ready_s is not None and until_s - server.ready_s >= self.specification.deadlines.settle_s
        )

    def routed(self) -> list[ObservedServer]:
        """Servers that requests may go to.

        Also those that are not ready any more: balancers see for themselves who answers, and a controller that hears
        nothing of its servers may be the one that is cut off.
        """
        return [
            self.seen[number]
            for number, server in self.plan.servers.items()
            if server.stop_s is None
            and number in self.seen
            and (
                (state := self.seen[number].state) is ServerState.READY
                or (state is ServerState.UNREADY and server.ready_s is not None)
            )
            and (not self.is_consistent or server.revision == self.plan.routed)
        ]

    def copies_to_keep(self, name: str) -> int:
        """On how many servers a model must be served for one that leaves to take its copy along."""
        model = self.models.get(name)
        if model is None or (model.copies == 0 and name not in self.plan.asked_s):
            return 0
        return max(1, min(model.copies or 1, len(self.begun())))

    def availability(self) -> Counter[str]:
        """On how many of those each model is served."""
        return Counter(
            name for server in self.routed() for name, model in server.models.items() if model.served
        )
