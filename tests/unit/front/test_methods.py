# SPDX-License-Identifier: Apache-2.0
"""Methods as protocols hand them to transports: names and limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ovms_mp.front.methods import Streaming, Unary, by_path

if TYPE_CHECKING:
    from ovms_mp.front.call_context import CallContext

PATH = "/package.Service/Method"


async def handler(request: Any, context: CallContext) -> bytes:
    raise AssertionError("it is not called here")


async def stream_handler(stream: Any, context: CallContext) -> None:
    raise AssertionError("it is not called here")


def test_the_name_is_the_last_part_of_the_path() -> None:
    unary, streaming = Unary(PATH, handler), Streaming("/s/Infer", stream_handler, "p")

    assert (unary.name, streaming.name, streaming.protocol) == ("Method", "Infer", "p")
    assert by_path([unary, streaming]) == {PATH: unary, "/s/Infer": streaming}


@pytest.mark.parametrize(("max_bytes", "longest"), [(0, 100), (4, 4), (1000, 100)])
def test_a_message_is_as_long_as_method_and_server_take(max_bytes: int, longest: int) -> None:
    method = Unary(PATH, handler, max_bytes=max_bytes)

    assert method.longest_bytes(100) == longest
    assert method.longest_unpacked_bytes(1, 100) == longest


def test_a_packed_message_may_have_a_limit_of_its_own() -> None:
    method = Unary(PATH, handler, max_bytes=4, unpacked_limit=lambda packed_bytes: 10 * packed_bytes)

    assert method.longest_unpacked_bytes(4, 100) == 40
    assert method.longest_unpacked_bytes(40, 100) == 100, "never more than the server takes"
