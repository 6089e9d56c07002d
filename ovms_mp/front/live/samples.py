# SPDX-License-Identifier: Apache-2.0
"""The ``sample`` event: what a second has brought, from the words that all processes count in. Nobody is asked.

Rates are of the time since the sample before. Latencies are of some seconds, as one second may have few requests, and
are there only where metrics are counted; means are always.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ovms_mp.front.live.state import shown
from ovms_mp.wire import process_counters as words
from ovms_mp.wire.call_counters import BOUNDS_NS, BUCKETS, INTERFACES, REQUEST_TIME, CallTotals
from ovms_mp.wire.version_counters import VersionTotals

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence

    from ovms_mp.front.clock import Clock
    from ovms_mp.front.live.processes import ProcessUse
    from ovms_mp.wire.counters import CounterReader
    from ovms_mp.wire.messages import RoutingSnapshot

_WINDOW = 10
"""Samples that latencies are of."""
_LONGEST_GAP_S = 5.0
_QUANTILES = (("p50_ms", 0.5), ("p95_ms", 0.95), ("p99_ms", 0.99))


@dataclass(slots=True)
class _Counted:
    """What was counted of a version until a moment."""

    totals: VersionTotals = field(default_factory=VersionTotals)
    buckets: deque[Sequence[int]] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    """Of requests' times, at the last samples."""


