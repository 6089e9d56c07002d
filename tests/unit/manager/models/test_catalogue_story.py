# SPDX-License-Identifier: Apache-2.0
"""Whatever happens to a catalogue, in any order. See :mod:`.world`."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from ovms_mp.model.status import State
from ovms_mp.model.versions import All, Latest, Specific, desired_versions

from ..fakes import Clock, load_failed, loaded, unloaded
from ..world import World, model, put, remove, steady_clock

if TYPE_CHECKING:
    pass

# Whatever happens.


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["put", "change", "remove"]), st.integers(1, 3)),
        st.tuples(st.sampled_from(["tried", "untried", "answer", "fail"]), st.integers(0, 3)),
        st.tuples(st.sampled_from(["configure", "policy", "unconfigure"]), st.integers(1, 3)),
        st.tuples(
            st.sampled_from(["turn", "ask", "plan", "publish", "apply", "lose", "arrive", "wait"]), st.just(0)
        ),
    ),
    max_size=40,
)
POLICIES = [Latest(1), Latest(2), All(), Specific(frozenset({1, 2}))]


class Story(World):
    """A world to which anything may happen, in any order."""

    def __init__(self, base: Path, clock: Clock, settle_s: float) -> None:
        self.config = model(base)
        super().__init__(clock, self.config, settle_s=settle_s)
        self.base = base
        self.unanswered: list[tuple[str, str, int]] = []
        self.published: set[int] = set()
        self.routed: set[int] = set()
        """Handles that fronts may still use, by the snapshot that they applied."""
        self.seen = 1

    def happen(self, event: str, number: int) -> None:  # noqa: C901 - a list of events
        path = self.base / str(number)
        match event:
            case "put" if not path.exists():
                put(self.base, number)
            case "change" if path.exists():
                put(self.base, number, content=b"x" * (self.seen % 7 + 1))
                self.seen += 1
            case "remove" if path.exists():
                remove(self.base, number)
            case "tried" | "untried" if self.trials.waiting:
                self.end_trial("" if event == "tried" else "no")
            case "answer" | "fail" if self.unanswered:
                self.answer_one(number % len(self.unanswered), is_good=event == "answer")
            case "configure" | "policy":
                change = {"nireq": number} if event == "configure" else {"version_policy": POLICIES[number]}
                self.config = replace(self.config, **change)
                self.configure(self.config)
            case "unconfigure":
                self.configure()
            case "turn" | "ask":
                self.turn(is_asked=event == "ask")
            case "plan":
                self.plan()
            case "publish":
                self.publish()
            case "apply":
                self.apply()
            case "lose" if self.workers.devices:
                worker = sorted(self.workers.devices)[0]
                self.unanswered = [entry for entry in self.unanswered if entry[0] != worker]
                self.lose(worker)
            case "arrive" if len(self.workers.devices) < 2:
                self.arrive(f"n{self.seen:03}")
                self.seen += 1
            case "wait":
                self.clock.now += 10
        self.look()

    def publish(self) -> None:
        if self.catalogue.is_changed:
            self.published = {
                version.handle
                for record in self.catalogue.records()
                for version in record.versions
                if version.endpoints
            }
        super().publish()
        self.look()

    def apply(self) -> None:
        self.routed = set(self.published)
        super().apply()
        self.look()

    def answer_one(self, index: int, *, is_good: bool) -> None:
        worker, what, handle = self.unanswered.pop(index)
        if what == "unload":
            self.books.state_changed(worker, unloaded(handle))
        elif is_good:
            self.books.state_changed(worker, loaded(handle))
        else:
            self.workers.held[worker].discard(handle)
            self.books.state_changed(worker, load_failed(handle))

    def look(self) -> None:
        """What must hold at every moment."""
        sent = self.workers.take()
        for _, what, handle in sent:
            assert what == "load" or handle not in self.routed, "unloaded while fronts route to it"
        self.unanswered += sent
        held = set[int]().union(*self.workers.held.values())
        for record in self.catalogue.records():
            for version in record.versions:
                is_available = version.state == State.AVAILABLE
                assert bool(version.endpoints) == is_available
                assert not is_available or version.handle in held
                assert not version.error_code or version.error_message

    def settle(self) -> None:
        """Everything is answered well, and time passes."""
        for _ in range(20):
            self.clock.now += 100
            self.happen("turn", 0)
            for _ in range(40):
                self.happen("tried", 0)
                self.happen("answer", 0)


@settings(max_examples=60, deadline=None)
@given(events=EVENTS, settle_s=st.sampled_from([0.0, 5.0]))
def test_it_comes_to_serve_what_is_there_when_all_is_well_again(
    events: list[tuple[str, int]], settle_s: float
) -> None:
    with tempfile.TemporaryDirectory() as directory, steady_clock() as clock:
        logging.disable(logging.CRITICAL)
        story = Story(Path(directory), clock, settle_s)
        try:
            for event, number in events:
                story.happen(event, number)
            story.happen("arrive", 0)
            story.configure(story.config)
            story.settle()
            on_disk = [int(path.name) for path in Path(directory).iterdir()]
            served = [number for number, state in story.states().items() if state is State.AVAILABLE]

            assert served == list(desired_versions(on_disk, story.config.version_policy))
            assert story.default() == max(served, default=0)
            assert sorted(deployment.version for deployment in story.books) == served
            assert story.catalogue.is_settled()
            assert all(state in (State.AVAILABLE, State.END) for state in story.states().values())
            for number in served:
                message = story.books.find(story.versions()[number].handle)
                assert message is not None
                assert message.settings.nireq == story.config.nireq
        finally:
            logging.disable(logging.NOTSET)
