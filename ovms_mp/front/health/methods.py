# SPDX-License-Identifier: Apache-2.0
"""Check, List and Watch of ``grpc.health.v1.Health``: the server, its services and its models, by their names.

The server and each of its services serve when the server is ready; a model does when its default version can be asked.
A model that has a service's name is not asked for.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from ovms_mp.errors import Draining, ModelNotFound, ServiceNotFound, TooManyWatchers, shortened
from ovms_mp.front.health._proto import grpc_health_pb2 as health
from ovms_mp.front.methods import Streaming, Unary
from ovms_mp.front.protobuf.parts import LONGEST_SMALL_REQUEST_BYTES, small_request

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.methods import MessageStream, Method, Octets
    from ovms_mp.front.service import Service

PROTOCOL = "health"
SERVICE = "grpc.health.v1.Health"
_MOST_WATCHERS = 1000
"""Of one front. Each is a call that stays open, and is told of every change."""
_MOST_WATCHERS_OF_CONNECTION = 100
_MOST_LISTED = 10_000
_SEND_WITHIN_S = 10.0
"""A watcher that does not read for so long is let go: it must not hold up a stop."""
_LONGEST_SHOWN = 100

_SERVING = health.HealthCheckResponse.SERVING
_NOT_SERVING = health.HealthCheckResponse.NOT_SERVING
_SERVICE_UNKNOWN = health.HealthCheckResponse.SERVICE_UNKNOWN


def methods(service: Service, services: Iterable[str]) -> Sequence[Method]:
    """All methods.

    Args:
        service: Knows what is ready.
        services: Full names of the gRPC services that are served.
    """
    own = HealthMethods(service, services)
    limit = LONGEST_SMALL_REQUEST_BYTES
    return (
        Unary(f"/{SERVICE}/Check", own.check, None, limit, protocol=PROTOCOL, is_open=True),
        Unary(f"/{SERVICE}/List", own.list, None, limit, protocol=PROTOCOL),
        Streaming(f"/{SERVICE}/Watch", own.watch, PROTOCOL, is_open=True),
    )


class HealthMethods:
    """Handlers on octets."""

    def __init__(self, service: Service, services: Iterable[str]) -> None:
        """See :func:`methods`."""
        self._service = service
        self._services = frozenset(services)
        self._watchers: Counter[Hashable] = Counter()
        """By connection; without those that have none."""

    async def check(self, request: Octets, context: CallContext) -> bytes:
        """Whether a name takes calls.

        Raises:
            ServiceNotFound: Nothing here has that name.
        """
        name = small_request(request, health.HealthCheckRequest).service
        status = self._status(name)
        if status == _SERVICE_UNKNOWN:
            raise ServiceNotFound(
                f"no service and no model is named {shortened(name, _LONGEST_SHOWN)!r}; services: "
                f"{', '.join(sorted(self._services))}; models can be listed by {SERVICE}/List"
            )
        return health.HealthCheckResponse(status=status).SerializeToString()

    async def list(self, request: Octets, context: CallContext) -> bytes:
        """Whether each name takes calls.

        Raises:
            TooManyWatchers: There are more names than are listed.
        """
        small_request(request, health.HealthListRequest)
        models = [model.name for model in self._service.table.models()]
        if len(models) > _MOST_LISTED:
            raise TooManyWatchers(
                f"{len(models)} models are too many to be listed, at most {_MOST_LISTED} are"
            )
        names = ("", *self._services, *models)
        statuses = {name: health.HealthCheckResponse(status=self._status(name)) for name in names}
        return health.HealthListResponse(statuses=statuses).SerializeToString()

    async def watch(self, stream: MessageStream, context: CallContext) -> None:
        """Tell whether a name takes calls, now and at every change, until the server stops.

        Raises:
            TooManyWatchers: As many watch already as may.
            Draining: The server is stopping; the last status that was sent says so, too.
        """
        async for request in stream:
            name = small_request(request, health.HealthCheckRequest).service
            break
        else:
            return  # The client has gone without a word.
        connection: Hashable = context.flow or context.peer
        self._admit(connection)
        try:
            await self._tell_changes(stream, name)
        finally:
            self._watchers[connection] -= 1
            if not self._watchers[connection]:
                del self._watchers[connection]

    async def _tell_changes(self, stream: MessageStream, name: str) -> None:
        told = None
        while True:
            status = self._status(name)
            if status != told:
                told = status
                async with asyncio.timeout(_SEND_WITHIN_S):
                    await stream.send(health.HealthCheckResponse(status=status).SerializeToString())
                if self._status(name) != told:
                    continue  # It has changed while the client was being waited for.
            if self._service.is_draining:
                raise Draining("the server is stopping")
            await self._service.readiness.wait_for_change()

    def _admit(self, connection: Hashable) -> None:
        if self._watchers.total() >= _MOST_WATCHERS:
            raise TooManyWatchers(
                f"{_MOST_WATCHERS} calls watch the health of this server already, the limit"
            )
        if self._watchers[connection] >= _MOST_WATCHERS_OF_CONNECTION:
            raise TooManyWatchers(
                f"{_MOST_WATCHERS_OF_CONNECTION} calls of this connection watch health already, the limit"
            )
        self._watchers[connection] += 1

    def _status(self, name: str) -> health.HealthCheckResponse.ServingStatus:
        readiness = self._service.readiness
        if not name or name in self._services:
            return _SERVING if readiness.is_ready else _NOT_SERVING
        try:
            return _SERVING if readiness.is_model_ready(name, 0) else _NOT_SERVING
        except ModelNotFound:
            return _SERVICE_UNKNOWN
