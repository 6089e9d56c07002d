# SPDX-License-Identifier: Apache-2.0
"""Families that OVMS does not have, out of the words that processes count in; see :mod:`ovms_mp.model.own_metrics`."""

from __future__ import annotations

import functools
import itertools
import platform
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import TYPE_CHECKING

from ovms_mp.front.metrics.families import Buckets, Family, Sample
from ovms_mp.front.metrics.own_processes import family, manager_families, process_families
from ovms_mp.model import own_metrics as names
from ovms_mp.wire.counters import PROCESS_PAGE
from ovms_mp.wire.process_counters import FAILURES, RECEIVED_BYTES, SENT_BYTES
from ovms_mp.wire.stage_counters import COMPANY_BOUNDS, STAGE_BOUNDS_S, Stage, StageTotals, reason_text
from ovms_mp.wire.version_counters import VersionTotals

if TYPE_CHECKING:
    from ovms_mp.front.clock import Clock
    from ovms_mp.front.routing import RoutingTable
    from ovms_mp.wire.counters import CounterReader

_NO_VERSION = (("name", ""), ("version", ""))


class _Counted:
    """What is counted of one version, or of a model without a version, added up when it is asked for."""

    def __init__(self, page: int, name: str, version: str, reader: CounterReader) -> None:
        self._page = page
        self._reader = reader
        self.name = ("name", name)
        self.version = ("version", version)
        self.labels = (self.name, self.version)

    @functools.cached_property
    def stages(self) -> StageTotals:
        return StageTotals.of(self._reader.pages(self._page))

    @functools.cached_property
    def totals(self) -> VersionTotals:
        return VersionTotals.of(self._reader.pages(self._page))


class OwnMetrics:
    """A collector. Belongs to the event loop."""

    def __init__(
        self,
        reader: CounterReader,
        managers_row: int,
        table: Callable[[], RoutingTable],
        patience_ns: int,
        clock_ns: Clock,
    ) -> None:
        """Prepare.

        Args:
            reader: Of all processes' words.
            managers_row: The number of the manager's row.
            table: Tells which versions there are.
            patience_ns: A process whose gauges are older is taken for dead.
            clock_ns: Monotonic time.
        """
        self._reader = reader
        self._managers_row = managers_row
        self._table = table
        self._patience_ns = patience_ns
        self._clock_ns = clock_ns

    def __call__(self) -> Iterator[Family]:
        """All families of now."""
        models = [*self._table().models()]
        routes = [route for model in models for route in model.versions.values()]
        counted = [
            _Counted(route.counters.page, route.model_name, str(route.version), self._reader)
            for route in routes
            if route.counters.page != PROCESS_PAGE
        ]
        of_models = [
            _Counted(model.counters.page, model.name, "", self._reader)
            for model in models
            if model.counters.page != PROCESS_PAGE
        ]
        pages = dict(self._reader.process_pages())
        manager = pages.pop(self._managers_row, None)
        yield from _version_families(counted, of_models, list(pages.values()))
        yield family(
            names.VERSION_STATE,
            (
                Sample(
                    (
                        ("name", route.model_name),
                        ("state", "failed" if route.status.error_code else route.status.state.name.lower()),
                        ("version", str(route.version)),
                    ),
                    1,
                )
                for route in routes
            ),
        )
        yield from process_families(pages, manager, self._clock_ns() - self._patience_ns)
        if manager is not None:
            yield from manager_families(manager)
        yield family(names.BUILD_INFO, (Sample(_build_labels(), 1),))


def _version_families(
    counted: list[_Counted], of_models: list[_Counted], pages: list[memoryview]
) -> Iterator[Family]:
    everywhere = [*counted, *of_models]

    def each(value: Callable[[_Counted], float], found: list[_Counted] = counted) -> Iterator[Sample]:
        return (Sample(version.labels, value(version)) for version in found)

    yield family(names.STAGE_SECONDS, _stages(counted))
    # One by one as all others: a family that is not wanted costs nothing, and a long one lets requests go on.
    yield family(
        names.REQUEST_BYTES,
        itertools.chain(
            each(lambda version: version.stages.received_bytes, everywhere),
            (Sample(_NO_VERSION, sum(page[RECEIVED_BYTES] for page in pages)),),
        ),
    )
    yield family(
        names.RESPONSE_BYTES,
        itertools.chain(
            each(lambda version: version.stages.sent_bytes, everywhere),
            (Sample(_NO_VERSION, sum(page[SENT_BYTES] for page in pages)),),
        ),
    )
    yield family(names.FAILURES, _failures(everywhere, pages))
    yield family(names.STARTED, each(lambda version: version.totals.executions))
    yield family(names.EXPIRED, each(lambda version: version.stages.expired))
    yield family(names.CANCELLED, each(lambda version: version.stages.cancelled))
    yield family(names.BATCHES, _batches(counted))
    yield family(names.BATCH_ITEMS, each(lambda version: version.totals.inferences))
    yield family(names.COMPANY, (Sample(version.labels, _company(version)) for version in counted))
    yield family(names.TOGETHER, (Sample(version.labels, _together(version)) for version in counted))


def _stages(counted: list[_Counted]) -> Iterator[Sample]:
    for version in counted:
        for stage in Stage:
            labels = (version.name, ("stage", stage.name.lower()), version.version)
            buckets = Buckets(
                STAGE_BOUNDS_S, version.stages.buckets[stage], version.stages.sums_ns[stage] / 1e9
            )
            yield Sample(labels, buckets)


def _failures(counted: list[_Counted], pages: list[memoryview]) -> Iterator[Sample]:
    """Those that have happened; sixty for each version would be a long page about nothing."""
    for version in counted:
        for number, count in enumerate(version.stages.failures):
            if count:
                yield Sample((version.name, ("reason", reason_text(number)), version.version), count)
    for number in range(len(StageTotals().failures)):
        if count := sum(page[FAILURES + number] for page in pages):
            yield Sample((("name", ""), ("reason", reason_text(number)), ("version", "")), count)


def _batches(counted: list[_Counted]) -> Iterator[Sample]:
    for version in counted:
        totals, known = version.totals, 0
        for size, batch in sorted(totals.batches.items()):
            known += batch.answers
            yield Sample((("batch", str(size)), version.name, version.version), batch.answers)
        if others := totals.answers - known:
            yield Sample((("batch", "other"), version.name, version.version), others)


def _company(version: _Counted) -> Buckets:
    calls = version.stages
    # The words of one page may be of different moments.
    alone = max(0, version.totals.executions - sum(calls.company))
    return Buckets(COMPANY_BOUNDS, (alone, *calls.company), alone + calls.company_sum)


def _together(version: _Counted) -> Buckets:
    calls = version.stages
    alone = max(0, version.totals.executions - sum(calls.batches))
    return Buckets(COMPANY_BOUNDS, (alone, *calls.batches), alone + calls.batches_sum)


@functools.cache
def _build_labels() -> tuple[tuple[str, str], ...]:
    return (
        ("openvino", _version_of("openvino")),
        ("python", platform.python_version()),
        ("version", _version_of("ovms_mp")),
    )


def _version_of(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"
