# SPDX-License-Identifier: Apache-2.0
"""OVMS's metrics under its names, with its labels, texts and buckets, so that its dashboards and alerts go on.

The series of a version are there, with 0, from its first load until it has ended. What is counted is what all processes
have counted since; a version that is loaded again after its end begins at zero, which Prometheus takes for a restart.

Source: https://github.com/openvinotoolkit/model_server/blob/main/docs/metrics.md
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.front.metrics.families import Buckets, Family, Kind, Sample
from ovms_mp.model import metric_names as names
from ovms_mp.wire.call_counters import (
    BOUNDS_US,
    INTERFACES,
    REQUEST_TIME,
    RUN_BUCKETS,
    WAIT_BUCKETS,
    CallTotals,
)
from ovms_mp.wire.version_counters import VersionTotals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ovms_mp.front.metrics.families import Labels
    from ovms_mp.wire.counters import CounterReader
    from ovms_mp.wire.messages import RoutingSnapshot
    from ovms_mp.wire.records import ModelRecord, VersionRecord

_OF_VERSIONS = (
    ("KServe", "ModelInfer"),
    ("KServe", "ModelMetadata"),
    ("TensorFlowServing", "GetModelMetadata"),
    ("TensorFlowServing", "Predict"),
)
_OF_MODELS = (("KServe", "ModelReady"), ("TensorFlowServing", "GetModelStatus"))
"""OVMS gives these no label of a version."""


@dataclass(frozen=True, slots=True)
class _Version:
    """A version, and what all processes have counted of it."""

    record: VersionRecord
    labels: Labels
    pages: Sequence[memoryview]

    @property
    def calls(self) -> CallTotals:
        """Of this moment."""
        return CallTotals.of(self.pages, self.record.nireq)

    @property
    def times(self) -> VersionTotals:
        """Of this moment."""
        return VersionTotals.of(self.pages)


class OvmsMetrics:
    """A :data:`~ovms_mp.front.metrics.families.Collector`."""

    def __init__(self, snapshot: Callable[[], RoutingSnapshot], reader: CounterReader) -> None:
        """Collect nothing yet.

        Args:
            snapshot: The newest one.
            reader: Reads all processes' counters.
        """
        self._snapshot = snapshot
        self._reader = reader

    def __call__(self) -> Iterable[Family]:
        """All families. Each reads the counters anew while it is written; their order does not matter to anybody."""
        return (
            Family(
                names.STREAMS,
                Kind.GAUGE,
                "Number of OpenVINO execution streams.",
                self._gauge(lambda version: version.record.streams),
            ),
            Family(
                names.CURRENT_REQUESTS,
                Kind.GAUGE,
                "Number of inference requests currently in process.",
                self._gauge(lambda version: version.calls.current),
            ),
            Family(
                names.REQUESTS_SUCCESS,
                Kind.COUNTER,
                "Number of successful requests to a model or a DAG.",
                self._calls(CallTotals.succeeded),
            ),
            Family(
                names.REQUESTS_FAIL,
                Kind.COUNTER,
                "Number of failed requests to a model or a DAG.",
                self._calls(CallTotals.failed),
            ),
            Family(
                names.REQUEST_TIME,
                Kind.HISTOGRAM,
                "Processing time of requests to a model or a DAG.",
                self._request_times(),
            ),
            Family(
                names.INFERENCE_TIME,
                Kind.HISTOGRAM,
                "Inference execution time in the OpenVINO backend.",
                self._times(RUN_BUCKETS, lambda times: times.every_batch.infer_ns),
            ),
            Family(
                names.WAIT_TIME,
                Kind.HISTOGRAM,
                "Request waiting time in the scheduling queue.",
                self._times(WAIT_BUCKETS, lambda times: times.queue_ns),
            ),
            Family(
                names.INFER_REQUESTS,
                Kind.GAUGE,
                "Inference request queue size (nireq).",
                self._gauge(lambda version: version.record.nireq * len(version.record.endpoints)),
            ),
            Family(
                names.INFER_REQUESTS_ACTIVE,
                Kind.GAUGE,
                "Number of currently consumed inference request from the processing queue.",
                self._gauge(lambda version: version.calls.active),
            ),
        )

    def _versions(self) -> Iterator[_Version]:
        for model in self._snapshot().models:
            for record in _counted(model):
                yield self._version(model, record)

    def _version(self, model: ModelRecord, record: VersionRecord) -> _Version:
        labels = (("name", model.name), ("version", str(record.version)))
        return _Version(record, labels, list(self._reader.pages(record.counters)))

    def _gauge(self, value: Callable[[_Version], int]) -> Iterator[Sample]:
        for version in self._versions():
            yield Sample(version.labels, value(version))

    def _calls(self, value: Callable[[CallTotals, str, str], int]) -> Iterator[Sample]:
        for model in self._snapshot().models:
            if model.counters:
                totals = CallTotals.of(self._reader.pages(model.counters))
                yield from _of_calls(_OF_MODELS, (("name", model.name),), totals, value)
            for record in _counted(model):
                version = self._version(model, record)
                yield from _of_calls(_OF_VERSIONS, version.labels, version.calls, value)

    def _request_times(self) -> Iterator[Sample]:
        for version in self._versions():
            calls = version.calls
            for interface in INTERFACES:
                counts = calls.buckets(REQUEST_TIME[interface])
                buckets = Buckets(BOUNDS_US, counts, calls.request_sum_ns(interface) / 1000)
                yield Sample((("interface", interface), *version.labels), buckets)

    def _times(self, first: int, sum_ns: Callable[[VersionTotals], int]) -> Iterator[Sample]:
        for version in self._versions():
            buckets = Buckets(BOUNDS_US, version.calls.buckets(first), sum_ns(version.times) / 1000)
            yield Sample(version.labels, buckets)


def _counted(model: ModelRecord) -> Iterator[VersionRecord]:
    """The versions that have a page of counters."""
    return (record for record in model.versions if record.counters)


def _of_calls(
    calls: Iterable[tuple[str, str]],
    labels: Labels,
    totals: CallTotals,
    value: Callable[[CallTotals, str, str], int],
) -> Iterator[Sample]:
    for api, method in calls:
        for interface in INTERFACES:
            inner = (("api", api), ("interface", interface), ("method", method), *labels)
            yield Sample(inner, value(totals, method, interface))
