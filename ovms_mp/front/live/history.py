# SPDX-License-Identifier: Apache-2.0
"""What has happened lately, told from one routing snapshot to the next."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import msgspec

from ovms_mp.model.status import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ovms_mp.wire.messages import RoutingSnapshot
    from ovms_mp.wire.records import VersionRecord

MOST_EVENTS = 200
LONGEST_TEXT = 600
"""Characters of a reason; an engine may quote whole models."""
_INFO, _WARNING, _ERROR = "info", "warning", "error"


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that has happened.

    Attributes:
        at_s: Seconds since the epoch.
        level: ``info``, ``warning`` or ``error``.
        text: One line for people.
        model: Which it is about; empty for none.
    """

    at_s: float
    level: str
    text: str
    model: str = ""


class History:
    """The last events that this front has seen."""

    def __init__(self, clock_s: Callable[[], float]) -> None:
        """Begin with nothing.

        Args:
            clock_s: The time of day, in seconds since the epoch.
        """
        self.events: deque[Event] = deque(maxlen=MOST_EVENTS)
        self._clock_s = clock_s
        self._before: RoutingSnapshot | None = None

    def note(self, snapshot: RoutingSnapshot) -> None:
        """Add what is new in a snapshot; the first one is what was found, and nothing has happened yet."""
        before, self._before = self._before, snapshot
        if before is None:
            return
        now_s = self._clock_s()
        for level, text, model in changes(before, snapshot):
            self.events.append(Event(now_s, level, _short(text), model))


def changes(before: RoutingSnapshot, after: RoutingSnapshot) -> Iterator[tuple[str, str, str]]:
    """What has happened between two snapshots: level, text and model."""
    yield from _of_server(before, after)
    old = {model.name: {record.version: record for record in model.versions} for model in before.models}
    for model in after.models:
        known = old.pop(model.name, None)
        if known is None:
            yield _INFO, f"{model.name}: is configured", model.name
        for record in model.versions:
            told = _of_version((known or {}).get(record.version), record)
            if told is not None:
                level, text = told
                yield level, f"{model.name}/{record.version}: {text}", model.name
    for name in old:
        yield _INFO, f"{name}: is not configured any more", name


def _of_server(before: RoutingSnapshot, after: RoutingSnapshot) -> Iterator[tuple[str, str, str]]:
    if after.is_draining and not before.is_draining:
        yield _WARNING, "the server is stopping", ""
    if after.unready != before.unready:
        if after.unready:
            yield _WARNING, f"not ready: {after.unready}", ""
        else:
            yield _INFO, "ready", ""
    refusal, earlier = after.config_refusal, before.config_refusal
    if refusal != earlier:
        if refusal is not None:
            yield _ERROR, f"the configuration file is refused: {refusal.error.message}", ""
        else:
            yield _INFO, "the configuration file is followed again", ""
    known = {death.endpoint for death in before.deaths}
    names = {worker.endpoint: worker.name for worker in before.workers}
    for death in after.deaths:
        if death.endpoint not in known:
            name = names.pop(death.endpoint, "a worker")
            yield (_ERROR if death.has_crashed else _WARNING), f"{name} has ended: {death.reason}", ""
    living = {worker.pid for worker in before.workers}
    for worker in after.workers:
        if worker.pid not in living:
            yield _INFO, f"{worker.name} runs on {worker.device} (pid {worker.pid})", ""


def _of_version(before: VersionRecord | None, after: VersionRecord) -> tuple[str, str] | None:
    """What has become of a version: level and text; None for nothing."""
    if before is not None and (before.state, before.error_code) == (after.state, after.error_code):
        return None
    name = State(after.state).name
    if after.error_code:
        return _ERROR, f"has failed: {after.error_message}"
    return _INFO, name if before is None else f"{State(before.state).name} → {name}"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 1]}…"
