# SPDX-License-Identifier: Apache-2.0
"""The status document: what ``GET /v1/status`` and ``ovms_mp status`` show, made from a routing snapshot.

Fields are only ever added, so that the command reads the status of an older or newer server as well.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from ovms_mp import __version__
from ovms_mp.model.status import State

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ovms_mp.wire.messages import RoutingSnapshot
    from ovms_mp.wire.records import ConfigRefusal, ModelRecord, VersionRecord
    from ovms_mp.wire.version_counters import VersionTotals

ADDRESS_PREFIX = "ovms_mp-status"


def status_address(pid: int, port: int, rest_port: int) -> str:
    """Where the manager answers on this machine, as an abstract Unix address."""
    return f"\0{ADDRESS_PREFIX}-{pid}-{port}-{rest_port}"


def status_document(
    snapshot: RoutingSnapshot,
    totals_of: Callable[[int], VersionTotals],
    notes: Mapping[str, Sequence[str]] | None = None,
    config_notes: Sequence[str] = (),
    longest_turn_s: float | None = None,
    clock_ns: Callable[[], int] = time.monotonic_ns,
) -> bytes:
    """The document of one moment, as indented JSON.

    Args:
        snapshot: What is served.
        totals_of: What was counted of a version, by its page.
        notes: What is odd about models' base paths, by name. They are not for clients, as they hold paths.
        config_notes: What goes on with the store that the configuration file is in; as well.
        longest_turn_s: How long the manager was busy at a stretch lately, where it says so itself.
        clock_ns: The monotonic clock, in nanoseconds.
    """
    notes = notes or {}
    now_ns = clock_ns()
    document: dict[str, Any] = {
        "server": {"version": __version__, "is_draining": snapshot.is_draining},
        "configuration": _configuration(snapshot.config_refusal),
        "plan": snapshot.plan,
        "workers": [
            {"name": worker.name, "device": worker.device, "pid": worker.pid, "cores": worker.cores}
            for worker in snapshot.workers
        ],
        "models": {
            model.name: _model(model, totals_of, notes.get(model.name, ()), now_ns)
            for model in snapshot.models
        },
    }
    if longest_turn_s is not None:
        document["manager"] = {"longest_turn_ms": round(longest_turn_s * 1e3, 1)}
    if config_notes:
        document["configuration_notes"] = config_notes
    return msgspec.json.format(msgspec.json.encode(document), indent=1)


def _configuration(refusal: ConfigRefusal | None) -> dict[str, Any] | None:
    """What is wrong with the configuration file, or null."""
    if refusal is None:
        return None
    moment = datetime.fromtimestamp(refusal.at_s, UTC).astimezone()
    return {
        "refused_at": moment.isoformat(timespec="seconds"),
        "is_refused_whole": refusal.is_whole,
        "reason": refusal.error.message,
    }


def _model(
    model: ModelRecord, totals_of: Callable[[int], VersionTotals], notes: Sequence[str], now_ns: int
) -> dict[str, Any]:
    versions = sorted(model.versions, key=lambda version: version.version)
    document: dict[str, Any] = {
        "default_version": model.default_version,
        "versions": [_version(version, totals_of(version.counters), now_ns) for version in versions],
        "is_unloaded": model.is_unloaded,
    }
    if notes:
        document["notes"] = notes
    return document


def _version(record: VersionRecord, totals: VersionTotals, now_ns: int) -> dict[str, Any]:
    next_try_s = max(0.0, round((record.retry_at_ns - now_ns) / 1e9, 1)) if record.retry_at_ns else None
    return {
        "version": record.version,
        "state": State(record.state).name,
        "is_failed": record.error_code != 0,
        "is_being_loaded": record.is_coming,
        "next_try_in_s": next_try_s,
        "error_message": record.error_message,
        "nireq": record.nireq,
        "workers": len(record.endpoints),
        "requests": totals.requests,
        "failures": totals.failures,
        "cancelled": totals.cancelled,
        "detail": record.detail,
    }
