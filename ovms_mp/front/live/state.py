# SPDX-License-Identifier: Apache-2.0
"""The ``state`` event: what changes now and then, made from a routing snapshot. What moves is in :mod:`.samples`.

Numbers of versions are texts: a browser's own numbers hold 53 bits, versions may have 63.
"""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

from ovms_mp import __version__
from ovms_mp.front.live.history import LONGEST_TEXT
from ovms_mp.model.status import State

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from ovms_mp.child.specs import PageSpec
    from ovms_mp.front.live.history import Event
    from ovms_mp.wire.messages import RoutingSnapshot
    from ovms_mp.wire.records import ModelRecord, TensorSpecRecord, VersionRecord

MOST_VERSIONS = 500
"""That a browser is told of; ``/v1/status`` has all."""
_MOST_TENSORS = 64


def shown(models: Iterable[ModelRecord]) -> Iterator[tuple[ModelRecord, list[VersionRecord]]]:
    """The models that a browser is told of, in their order, each with the newest of its versions."""
    room = MOST_VERSIONS
    for model in models:
        if not room:
            return
        newest = sorted(model.versions, key=lambda record: -record.version)[:room]
        room -= max(1, len(newest))
        yield model, newest


def state_steps(
    snapshot: RoutingSnapshot, spec: PageSpec, events: Iterable[Event], *, has_metrics: bool
) -> Generator[None, None, dict[str, Any]]:
    """The event's data; yields between models.

    Args:
        snapshot: What is served.
        spec: What only the settings tell.
        events: What has happened lately.
        has_metrics: Whether latencies are counted.
    """
    refusal = snapshot.config_refusal
    now_ns = time.monotonic_ns()
    models: list[dict[str, Any]] = []
    hidden = sum(max(1, len(model.versions)) for model in snapshot.models)
    for model, versions in shown(snapshot.models):
        hidden -= max(1, len(versions))
        models.append(_model(model, versions, now_ns))
        yield
    return {
        "server": {
            "version": __version__,
            "is_draining": snapshot.is_draining,
            "unready": _short(snapshot.unready),
            "has_metrics": has_metrics,
            "grpc_port": spec.grpc_port,
            "is_secure": spec.is_secure,
            "may_change": spec.may_change_state,
            "cores": spec.cores,
        },
        "refusal": None
        if refusal is None
        else {"at_s": refusal.at_s, "reason": _short(refusal.error.message)},
        "plan": snapshot.plan,
        "workers": [
            {"name": worker.name, "device": worker.device, "pid": worker.pid, "cores": worker.cores}
            for worker in snapshot.workers
        ],
        "models": models,
        "hidden_versions": hidden,
        "events": list(events),
    }


def _model(model: ModelRecord, versions: Iterable[VersionRecord], now_ns: int) -> dict[str, Any]:
    return {
        "name": model.name,
        "default": str(model.default_version),
        "is_unloaded": model.is_unloaded,
        "versions": [_version(record, now_ns) for record in versions],
    }


def _version(record: VersionRecord, now_ns: int) -> dict[str, Any]:
    workers = len(record.endpoints)
    return {
        "version": str(record.version),
        "state": State(record.state).name,
        "is_failed": record.error_code != 0,
        "is_coming": record.is_coming,
        "retry_in_s": max(0, round((record.retry_at_ns - now_ns) / 1e9)) if record.retry_at_ns else None,
        "message": _short(record.error_message),
        "detail": _short(record.detail),
        "workers": workers,
        "infer_requests": record.nireq * workers,
        "streams": record.streams * workers,
        "inputs": _tensors(record.inputs),
        "outputs": _tensors(record.outputs),
        "hidden_inputs": max(0, len(record.inputs) - _MOST_TENSORS),
        "hidden_outputs": max(0, len(record.outputs) - _MOST_TENSORS),
    }


def _tensors(records: Iterable[TensorSpecRecord]) -> list[dict[str, Any]]:
    return [
        {"name": tensor.name, "dtype": tensor.dtype, "bounds": tensor.bounds, "layout": tensor.layout}
        for tensor in itertools.islice(records, _MOST_TENSORS)
    ]


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 1]}…"
