# SPDX-License-Identifier: Apache-2.0
"""When the server is ready (``--ready_when``), as far as that is the same for all fronts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.model.status import State
from ovms_mp.wire.records import bounded_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.wire.records import ModelRecord

_MOST_NAMED = 10


def unready_reason(
    ready_when: str, models: Sequence[ModelRecord], *, has_loaded: bool, has_fronts: bool
) -> str:
    """Why the server is not ready; empty when it is.

    Args:
        ready_when: ``loaded`` or ``all``.
        models: As clients see them.
        has_loaded: Whether the initial load is over, failures or not.
        has_fronts: Whether all fronts have been started: one that answers probes must not speak for a port on which
            nobody listens yet.
    """
    if not has_loaded:
        return "the models that are configured at the start are still being loaded"
    if not has_fronts:
        return "the processes that answer requests are still being started"
    if ready_when == "loaded":
        return ""
    missing = [model.name for model in models if model.is_wanted and not _is_available(model)]
    if not missing:
        return ""
    more = f" and {len(missing) - _MOST_NAMED} more" if len(missing) > _MOST_NAMED else ""
    named = ", ".join(repr(name) for name in missing[:_MOST_NAMED])
    return bounded_text(f"models without an available version: {named}{more} (--ready_when all)")


def _is_available(model: ModelRecord) -> bool:
    return any(version.state == State.AVAILABLE and version.endpoints for version in model.versions)
