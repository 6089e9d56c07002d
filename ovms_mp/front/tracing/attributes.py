# SPDX-License-Identifier: Apache-2.0
"""What a span says of its call, in the words of OpenTelemetry's semantic conventions; ours begin with ``ovms_mp.``.

No header but the client's program is in it, and no query: keys of clients are in those.
Source: https://opentelemetry.io/docs/specs/semconv/rpc/, https://opentelemetry.io/docs/specs/semconv/http/.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.trace import Status, StatusCode

from ovms_mp.codes import Code
from ovms_mp.errors import shortened
from ovms_mp.front.call_context import REQUEST_ID, request_id_of
from ovms_mp.front.trace_context import values_of

if TYPE_CHECKING:
    from ovms_mp.errors import OvmsError
    from ovms_mp.front.call_context import CallContext

_LONGEST = 256
_LONGEST_STATUS = 1000
_FAULTS_OF_SERVERS = frozenset(
    (
        Code.UNKNOWN,
        Code.DEADLINE_EXCEEDED,
        Code.UNIMPLEMENTED,
        Code.INTERNAL,
        Code.UNAVAILABLE,
        Code.DATA_LOSS,
    )
)
"""As the conventions have it for spans of servers."""
_FIRST_FAULT_STATUS = 500
OK = Status()


def attributes_of(context: CallContext, code: Code | None) -> dict[str, str | int]:
    """All that is known at the end of a call."""
    found: dict[str, str | int] = {
        "ovms_mp.protocol": context.protocol,
        "ovms_mp.request.size": context.received_bytes,
        "ovms_mp.response.size": context.sent_bytes,
    }
    target = context.origin.target
    path = shortened(target.path, _LONGEST)
    if context.interface == "gRPC":
        found["rpc.system.name"] = "grpc"
        found["rpc.method"] = path.removeprefix("/")
        found["rpc.response.status_code"] = "OK" if code is None else code.name
    else:
        found["http.request.method"] = target.verb
        found["url.path"] = path
        found["url.scheme"] = target.scheme
        found["http.response.status_code"] = context.http_status
    if code is not None:
        is_http = context.interface != "gRPC" and context.http_status >= _FIRST_FAULT_STATUS
        found["error.type"] = str(context.http_status) if is_http else code.name
    host, _, port = context.peer.rpartition(":")
    if port.isascii() and port.isdigit():
        found |= {"client.address": host.strip("[]"), "client.port": int(port)}
    elif context.peer:
        found["client.address"] = context.peer
    agent = values_of(context.metadata, "user-agent")
    if agent:
        found["user_agent.original"] = shortened(agent[0], _LONGEST)
    given: dict[str, str | int] = {
        "ovms_mp.model": shortened(context.model, _LONGEST),
        "ovms_mp.version": context.version,
        "ovms_mp.caller": context.caller,
        REQUEST_ID: request_id_of(context),
        "ovms_mp.message_id": context.message_id,
    }
    found |= {name: value for name, value in given.items() if value}
    if context.received_ns:
        found["ovms_mp.batch_size"] = context.batch_size
    return found


def status_of(context: CallContext, code: Code | None, failure: OvmsError | None) -> Status:
    """Whether it failed by the server's fault; what clients do wrong is no error of a server's span."""
    is_fault = code is not None and (
        code in _FAULTS_OF_SERVERS
        if context.interface == "gRPC"
        else context.http_status >= _FIRST_FAULT_STATUS
    )
    if not is_fault:
        return OK
    return Status(StatusCode.ERROR, shortened(failure.message, _LONGEST_STATUS) if failure else None)
