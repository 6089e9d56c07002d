# SPDX-License-Identifier: Apache-2.0
"""The list of methods, and HandleReloadConfigRequest on bytes; the other methods are in ``tests/conformance``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import pytest

from ovms_mp.errors import ConfigRejected, MalformedPayload, OvmsError, RequestTooLarge, UnsupportedOperation
from ovms_mp.front.methods import Unary, by_path
from ovms_mp.front.served_protocol import MessageParts
from ovms_mp.front.tfs import methods
from ovms_mp.front.tfs._proto import tensorflow_serving_pb2 as serving
from tests.unit.front.workers import context

if TYPE_CHECKING:
    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.service import Service

PATH = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
# ReloadConfigRequest{config: ModelServerConfig{model_config_list{config{name: "m"}}}}, as TensorFlow Serving has it.
CONFIG_WITH_A_MODEL = bytes([0x0A, 7, 0x0A, 5, 0x0A, 3, 0x0A, 1]) + b"m"


class PlayedService:
    """Counts reloads."""

    def __init__(self, outcome: bool | OvmsError) -> None:
        self._outcome = outcome
        self.deadlines: list[int] = []

    async def reload(self, context: CallContext) -> bool:
        self.deadlines.append(context.deadline_ns)
        if isinstance(self._outcome, OvmsError):
            raise self._outcome
        return self._outcome


def refuse(*_: object) -> Any:  # Any: a lease or nothing.
    raise AssertionError("nothing is leased here")


def call(service: PlayedService, request: bytes) -> serving.ReloadConfigResponse:
    parts = MessageParts(cast("Service", service), refuse, refuse, memoryview(b""), lambda _: 0)
    method = by_path(methods.methods(parts))[PATH]

    async def around() -> bytes:
        assert isinstance(method, Unary)
        reply = await method.handler(request, context(77))
        assert isinstance(reply, bytes)
        return reply

    return serving.ReloadConfigResponse.FromString(asyncio.run(around()))


@pytest.mark.parametrize("is_changed", [True, False])
@pytest.mark.parametrize("request_bytes", [b"", b"\x0a\x00"], ids=["no config", "empty config"])
def test_a_reload_answers_ok_whether_or_not_anything_changed(is_changed: bool, request_bytes: bytes) -> None:
    service = PlayedService(is_changed)
    response = call(service, request_bytes)

    assert response.HasField("status")
    assert (response.status.error_code, response.status.error_message) == (0, "")
    assert service.deadlines == [77]


def test_a_failure_is_the_calls_own() -> None:
    with pytest.raises(ConfigRejected, match="why"):
        call(PlayedService(ConfigRejected("why")), b"")


def test_a_configuration_in_the_request_is_refused_and_not_ignored() -> None:
    service = PlayedService(True)
    with pytest.raises(UnsupportedOperation, match="--config_path"):
        call(service, CONFIG_WITH_A_MODEL)

    assert service.deadlines == []


def test_a_request_that_would_become_many_objects_is_not_read() -> None:
    with pytest.raises(RequestTooLarge, match="100000 bytes"):
        call(PlayedService(True), b"\x0a\x00" * 50_000)


def test_bytes_that_are_no_message() -> None:
    with pytest.raises(MalformedPayload, match="ReloadConfigRequest"):
        call(PlayedService(True), b"\xff\xff")
