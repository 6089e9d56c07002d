# SPDX-License-Identifier: Apache-2.0
"""The REST calls about the server itself: all models' states, a reload, metrics, and how the machine is used.

``/v1/config`` is OVMS's document, to which nothing may be added; ``/v1/status`` is our own. ``/metrics`` has OVMS's
metrics and our own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.errors import MalformedPayload
from ovms_mp.front.endpoints import Answer, Endpoint, FixedRoute
from ovms_mp.front.metrics.families import CONTENT_TYPE
from ovms_mp.front.tfs.metadata import config_json
from ovms_mp.wire.status_document import status_document

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.endpoints import RestRequest, Route
    from ovms_mp.front.served_protocol import HasService
    from ovms_mp.front.service import Service

NOTHING_CHANGED = 200
SOMETHING_CHANGED = 201
_NAME = "server"


def routes(front: HasService) -> Sequence[Route]:
    """The paths of this room."""
    calls = ServerCalls(front)
    return (
        FixedRoute("/v1/config", {"GET": Endpoint(calls.config, _NAME, "GetConfig")}),
        FixedRoute(
            "/v1/config/reload", {"POST": Endpoint(calls.reload, _NAME, "ReloadConfig", changes_server=True)}
        ),
        FixedRoute("/v1/status", {"GET": Endpoint(calls.status, _NAME, "GetStatus")}),
        FixedRoute("/metrics", {"GET": Endpoint(calls.metrics, _NAME, "GetMetrics", compresses=True)}),
    )


class ServerCalls:
    """Handlers."""

    def __init__(self, front: HasService) -> None:
        self._front = front

    async def config(self, request: RestRequest, context: CallContext) -> Answer:
        """``GET /v1/config``: the status document of every model, by name."""
        return Answer(_config(self._front.service))

    async def reload(self, request: RestRequest, context: CallContext) -> Answer:
        """``POST /v1/config/reload``: :meth:`config`'s document, when all is done.

        A body would have no meaning and is not read.

        Raises:
            OvmsError: The reload failed.
        """
        service = self._front.service
        is_changed = await service.reload(context)
        return Answer(_config(service), SOMETHING_CHANGED if is_changed else NOTHING_CHANGED)

    async def status(self, request: RestRequest, context: CallContext) -> Answer:
        """``GET /v1/status``, for ``ovms_mp status`` and for people: the plan, the workers, all models."""
        service = self._front.service
        return Answer(status_document(service.table.snapshot, service.counting.totals))

    async def metrics(self, request: RestRequest, context: CallContext) -> Answer:
        """``GET /metrics``, for Prometheus.

        Raises:
            MalformedPayload: Metrics are off. The words are those of the OVMS.
        """
        page = self._front.metrics
        if not page.is_enabled:
            raise MalformedPayload("Invalid request URL; metrics are off, --metrics_enable turns them on")
        return Answer(await page.written(), 200, CONTENT_TYPE)


def _config(service: Service) -> bytes:
    return config_json({model.name: service.statuses(model.name, 0) for model in service.table.models()})
