# SPDX-License-Identifier: Apache-2.0
"""Have a load made by whatever makes it with the fewest instructions, and reduce it to figures."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import msgspec

from ovms_mp.bench import h2load
from ovms_mp.bench.failure import NoMeasurement
from ovms_mp.bench.figures import Level, level_of
from ovms_mp.bench.own_load import OwnLoad
from ovms_mp.bench.stages import OWN_PREFIX, Totals, counted, mean_stages_ms, stage_totals

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ovms_mp.bench.load import Load, Observed

Generator = Literal["auto", "h2load", "own"]
GENERATORS: tuple[Generator, ...] = ("auto", "h2load", "own")
_WRITTEN_WITHIN_S = 2.5
"""Fronts write once a second what they have counted of stages, so a look right after a load misses the end of it."""
_LOOK_PACE_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What measures.

    Attributes:
        generator: Which generator to take; with ``auto`` h2load where it is and can do it.
        processes: Of our own generator.
        answer_bytes: Size of a good answer, without which h2load's successes prove nothing.
        scratch: Directory for records.
        environment: Of child processes.
        metrics: Reads the server's metrics; None if there are none.
    """

    generator: Generator = "auto"
    processes: int = 1
    answer_bytes: int
    scratch: Path
    environment: Mapping[str, str]
    metrics: Callable[[], str | None] | None = None


def measure(load: Load, means: Means, model: str) -> Level:
    """Apply a load and give its figures; Ctrl-C ends it early, which the figures say.

    Raises:
        NoMeasurement: There is nothing to measure.
    """
    before = _totals(means, model)
    observed, note = _observe(load, means)
    level = level_of(load, observed)
    if note:
        level = msgspec.structs.replace(level, notes=(*level.notes, note))
    try:
        stages_ms = {} if level.is_cut else _stages_ms(means, model, before or {}, observed.answers)
    except KeyboardInterrupt:
        return msgspec.structs.replace(level, is_cut=True)
    return msgspec.structs.replace(level, stages_ms=stages_ms)


def _stages_ms(means: Means, model: str, before: Totals, answers: int) -> dict[str, float]:
    """Means of the stages that a load's requests went through, as soon as the server has written all of them."""
    ends_at_s = time.monotonic() + _WRITTEN_WITHIN_S
    pause = threading.Event()
    while (after := _totals(means, model)) is not None:
        if counted(before, after) >= answers or time.monotonic() > ends_at_s:
            return mean_stages_ms(before, after)
        pause.wait(_LOOK_PACE_S)
    return {}


def _totals(means: Means, model: str) -> Totals | None:
    """What the server has counted of stages; None where it tells nothing of the kind."""
    page = means.metrics() if means.metrics else None
    return None if page is None or OWN_PREFIX not in page else stage_totals(page, model)


def _observe(load: Load, means: Means) -> tuple[Observed, str]:
    if means.generator == "h2load" and not h2load.is_usable(load):
        raise NoMeasurement(
            "h2load is not installed, or cannot make this load: it has no open loop (--rate) and gets no keys; take "
            "--generator auto"
        )
    if means.generator == "own" or not h2load.is_usable(load):
        return OwnLoad(load, means.processes, means.scratch, means.environment).run(), ""
    observed = h2load.run(load, means.scratch)
    is_grpc = load.endpoint.is_grpc
    if (
        means.generator == "h2load"
        or observed.is_cut
        or h2load.is_trustworthy(observed, means.answer_bytes, is_grpc=is_grpc)
    ):
        return observed, ""
    own = OwnLoad(load, means.processes, means.scratch, means.environment).run()
    return (
        own,
        "measured again by our own generator, as h2load had answers that are no good ones and cannot say why",
    )
