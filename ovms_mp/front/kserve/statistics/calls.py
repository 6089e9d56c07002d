# SPDX-License-Identifier: Apache-2.0
"""Statistics of versions, as values that both forms of the API are made of.

Answered by the front that is asked, out of memory that all processes count in (:mod:`ovms_mp.wire.counters`): no other
process is asked or waited for. Requests of every protocol are counted.

- A request is counted once its version is known: as ``success`` when its answer was made, else as ``fail``, also where
  the client went away. Both times begin when the request has been decoded, or where it could not be, when it came.
- ``inference_count`` counts an answer as often as the first dimension of the first input says.
- ``execution_count`` counts runs at workers, also those for whose results nobody waited any more.
- ``batch_stats`` count runs that succeeded, by how many samples they had, which may be of several requests. What fronts
  have taken for input and output is divided among them by their requests.
- Reloads of a version leave its numbers; one that was unloaded has none, and begins at zero when it is loaded again.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, TypeAlias

from ovms_mp.errors import MalformedPayload, UnsupportedOperation
from ovms_mp.front.kserve.calls import version_number
from ovms_mp.model.status import State
from ovms_mp.wire.counters import PAGES, PROCESS_PAGE

if TYPE_CHECKING:
    from ovms_mp.front.routing import ModelRoute, VersionRoute
    from ovms_mp.front.service import Service
    from ovms_mp.wire.version_counters import BatchTotals, VersionTotals

STATISTICS = "ModelStatistics"
"""The method's name."""

Statistics: TypeAlias = dict[str, Any]
"""A ``ModelStatistics`` message as its fields: names, numbers, and the same of messages inside it."""

_VERSIONS_A_TURN = 32
"""So many are added up at once: in 2 ms, with counts of four processes."""


async def statistics(service: Service, name: str, version: str) -> list[Statistics]:
    """Statistics of a version, of all versions of a model that serve, or of those of all models.

    Args:
        service: Whose.
        name: The model; empty for all.
        version: As sent; empty for all.

    Raises:
        MalformedPayload: The version is no number, or no model's.
        ModelNotFound: No such model.
        VersionNotFound: No such version.
        ModelNotReady: It was not served yet.
        UnsupportedOperation: There are more versions than can be counted, and this is one of those.
    """
    number = version_number(version)
    if not name and number:
        raise MalformedPayload(f"version {number} of no model; name the model, or no version for all of them")
    found: list[Statistics] = []
    for route in _routes(service, name, number):
        found.append(_statistics(route, service.counting.totals(route.counters.page)))
        if len(found) % _VERSIONS_A_TURN == 0:
            await asyncio.sleep(0)
    return found


def _routes(service: Service, name: str, number: int) -> list[VersionRoute]:
    """The versions that are asked for."""
    if not name:
        return [route for model in service.table.models() for route in _counted(model)]
    if number:
        route = service.described(name, number)
        if route.counters.page == PROCESS_PAGE:
            raise UnsupportedOperation(
                f"{route.title} is not counted: statistics are kept for {PAGES - 1} versions at once"
            )
        return [route]
    # Where nothing serves, the reason is that of the default version.
    return _counted(service.table.model(name)) or [service.described(name, 0)]


def _counted(model: ModelRoute) -> list[VersionRoute]:
    """A model's versions that serve or have served, and are not on their way out."""
    return [
        route
        for _, route in sorted(model.versions.items())
        if route.outputs
        and route.counters.page != PROCESS_PAGE
        and route.status.state not in (State.UNLOADING, State.END)
    ]


def _statistics(route: VersionRoute, totals: VersionTotals) -> Statistics:
    every = totals.every_batch
    return {
        "name": route.model_name,
        "version": str(route.version),
        "last_inference": _epoch_ms(totals.last_ns),
        "inference_count": totals.inferences,
        "execution_count": totals.executions,
        "inference_stats": {
            "success": _duration(totals.answers, totals.success_ns),
            "fail": _duration(totals.failures + totals.cancelled, totals.failure_ns + totals.cancelled_ns),
            "queue": _duration(totals.answers, totals.queue_ns),
            **_computes(every),
            "cache_hit": _duration(0, 0),
            "cache_miss": _duration(0, 0),
        },
        "batch_stats": _batch_stats(totals),
    }


def _batch_stats(totals: VersionTotals) -> list[Statistics]:
    every, requests = totals.every_batch, sum(runs.requests for runs in totals.runs.values())
    return [
        {
            "batch_size": size,
            "compute_input": _duration(runs.runs, every.input_ns * runs.requests // requests),
            "compute_infer": _duration(runs.runs, runs.infer_ns),
            "compute_output": _duration(runs.runs, every.output_ns * runs.requests // requests),
        }
        for size, runs in sorted(totals.runs.items())
        if runs.requests
    ]


def _computes(batch: BatchTotals) -> dict[str, dict[str, int]]:
    return {
        "compute_input": _duration(batch.answers, batch.input_ns),
        "compute_infer": _duration(batch.answers, batch.infer_ns),
        "compute_output": _duration(batch.answers, batch.output_ns),
    }


def _duration(count: int, ns: int) -> dict[str, int]:
    return {"count": count, "ns": ns}


def _epoch_ms(moment_ns: int) -> int:
    """A monotonic moment as milliseconds since the epoch; 0 for none."""
    if not moment_ns:
        return 0
    return (time.time_ns() - (time.monotonic_ns() - moment_ns)) // 1_000_000
