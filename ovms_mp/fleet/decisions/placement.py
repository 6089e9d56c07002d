# SPDX-License-Identifier: Apache-2.0
"""Which models are on which servers, by memory and load. What is placed stays unless its memory is needed for more."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from ovms_mp.fleet.decisions.plan import PlannedModel

if TYPE_CHECKING:
    from ovms_mp.fleet.decisions.plan import PlannedServer
    from ovms_mp.fleet.decisions.specification import ModelSpec
    from ovms_mp.fleet.decisions.turn import Turn

_GB = 1e9
_CROWDED, _LARGE = 0.9, 0.25
"""A server that is busier has too much to do; a model that does so much of it is to have another server besides."""


class Placement:
    """A turn's, on the servers that stay."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._time_s = turn.plan.time_s
        self._hosts = turn.begun()
        self._loads: defaultdict[str, float] = defaultdict(float)
        self._crowded = set[str]()
        for number, server in self._hosts.items():
            for name in server.models.keys() - turn.models.keys():
                del server.models[name]
            seen = turn.look(number)
            for name, model in seen.models.items():
                self._loads[name] += model.load
                if (seen.utilisation or 0.0) > _CROWDED and model.load > _LARGE:
                    self._crowded.add(name)
        self._copies = Counter(name for server in self._hosts.values() for name in server.models)
        self._room = {number: self._room_of(number) for number in self._hosts}

    def place(self) -> None:
        """Give every model its first copy, the largest before all, then the rest, and new revisions in turn."""
        self._note_demand()
        models = sorted(
            self._turn.models.values(), key=lambda model: (model.copies == 0, -model.memory_bytes, model.name)
        )
        for model in models:
            if not self._copies[model.name] and self._wanted(model) and not self._add(model, 1):
                self._make_room(model)
        for model in models:
            if self._copies[model.name]:
                self._add(model, self._wanted(model) - self._copies[model.name])
            if not self._turn.is_consistent:
                self._update(model)

    def _note_demand(self) -> None:
        asked_s = self._turn.plan.asked_s
        for name in self._turn.observation.asked | {name for name, load in self._loads.items() if load}:
            asked_s[name] = self._time_s
        earliest_s = self._time_s - self._turn.specification.deadlines.idle_s
        self._turn.plan.asked_s = {
            name: at_s for name, at_s in asked_s.items() if at_s >= earliest_s and name in self._turn.models
        }

    def _wanted(self, model: ModelSpec) -> int:
        if model.copies is None:
            return len(self._hosts)
        least = model.copies or model.name in self._turn.plan.asked_s
        by_load = math.ceil(self._loads[model.name] / self._turn.specification.scaling.utilisation)
        if model.name in self._crowded and not self._is_coming(model.name):
            by_load = max(by_load, self._copies[model.name] + 1)  # It shares a server with too much else.
        return min(max(least, by_load), len(self._hosts))

    def _is_coming(self, name: str) -> bool:
        """Whether a copy is being loaded, which will change the load of the others."""
        return any(
            name in server.models and server.models[name].served_s is None for server in self._hosts.values()
        )

    def _room_of(self, number: int) -> float:
        limit = self._turn.specification.server.memory_bytes
        if not limit:
            return math.inf
        seen = self._turn.look(number)
        sizes = {name: self._turn.models[name].memory_bytes for name in self._hosts[number].models}
        coming = sum(size for name, size in sizes.items() if not seen.model(name).served)
        return limit - max(sum(sizes.values()), (seen.used_bytes or 0) + coming)

    def _add(self, model: ModelSpec, count: int) -> int:
        """Place so many copies, on idle servers first; how many found room."""
        fitting = [
            number
            for number in (self._hosts if count > 0 else ())
            if model.name not in self._hosts[number].models and self._room[number] >= model.memory_bytes
        ]
        chosen = sorted(fitting, key=self._rank)[:count] if len(fitting) > count else fitting
        for number in chosen:
            server = self._hosts[number]
            revision = self._revision_for(server, model)
            server.models[model.name] = PlannedModel(revision=revision, since_s=self._time_s)
            self._room[number] -= model.memory_bytes
            self._copies[model.name] += 1
        return len(chosen)

    def _rank(self, number: int) -> tuple[bool, float, float, int]:
        load = self._turn.look(number).utilisation or 0.0
        return not self._hosts[number].is_ready, load, -self._room[number], number

    def _make_room(self, model: ModelSpec) -> None:
        """Place a model that is nowhere in place of copies that nobody needs, as few as possible."""
        best: tuple[int, int, list[str]] | None = None
        for number, server in self._hosts.items():
            sizes = {name: self._turn.models[name].memory_bytes for name in server.models}
            spare = sorted(
                (name for name in sizes if self._may_go(self._turn.models[name], model)),
                key=lambda name: -sizes[name],
            )
            room, taken = self._room[number], list[str]()
            while room < model.memory_bytes and spare:
                taken.append(spare.pop(0))
                room += sizes[taken[-1]]
            if room >= model.memory_bytes and (best is None or len(taken) < best[0]):
                best = len(taken), number, taken
        if best is None:
            self._note_no_room(model)
            return
        _, number, taken = best
        for name in taken:
            del self._hosts[number].models[name]
            self._copies[name] -= 1
            self._room[number] += self._turn.models[name].memory_bytes
        self._add(model, 1)

    def _may_go(self, model: ModelSpec, other: ModelSpec) -> bool:
        """Whether a copy of a model may make room for another one's first."""
        return self._copies[model.name] > self._wanted(model) or (model.copies == 0 and other.copies != 0)

    def _note_no_room(self, model: ModelSpec) -> None:
        most = max(self._room, key=self._room.__getitem__, default=None)
        limit = self._turn.specification.server.memory_bytes / _GB
        self._turn.notes.append(
            f"model {model.name} is on no server: it takes {model.memory_bytes / _GB:.2f} GB, "
            + (
                "and no server runs"
                if most is None
                else f"and the most room is {max(0.0, self._room[most]) / _GB:.2f} of {limit:.2f} GB, on server {most}"
            )
        )

    def _revision_for(self, server: PlannedServer, model: ModelSpec) -> str:
        """That of a new copy: the one that has proved to run, if there is one."""
        good = self._turn.good_models.get(model.name)
        is_new = server.revision == self._turn.specification.server.revision
        return model.revision if good is None or (self._turn.is_consistent and is_new) else good.revision

    def _update(self, model: ModelSpec) -> None:
        """Have servers load another revision, one until that has proved to run, then some at a time."""
        turn = self._turn
        good, name = turn.good_models.get(model.name), f"{model.name} {model.revision}"
        revision = good.revision if good is not None and name in turn.plan.failed else model.revision
        copies = {
            number: server.models[model.name]
            for number, server in self._hosts.items()
            if server.is_ready and model.name in server.models
        }
        behind = [number for number, copy in copies.items() if copy.revision != revision]
        new = {number: copy for number, copy in copies.items() if copy.revision == revision}
        if good is None:
            most = len(behind)
        elif good.revision == revision:
            most = turn.specification.update.surge - sum(copy.served_s is None for copy in new.values())
        else:
            most = 1 - len(new)
            for number, copy in new.items():
                self._give_up_if_failed(model, number, copy)
        for number in behind[: max(0, most)]:
            self._hosts[number].models[model.name] = PlannedModel(revision=revision, since_s=self._time_s)

    def _give_up_if_failed(self, model: ModelSpec, number: int, copy: PlannedModel) -> None:
        there = self._turn.look(number).model(model.name)
        load_s = self._turn.specification.deadlines.load_s
        reason = there.failure if there.revision == copy.revision else ""
        if not reason and copy.served_s is None and self._time_s - copy.since_s > load_s:
            reason = f"not loaded within {load_s:g} s"
        if reason:
            self._turn.plan.failed[f"{model.name} {model.revision}"] = f"server {number}: {reason}"
