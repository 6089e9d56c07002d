# SPDX-License-Identifier: Apache-2.0
"""The REST calls about the server itself: all models' states, a reload, and how the machine is used.

Knows nothing of falcon. ``/v1/config`` is OVMS's document, to which nothing may be added; ``/v1/status`` is our own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from ovms_mp.front.tfs.metadata import config_json

if TYPE_CHECKING:
    from ovms_mp.front.routing import ModelRoute, VersionRoute
    from ovms_mp.front.service import Service

NOTHING_CHANGED = 200
SOMETHING_CHANGED = 201


def config(service: Service) -> bytes:
    """Answer ``GET /v1/config``: the status document of every model, by name."""
    return config_json({model.name: service.statuses(model.name, 0) for model in service.table.models()})


async def reload(service: Service, deadline_ns: int) -> tuple[int, bytes]:
    """Answer ``POST /v1/config/reload``: HTTP status and :func:`config`'s document, when all is done.

    Raises:
        OvmsError: The reload failed.
    """
    is_changed = await service.reload(deadline_ns)
    return (SOMETHING_CHANGED if is_changed else NOTHING_CHANGED), config(service)


def status(service: Service) -> bytes:
    """Answer ``GET /v1/status``, for ``ovms_mp status`` and for people."""
    table = service.table
    document = {
        "plan": table.plan,
        "workers": [
            {"name": worker.name, "device": worker.device, "pid": worker.pid, "cores": worker.cores}
            for worker in table.workers
        ],
        "models": {model.name: _model(model) for model in table.models()},
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=1)


def _model(model: ModelRoute) -> dict[str, Any]:
    versions = [_version(route) for _, route in sorted(model.versions.items())]
    return {"default_version": model.default_version, "versions": versions}


def _version(route: VersionRoute) -> dict[str, Any]:
    return {
        "version": route.version,
        "state": route.status.state.name,
        "error_message": route.status.error_message,
        "nireq": route.nireq,
        "workers": len(route.endpoints),
        "detail": route.detail,
    }
