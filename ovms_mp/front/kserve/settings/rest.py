# SPDX-License-Identifier: Apache-2.0
"""The paths of trace and log settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from ovms_mp.front.endpoints import Answer, Endpoint, FixedRoute
from ovms_mp.front.kserve.calls import PROTOCOL
from ovms_mp.front.kserve.settings import logging, tracing
from ovms_mp.front.kserve.small_body import small_body
from ovms_mp.front.kserve.targets import target_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.endpoints import RestRequest, Route
    from ovms_mp.front.served_protocol import HasService


def routes(front: HasService) -> Sequence[Route]:
    """The paths of this room that name no model."""
    own = SettingsRestCalls(front)
    return (
        FixedRoute(
            "/v2/logging",
            {
                "GET": Endpoint(own.log, PROTOCOL, logging.METHOD),
                "POST": Endpoint(own.set_log, PROTOCOL, logging.METHOD, takes_body=True, changes_server=True),
            },
        ),
        FixedRoute("/v2/trace/setting", _trace_endpoints(own)),
    )


def model_endpoints(front: HasService) -> Mapping[tuple[str, str], Endpoint]:
    """What answers, by the words behind a model's name and the HTTP method."""
    own = SettingsRestCalls(front)
    return {("trace/setting", verb): endpoint for verb, endpoint in _trace_endpoints(own).items()}


def _trace_endpoints(own: SettingsRestCalls) -> dict[str, Endpoint]:
    return {
        "GET": Endpoint(own.trace, PROTOCOL, tracing.METHOD),
        "POST": Endpoint(own.set_trace, PROTOCOL, tracing.METHOD, takes_body=True, changes_server=True),
    }


class SettingsRestCalls:
    """Handlers."""

    def __init__(self, front: HasService) -> None:
        self._front = front

    async def log(self, request: RestRequest, context: CallContext) -> Answer:
        """``GET /v2/logging``."""
        return Answer(msgspec.json.encode(logging.log_settings(self._front.service)))

    async def set_log(self, request: RestRequest, context: CallContext) -> Answer:
        """``POST /v2/logging``."""
        service = self._front.service
        await logging.set_log(service, await small_body(request, dict[str, Any]), context)
        return Answer(msgspec.json.encode(logging.log_settings(service)))

    async def trace(self, request: RestRequest, context: CallContext) -> Answer:
        """``GET /v2[/models/{name}]/trace/setting``."""
        return await self._trace(request, {}, context)

    async def set_trace(self, request: RestRequest, context: CallContext) -> Answer:
        """``POST /v2[/models/{name}]/trace/setting``."""
        return await self._trace(request, await small_body(request, dict[str, Any]), context)

    async def _trace(self, request: RestRequest, given: Mapping[str, object], context: CallContext) -> Answer:
        name = target_of(request.raw_path).name
        settings = await tracing.set_trace(self._front.service, name, given, context)
        # As Triton's JSON has it, where only the level is a list.
        document = {key: values if key == tracing.LEVEL else values[0] for key, values in settings.items()}
        return Answer(msgspec.json.encode(document))
