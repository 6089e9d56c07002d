# SPDX-License-Identifier: Apache-2.0
"""From the record of a load to its figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from ovms_mp.bench.wire_client import OK

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ovms_mp.bench.load import Load, Observed

SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
NO_ANSWER = "no answer"
_FULL_CORE = 0.9
"""Of a core, from which on a generator is held to be slower than the server."""
_MOST_LAG_MS = 1.0
_MOST_LAG_SHARE = 0.5
"""Of the latency's p99: how much of it may be that an open loop has sent too late."""
_MILLI = 1e3


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """One load's figures.

    Attributes:
        in_flight: Of a closed loop; 0 for an open one.
        offered_per_s: Of an open loop: requests that were sent a second.
        seconds: Length of what was counted.
        answered: Good answers that were complete in that time.
        latency_ms: Of good answers, exact, by name: p50, p90, p99, p99.9, max; empty without any. In an open loop from
            the time at which a request was to be sent.
        errors: Requests that failed, by code.
        lag_p99_ms: Of an open loop: by how much requests left later than intended.
        generator: What made the load, and ``cpu_share`` of how many cores it took.
        stages_ms: Mean of each stage in the server, if it tells.
        notes: What a reader must know to believe the figures.
        is_cut: Ended early.
    """

    in_flight: int = 0
    offered_per_s: float = 0.0
    seconds: float
    answered: int
    rate_per_s: float
    latency_ms: dict[str, float] = {}
    mean_ms: float = 0.0
    errors: dict[str, int] = {}
    lag_p99_ms: float = 0.0
    generator: str = "own"
    cpu_share: float = 0.0
    answer_bytes: float = 0.0
    stages_ms: dict[str, float] = {}
    notes: tuple[str, ...] = ()
    is_cut: bool = False

    def percentile(self, name: str) -> float:
        """A latency in milliseconds; NaN where nothing was answered."""
        return self.latency_ms.get(name, float("nan"))


def percentiles(values: NDArray[np.float64]) -> dict[str, float]:
    """Exact percentiles: the smallest value that the named share of all does not exceed; and the greatest."""
    if not len(values):
        return {}
    ordered = np.sort(values)
    ranks = {name: max(0, int(np.ceil(share * len(ordered) - 1e-9)) - 1) for name, share in SHARES.items()}
    return {**{name: float(ordered[rank]) for name, rank in ranks.items()}, "max": float(ordered[-1])}


def level_of(load: Load, observed: Observed) -> Level:
    """The figures of a load, without its warm-up.

    A closed loop is counted by when answers came; an open one by when requests were to be sent, so that those which
    were never answered count as well.
    """
    last_s = load.total_s
    if observed.is_cut:
        ends = observed.ended_s[~np.isnan(observed.ended_s)]
        last_s = min(last_s, float(ends.max())) if len(ends) else load.warmup_s
    seconds = max(last_s - load.warmup_s, 0.0)
    when = observed.ended_s if load.in_flight else observed.intended_s
    counted = (when >= load.warmup_s) & (when < last_s)
    is_answered = ~np.isnan(observed.ended_s)
    good = counted & is_answered & (observed.codes == 0)
    latency_ms = (observed.ended_s - observed.intended_s)[good] * _MILLI
    answered = int(good.sum())
    errors = {
        name: int(count)
        for index, name in enumerate(observed.outcomes)
        if name != OK and (count := (counted & is_answered & (observed.codes == index)).sum())
    }
    lag_p99_ms = 0.0
    if not load.in_flight:
        if missing := int((counted & ~is_answered).sum()):
            errors[NO_ANSWER] = missing
        lag = (observed.sent_s - observed.intended_s)[counted & ~np.isnan(observed.sent_s)] * _MILLI
        lag_p99_ms = percentiles(lag).get("p99", 0.0)
    named = percentiles(latency_ms)
    return Level(
        in_flight=load.in_flight,
        offered_per_s=0.0 if load.in_flight else load.rate_per_s,
        seconds=seconds,
        answered=answered,
        rate_per_s=answered / seconds if seconds else 0.0,
        latency_ms=named,
        mean_ms=float(latency_ms.mean()) if answered else 0.0,
        errors=errors,
        lag_p99_ms=lag_p99_ms,
        generator=observed.generator,
        cpu_share=observed.cpu_share,
        answer_bytes=observed.answer_bytes,
        notes=tuple(_notes(load, observed, lag_p99_ms, named, has_any=bool(answered or errors))),
        is_cut=observed.is_cut,
    )


def _notes(
    load: Load, observed: Observed, lag_p99_ms: float, latency_ms: Mapping[str, float], *, has_any: bool
) -> list[str]:
    """Where the generator itself is what was measured, or nothing was."""
    notes = []
    if not has_any and not observed.is_cut:
        notes.append(f"nothing was answered in {load.seconds:g} s, well or not; --seconds gives more time")
    if observed.cpu_share >= _FULL_CORE * observed.processes:
        remedy = "install h2load" if observed.generator == "own" else "run another bench beside this one"
        more = " or give more --processes" if observed.generator == "own" else ""
        notes.append(
            f"the generator took {observed.cpu_share:.2f} cores of {observed.processes}: it is the bottleneck, not the "
            f"server; {remedy}{more}"
        )
    if observed.held_back:
        notes.append(
            f"{observed.held_back} requests waited for a free connection, which is in their latency; see --connections"
        )
    elif lag_p99_ms > max(_MOST_LAG_MS, _MOST_LAG_SHARE * latency_ms.get("p99", 0.0)):
        notes.append(
            f"requests left up to {lag_p99_ms:.1f} ms late (p99), which is in their latency: the generator did "
            "not keep up, or this machine has other work"
        )
    return notes
