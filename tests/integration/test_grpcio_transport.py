# SPDX-License-Identifier: Apache-2.0
"""grpcio's server with methods of its own, on a real socket: what protocols hand to it, it carries as the other one."""

from __future__ import annotations

import gzip
import json
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from ovms_mp.errors import INTERNAL_ERROR_TEXT

if TYPE_CHECKING:
    from collections.abc import Iterator

DEADLINE_S = 20


@pytest.fixture(scope="module")
def channel() -> Iterator[Any]:  # Any: a channel's stubs want arguments that have defaults.
    """A client that is connected to the server."""
    # The port is ours while it is bound here; grpcio shares it.
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        with subprocess.Popen([sys.executable, "-m", "tests.support.grpcio_server", str(port)]) as server:
            try:
                with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                    grpc.channel_ready_future(channel).result(DEADLINE_S)
                    yield channel
            finally:
                server.terminate()
                assert server.wait(DEADLINE_S) == 0


def told(channel: Any) -> dict[str, Any]:
    """What a handler knows of its call."""
    reply = channel.unary_unary("/s/Tell")(b"", metadata=[("y", "z")], timeout=DEADLINE_S)
    found: dict[str, Any] = json.loads(reply)
    return found


def refusal(channel: Any, path: str, request: bytes) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(path)(request, timeout=DEADLINE_S)
    error: Any = caught.value  # Any: it is a call, too, which the stubs do not say.
    return error.code(), error.details()


def test_a_reply_in_pieces_is_sent_whole_and_released(channel: Any) -> None:
    released = told(channel)["released"]

    assert channel.unary_unary("/s/Gather")(b"ab", timeout=DEADLINE_S) == b"abab"
    assert told(channel)["released"] == released + 1


def test_a_handler_is_told_whose_call_it_is(channel: Any) -> None:
    context = told(channel)

    assert (context["protocol"], context["method"], context["flow"]) == ("p", "Tell", 0)
    assert context["has_deadline"]
    assert context["y"] == ["z"]
    assert context["peer"].startswith("127.0.0.1:")


@pytest.mark.parametrize(("nbytes", "is_taken"), [(100, True), (101, False)])
def test_a_methods_own_limit_holds_for_packed_messages(channel: Any, nbytes: int, is_taken: bool) -> None:
    request = gzip.compress(bytes(nbytes), mtime=0)
    if is_taken:
        assert channel.unary_unary("/s/Gather")(request, timeout=DEADLINE_S) == bytes(2 * nbytes)
    else:
        assert refusal(channel, "/s/Gather", request)[0] is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_long_text_reaches_the_client(channel: Any) -> None:
    assert refusal(channel, "/s/Refuse", b"") == (grpc.StatusCode.NOT_FOUND, "m" * 997 + "...")


def test_a_streaming_method(channel: Any) -> None:
    released = told(channel)["released"]
    messages = (b"a", gzip.compress(b"bb", mtime=0))

    assert list(channel.stream_stream("/s/Double")(iter(messages), timeout=DEADLINE_S)) == [b"aa", b"bbbb"]
    assert told(channel)["released"] == released + 2


def test_a_defect_of_a_streaming_method_is_internal(channel: Any) -> None:
    call = channel.stream_stream("/s/Double")(iter((b"break",)), timeout=DEADLINE_S)
    with pytest.raises(grpc.RpcError):
        next(call)

    assert (call.code(), call.details()) == (grpc.StatusCode.INTERNAL, INTERNAL_ERROR_TEXT)
