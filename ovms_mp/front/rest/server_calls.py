# SPDX-License-Identifier: Apache-2.0
"""The REST calls about the server itself: all models' states, a reload, and how the machine is used.

Knows nothing of falcon. ``/v1/config`` is OVMS's document, to which nothing may be added; ``/v1/status`` is our own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.front.tfs.metadata import config_json
from ovms_mp.wire.status_document import status_document

if TYPE_CHECKING:
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
    return status_document(service.table.snapshot)