class Sampler:
    """Makes one sample after the other. Belongs to the event loop."""

    def __init__(
        self,
        reader: CounterReader,
        managers_row: int,
        processes: Callable[[], Iterable[ProcessUse]],
        clock_ns: Clock,
        patience_ns: int,
        *,
        has_metrics: bool,
    ) -> None:
        """Prepare.

        Args:
            reader: Of all processes' words.
            managers_row: The number of the manager's row.
            processes: Looks at the server's processes.
            clock_ns: Monotonic time.
            patience_ns: A process whose gauges are older is taken for dead.
            has_metrics: Whether latencies are counted.
        """
        self._reader = reader
        self._managers_row = managers_row
        self._processes = processes
        self._clock_ns = clock_ns
        self._patience_ns = patience_ns
        self._has_metrics = has_metrics
        self._known: dict[tuple[str, int, int], _Counted] = {}
        self._cpu_ms: dict[int, int] = {}
        self._sampled_ns = 0

    def steps(self, snapshot: RoutingSnapshot) -> Generator[None, None, dict[str, Any]]:
        """The sample of now; yields between versions and processes. PERF: 0.1 ms for each that has requests."""
        now_ns = self._clock_ns()
        elapsed_s = (now_ns - self._sampled_ns) / 1e9
        is_later, self._sampled_ns = self._sampled_ns > 0, now_ns
        known, self._known = self._known, {}
        if not is_later or elapsed_s > _LONGEST_GAP_S:  # Nobody has looked for a while, or ever.
            elapsed_s = 0.0
            known.clear()
        versions, everything = [], [0] * BUCKETS
        for model, records in shown(snapshot.models):
            for record in records:
                pages = list(self._reader.pages(record.counters)) if record.counters else []
                if pages:
                    key = (model.name, record.version, record.counters)
                    counted = self._known[key] = known.get(key) or _Counted()
                    sample = self._version(counted, pages, record.nireq, elapsed_s, everything)
                    versions.append({"model": model.name, "version": str(record.version), **sample})
                yield
        processes = []
        cpu_ms, self._cpu_ms = self._cpu_ms, {}
        for process in self._processes():
            self._cpu_ms[process.pid] = process.cpu_ms
            used_ms = max(0, process.cpu_ms - cpu_ms.get(process.pid, process.cpu_ms))
            processes.append(
                {
                    "pid": process.pid,
                    "kind": process.kind,
                    "name": process.name,
                    "cores": round(used_ms / 1000 / elapsed_s, 3) if elapsed_s else None,
                    "own_bytes": process.own_bytes,
                    "shared_bytes": process.shared_bytes,
                    "age_s": int(process.age_s),
                }
            )
            yield
        return {
            "elapsed_s": round(elapsed_s, 3),
            "versions": versions,
            **(_quantiles(everything) if self._has_metrics else {}),
            "processes": processes,
            **self._of_processes(now_ns),
        }

    def _version(
        self,
        counted: _Counted,
        pages: Sequence[memoryview],
        nireq: int,
        elapsed_s: float,
        everything: list[int],
    ) -> dict[str, Any]:
        before, now = counted.totals, VersionTotals.of(pages)
        counted.totals = now
        answers = now.answers - before.answers
        sample: dict[str, Any] = {"requests": now.requests}
        if elapsed_s:
            sample["answers_per_s"] = round(answers / elapsed_s, 2)
            sample["failures_per_s"] = round((now.failures - before.failures) / elapsed_s, 2)
            if answers > 0:
                batches, earlier = now.every_batch, before.every_batch
                sample["mean_ms"] = _ms((now.success_ns - before.success_ns) / answers)
                sample["queue_ms"] = _ms((now.queue_ns - before.queue_ns) / answers)
                sample["infer_ms"] = _ms((batches.infer_ns - earlier.infer_ns) / answers)
                runs = now.executions - before.executions
                sample["batch"] = round((now.inferences - before.inferences) / max(1, runs), 2)
        if self._has_metrics:
            calls = CallTotals.of(pages, nireq)
            sample["under_way"], sample["running"] = calls.current, calls.active
            buckets = [sum(column) for column in zip(*_request_buckets(calls), strict=True)]
            if not counted.buckets and elapsed_s:
                counted.buckets.append([0] * BUCKETS)  # It has its first requests since the last sample.
            oldest = counted.buckets[0] if counted.buckets else buckets
            counted.buckets.append(buckets)
            new = [after - first for after, first in zip(buckets, oldest, strict=True)]
            sample |= _quantiles(new)
            everything[:] = map(sum, zip(everything, new, strict=True))
        return sample

    def _of_processes(self, now_ns: int) -> dict[str, Any]:
        """What fronts hold, and what the manager has counted."""
        pages: Mapping[int, memoryview] = dict(self._reader.process_pages())
        arenas = [
            {
                "interface": words.INTERFACES[page[words.INTERFACE]],
                "size_bytes": page[words.ARENA_BYTES],
                "leased_bytes": page[words.LEASED_BYTES],
                "lag_ms": _ms(page[words.LONGEST_LAG_NS]),
            }
            for row, page in pages.items()
            if row != self._managers_row
            and page[words.INTERFACE]
            and page[words.WRITTEN_NS] > now_ns - self._patience_ns
        ]
        manager = pages.get(self._managers_row)
        if manager is None:
            return {"arenas": arenas}
        ends = {}
        for number, kind in enumerate(words.KIND_NAMES):
            first = words.ENDS + number * words.CAUSE_WORDS
            ends[kind] = sum(manager[first : first + words.CAUSE_WORDS].tolist())
        return {
            "arenas": arenas,
            "ends": ends,
            "transfers": {
                "done": manager[words.FETCHES],
                "failed": manager[words.FAILED_FETCHES],
                "bytes": manager[words.FETCHED_BYTES],
                "under_way": manager[words.FETCHING],
                "here_bytes": manager[words.FETCHING_BYTES],
                "wanted_bytes": manager[words.FETCHING_OF_BYTES],
            },
        }


def _request_buckets(calls: CallTotals) -> Iterable[Sequence[int]]:
    return [calls.buckets(REQUEST_TIME[interface]) for interface in INTERFACES]


def _quantiles(buckets: Sequence[int]) -> dict[str, float]:
    """Latencies of these requests, each with the name that the page knows it by; none without requests."""
    total = sum(buckets)
    return {name: _ms(quantile(buckets, total * part)) for name, part in _QUANTILES} if total > 0 else {}


def quantile(buckets: Sequence[int], rank: float) -> float:
    """The time, in ns, below which so many requests are, taken as spread evenly within their bucket."""
    seen, low = 0, 0
    for count, high in zip(buckets, BOUNDS_NS, strict=False):
        if count and seen + count >= rank:
            return low + (high - low) * (rank - seen) / count
        seen += count
        low = high
    return float(low)


def _ms(nanoseconds: float) -> float:
    return round(nanoseconds / 1e6, 3)
