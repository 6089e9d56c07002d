# SPDX-License-Identifier: Apache-2.0
"""The model repository's methods on messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.front.kserve._proto import kserve_pb2 as kserve
from ovms_mp.front.kserve.repository import calls
from ovms_mp.front.kserve.small_method import small_method
from ovms_mp.front.protobuf.parts import small_request

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.methods import Method, Octets
    from ovms_mp.front.served_protocol import MessageParts
    from ovms_mp.front.service import Service


def methods(parts: MessageParts) -> Sequence[Method]:
    """The methods of this room."""
    own = RepositoryMethods(parts.service)
    return (
        small_method(calls.INDEX, own.index),
        small_method(calls.LOAD, own.load, changes_server=True),
        small_method(calls.UNLOAD, own.unload, changes_server=True),
    )


class RepositoryMethods:
    """Handlers."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def index(self, request: Octets, context: CallContext) -> bytes:
        """RepositoryIndexRequest to RepositoryIndexResponse; answers at once."""
        message = small_request(request, kserve.RepositoryIndexRequest)
        entries = calls.index(self._service, message.repository_name, only_ready=message.ready)
        answer = kserve.RepositoryIndexResponse()
        for entry in entries:
            answer.models.add(name=entry.name, version=entry.version, state=entry.state, reason=entry.reason)
        return answer.SerializeToString()

    async def load(self, request: Octets, context: CallContext) -> bytes:
        """RepositoryModelLoadRequest to RepositoryModelLoadResponse."""
        message = small_request(request, kserve.RepositoryModelLoadRequest)
        given = _plain(message.parameters)
        await calls.load(self._service, message.model_name, message.repository_name, given, context)
        return kserve.RepositoryModelLoadResponse().SerializeToString()

    async def unload(self, request: Octets, context: CallContext) -> bytes:
        """RepositoryModelUnloadRequest to RepositoryModelUnloadResponse."""
        message = small_request(request, kserve.RepositoryModelUnloadRequest)
        given = _plain(message.parameters)
        await calls.unload(self._service, message.model_name, message.repository_name, given, context)
        return kserve.RepositoryModelUnloadResponse().SerializeToString()


def _plain(parameters: Mapping[str, kserve.ModelRepositoryParameter]) -> dict[str, object]:
    """Parameters as values; None for one without a value."""
    given: dict[str, object] = {}
    for key, parameter in parameters.items():
        which = parameter.WhichOneof("parameter_choice")
        given[key] = None if which is None else getattr(parameter, which)
    return given
