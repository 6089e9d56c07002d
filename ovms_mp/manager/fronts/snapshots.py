# SPDX-License-Identifier: Apache-2.0
"""Routing snapshots as bytes. A model that makes one too large for a front to receive is left out, with an error.

What is longer than a channel's longest message would be dropped by the receiver, and every front would keep its old
routes for good. Versions bring a megabyte of names and shapes at most (``worker.spec_records``), but a model may have
many versions, and texts and names may have characters that cannot be sent.

What files say of their models (``rt_info``) is sent with each snapshot, too. Of that there are some megabytes at most,
so that a thousand models with long lists of labels do not make every change of one of them slow.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import msgspec

from ovms_mp.defects import report
from ovms_mp.errors import Code
from ovms_mp.model.status import State
from ovms_mp.wire.channels import MAX_MESSAGE_BYTES
from ovms_mp.wire.codec import encode
from ovms_mp.wire.records import ModelRecord, VersionRecord

if TYPE_CHECKING:
    from ovms_mp.wire.messages import RoutingSnapshot

_log = logging.getLogger(__name__)

_MOST_BYTES = MAX_MESSAGE_BYTES - (64 << 10)
_LARGEST_STUB_BYTES = 1 << 20
_MOST_RT_INFO = 4 << 20
"""Characters, of all versions together."""
_MOST_NAMED = 10


class SnapshotEncoder:
    """Remembers what it has told of which model. Owned by the manager's loop."""

    def __init__(self, most_bytes: int = _MOST_BYTES, most_rt_info: int = _MOST_RT_INFO) -> None:
        self._most_bytes = most_bytes
        self._most_rt_info = most_rt_info
        self._told: dict[str, str] = {}
        self._told_without: frozenset[tuple[str, int]] = frozenset()

    def payload(self, snapshot: RoutingSnapshot) -> bytes:
        """The snapshot, or as much of it as fits: the largest models, one after another, become versions that failed.

        Raises:
            Exception: What is no model's cannot be encoded; a defect.
        """
        snapshot = self._with_some_rt_info(snapshot)
        try:
            payload = encode(snapshot)
        except Exception as error:
            report("manager.encode", error, "the model that it is about")
        else:
            if len(payload) <= self._most_bytes:
                self._told.clear()
                return payload
        return encode(msgspec.structs.replace(snapshot, models=self._fitting(snapshot)))

    def _with_some_rt_info(self, snapshot: RoutingSnapshot) -> RoutingSnapshot:
        """The snapshot with as many versions' information as fits, those with the most of it left out first."""
        lengths = {
            (model.name, version.version): len(version.rt_info)
            for model in snapshot.models
            for version in model.versions
            if version.rt_info
        }
        excess = sum(lengths.values()) - self._most_rt_info
        without: set[tuple[str, int]] = set()
        for key in sorted(lengths, key=lengths.__getitem__, reverse=True):
            if excess <= 0:
                break
            without.add(key)
            excess -= lengths[key]
        if news := sorted(without - self._told_without):
            _log.warning(
                "event=rt_info_left_out versions=%s: at most %d characters are sent to the fronts for all models",
                ", ".join(f"{name[:64]}/{version}" for name, version in news[:_MOST_NAMED]),
                self._most_rt_info,
            )
        self._told_without = frozenset(without)
        if not without:
            return snapshot
        models = tuple(
            msgspec.structs.replace(
                model,
                versions=tuple(
                    msgspec.structs.replace(version, rt_info="")
                    if (model.name, version.version) in without
                    else version
                    for version in model.versions
                ),
            )
            for model in snapshot.models
        )
        return msgspec.structs.replace(snapshot, models=models)

    def _fitting(self, snapshot: RoutingSnapshot) -> tuple[ModelRecord, ...]:
        models = list(snapshot.models)
        sizes = [_nbytes(model) for model in models]
        reasons: dict[str, str] = {}
        room = self._most_bytes - len(encode(msgspec.structs.replace(snapshot, models=())))
        while models and (sum(sizes) > room or math.inf in sizes):
            index = sizes.index(max(sizes))
            model, nbytes = models[index], sizes[index]
            if model.name in reasons:  # Its name, or the number of its versions.
                del models[index], sizes[index]
                continue
            reasons[model.name] = reason = (
                "its names or texts cannot be sent to the fronts"
                if nbytes == math.inf
                else f"its description takes {nbytes:.0f} bytes, more than fits into the {self._most_bytes} that can "
                f"be sent to the fronts for all models; it needs fewer versions, or shorter names of tensors"
            )
            models[index] = _stub(model, reason)
            stub_nbytes = _nbytes(models[index])
            sizes[index] = stub_nbytes if stub_nbytes <= _LARGEST_STUB_BYTES else math.inf
        for name, reason in reasons.items():
            if self._told.get(name) is None:
                _log.error("event=snapshot_too_large model=%.200r is not served: %s", name, reason)
        self._told = reasons
        return tuple(models)


def _nbytes(model: ModelRecord) -> float:
    """Its size in a snapshot; infinite if it cannot be encoded."""
    try:
        return len(encode(model))
    except Exception:
        # Which one it is, is all that is asked; the error has been reported.
        return math.inf


def _stub(model: ModelRecord, reason: str) -> ModelRecord:
    """The model with versions that nobody can ask, and the reason."""
    code = Code.RESOURCE_EXHAUSTED.number
    versions = tuple(
        unroutable(record.version, State.LOADING if record.state != State.END else record.state, code, reason)
        for record in model.versions
    )
    return ModelRecord(
        model.name, model.default_version, versions, is_unloaded=model.is_unloaded, is_wanted=model.is_wanted
    )


def unroutable(version: int, state: int, error_code: int, error_message: str) -> VersionRecord:
    """A version that nobody can ask, with the reason."""
    return VersionRecord(
        version=version,
        state=state,
        error_code=error_code,
        error_message=error_message,
        handle=0,
        endpoints=(),
        nireq=0,
        detail="",
        inputs=(),
        outputs=(),
    )
