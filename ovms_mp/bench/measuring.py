# SPDX-License-Identifier: Apache-2.0
"""Have a load made by whatever makes it with the fewest instructions, and reduce it to figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import msgspec

from ovms_mp.bench import h2load
from ovms_mp.bench.failure import NoMeasurement
from ovms_mp.bench.figures import Level, level_of
from ovms_mp.bench.own_load import OwnLoad
from ovms_mp.bench.stages import mean_stages_ms, stage_totals

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ovms_mp.bench.load import Load, Observed

Generator = Literal["auto", "h2load", "own"]
GENERATORS: tuple[Generator, ...] = ("auto", "h2load", "own")


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
    after = _totals(means, model)
    level = level_of(load, observed, mean_stages_ms(before, after))
    if note:
        level = msgspec.structs.replace(level, notes=(*level.notes, note))
    return level


def _totals(means: Means, model: str) -> dict[str, tuple[float, float]]:
    page = means.metrics() if means.metrics else None
    return stage_totals(page or "", model)


def _observe(load: Load, means: Means) -> tuple[Observed, str]:
    if means.generator == "h2load" and not h2load.is_usable(load):
        raise NoMeasurement(
            "h2load is not installed, or cannot make this load: it has no open loop (--rate) and gets no keys; take "
            "--generator auto"
        )
    if means.generator == "own" or not h2load.is_usable(load):
        return OwnLoad(load, means.processes, means.scratch, means.environment).run(), ""
    observed = h2load.run(load, means.scratch)
    if means.generator == "h2load" or observed.is_cut or h2load.is_trustworthy(observed, means.answer_bytes):
        return observed, ""
    own = OwnLoad(load, means.processes, means.scratch, means.environment).run()
    return (
        own,
        "measured again by our own generator, as h2load had answers that are no good ones and cannot say why",
    )
