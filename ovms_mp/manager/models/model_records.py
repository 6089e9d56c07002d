# SPDX-License-Identifier: Apache-2.0
"""What fronts and people are told of a model: its record in the routing snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.errors import Code
from ovms_mp.manager.models.deployment import endpoints_of
from ovms_mp.model.status import State
from ovms_mp.wire.records import ModelRecord, VersionRecord

if TYPE_CHECKING:
    from ovms_mp.manager.models.known import KnownModel, KnownVersion
    from ovms_mp.manager.models.refusals import Refusals
    from ovms_mp.manager.workers.workers import Workers


def model_record(model: KnownModel, refusals: Refusals, workers: Workers) -> ModelRecord:
    """Describe a model with all its versions.

    Args:
        model: What is known of it.
        refusals: Entries of the configuration file that are not followed; a part of the versions' texts.
        workers: Where tasks may be sent.
    """
    name = model.config.name
    return ModelRecord(
        name,
        model.default_version(),
        tuple(_version_record(name, entry, refusals, workers) for _, entry in sorted(model.versions.items())),
        model.is_unloaded,
        model.is_configured and not model.is_unloaded,
        model.counters,
    )


def _version_record(name: str, entry: KnownVersion, refusals: Refusals, workers: Workers) -> VersionRecord:
    status, serving = entry.status, entry.serving
    endpoints: tuple[str, ...] = ()
    if serving is not None and status.state is State.AVAILABLE:
        endpoints = endpoints_of(serving, workers.routes(serving.settings.device))
    is_paused = serving is not None and serving.paused_until > 0 and status.state is not State.AVAILABLE
    isolation = serving.isolation if serving is not None else ""
    return VersionRecord(
        version=status.version,
        state=status.state,
        # Nobody waits for what will not come within a moment.
        error_code=status.error_code or (Code.UNAVAILABLE.number if is_paused else 0),
        error_message=refusals.added_to(status.error_message or isolation or entry.note, name),
        handle=serving.handle if serving else 0,
        endpoints=endpoints,
        nireq=serving.nireq if serving else 0,
        detail=serving.detail if serving else "",
        inputs=entry.inputs,
        outputs=entry.outputs,
        is_coming=entry.coming is not None,
        counters=entry.counters,
        retry_at_ns=int(1e9 * (serving.paused_until if serving and is_paused else entry.next_try_at)),
        rt_info=entry.rt_info,
        streams=sum(serving.streams.get(worker, 0) for worker in serving.loaded) if serving else 0,
    )
