# SPDX-License-Identifier: Apache-2.0
"""gRPC upon HTTP/2: messages with their length before them, and statuses in headers.

Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING
from urllib.parse import unquote

from ovms_mp import __version__
from ovms_mp.client.errors import ClientError, code_of_grpc, code_of_http, error_of, unreadable
from ovms_mp.client.exchange import Request
from ovms_mp.codes import Code

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ovms_mp.client.exchange import Octets, Reply

PREFIX = struct.Struct(">BI")
COMMON_HEADERS = (
    ("content-type", "application/grpc"),
    ("te", "trailers"),
    ("user-agent", f"ovms-mp-client/{__version__}"),
)
_MOST_DIGITS = 8


def framed(message: Sequence[Octets]) -> tuple[Octets, ...]:
    """A message in pieces, with its length before them; one piece where that is short."""
    size = sum(map(len, message))
    head = PREFIX.pack(0, size)
    return (b"".join((head, *message)),) if size < 4096 else (head, *message)


def request(path: str, message: Sequence[Octets], request_id: str = "") -> Request:
    """A unary call."""
    return Request("POST", path, framed(message), (("x-request-id", request_id),) if request_id else ())


def deadline_headers(timeout_s: float) -> tuple[tuple[str, str], ...]:
    """The deadline as the server shall know it. Milliseconds, so that equal timeouts make equal headers."""
    milliseconds = max(1, math.ceil(1000 * timeout_s))
    if len(str(milliseconds)) > _MOST_DIGITS:
        return (("grpc-timeout", f"{min(milliseconds // 1000, 10**_MOST_DIGITS - 1)}S"),)
    return (("grpc-timeout", f"{milliseconds}m"),)


class GrpcDialect:
    """What both APIs have in common over gRPC."""

    def common_headers(self) -> tuple[tuple[str, str], ...]:
        """Headers of every request."""
        return COMMON_HEADERS

    def deadline_headers(self, timeout_s: float) -> tuple[tuple[str, str], ...]:
        """The deadline."""
        return deadline_headers(timeout_s)


def is_success(headers: Mapping[str, str]) -> bool:
    """Whether an answer is none of a failure."""
    return headers.get("grpc-status") == "0"


def failure_of(status: int, headers: Mapping[str, str]) -> ClientError:
    """The failure that an answer is which is no success."""
    number = headers.get("grpc-status")
    if number is None:
        code = code_of_http(status) if status != 200 else Code.UNKNOWN
        speaker = headers.get("server", "it")
        error = error_of(
            code, f"the server has answered HTTP {status} without a gRPC status; does {speaker} speak gRPC?"
        )
    else:
        code = code_of_grpc(number)
        error = error_of(code, unquote(headers.get("grpc-message", "")))
    error.was_answered = True
    pushback = headers.get("grpc-retry-pushback-ms")
    if pushback is not None:
        # What is no number says the same as a negative one: no other try (gRFC A6).
        digits = pushback.isascii() and pushback.isdigit() and len(pushback) <= _MOST_DIGITS
        error.retry_after_s = int(pushback) / 1000 if digits else -1.0
    return error


def message_of(reply: Reply) -> memoryview:
    """The message of a unary call's answer.

    Raises:
        ClientError: The answer is a failure, or no single message.
    """
    if not is_success(reply.headers):
        raise failure_of(reply.status, reply.headers)
    messages, rest = split(reply.body)
    if len(messages) != 1 or rest:
        raise unreadable(f"{len(messages)} messages and {len(rest)} bytes where one message should be")
    return messages[0]


def split(octets: Octets) -> tuple[list[memoryview], memoryview]:
    """The whole messages that octets begin with, and the rest.

    Raises:
        Failed: A message is compressed, which was not offered.
    """
    view = memoryview(octets)
    messages = []
    at = 0
    while len(view) - at >= PREFIX.size:
        is_compressed, size = PREFIX.unpack_from(view, at)
        if is_compressed:
            raise unreadable("a compressed message")
        if at + PREFIX.size + size > len(view):
            break
        messages.append(view[at + PREFIX.size : at + PREFIX.size + size])
        at += PREFIX.size + size
    return messages, view[at:]
