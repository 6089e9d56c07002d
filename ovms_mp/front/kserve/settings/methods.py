# SPDX-License-Identifier: Apache-2.0
"""The methods for trace and log settings, on messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.front.kserve._proto import kserve_pb2 as kserve
from ovms_mp.front.kserve.settings import logging, tracing
from ovms_mp.front.kserve.small_method import small_method
from ovms_mp.front.protobuf.parts import small_request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.methods import Method, Octets
    from ovms_mp.front.served_protocol import MessageParts
    from ovms_mp.front.service import Service


def methods(parts: MessageParts) -> Sequence[Method]:
    """The methods of this room."""
    own = SettingsMethods(parts.service)
    # Whether a message only asks what is set is not known before it is read.
    return (
        small_method(tracing.METHOD, own.trace, changes_server=True),
        small_method(logging.METHOD, own.log, changes_server=True),
    )


class SettingsMethods:
    """Handlers."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def trace(self, request: Octets, context: CallContext) -> bytes:
        """TraceSettingRequest to TraceSettingResponse; answers at once."""
        message = small_request(request, kserve.TraceSettingRequest)
        given = {name: list(setting.value) for name, setting in message.settings.items()}
        answer = kserve.TraceSettingResponse()
        for name, values in tracing.trace_settings(self._service, message.model_name, given).items():
            answer.settings[name].value.extend(values)
        return answer.SerializeToString()

    async def log(self, request: Octets, context: CallContext) -> bytes:
        """LogSettingsRequest to LogSettingsResponse."""
        message = small_request(request, kserve.LogSettingsRequest)
        given: dict[str, object] = {}
        for name, setting in message.settings.items():
            which = setting.WhichOneof("parameter_choice")
            given[name] = None if which is None else getattr(setting, which)
        await logging.set_log(self._service, given, context)
        answer = kserve.LogSettingsResponse()
        for name, value in logging.log_settings(self._service).items():
            match value:
                case bool():
                    answer.settings[name].bool_param = value
                case int():
                    answer.settings[name].uint32_param = value
                case str():
                    answer.settings[name].string_param = value
        return answer.SerializeToString()
