# SPDX-License-Identifier: Apache-2.0
"""What a handler and the service know of a call besides its message, whichever transport carries it."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ovms_mp.wire.version_counters import UNCOUNTED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.front.trace_context import CallTrace
    from ovms_mp.wire.version_counters import VersionCounters

REQUEST_ID = "x-request-id"
_LONGEST_ID = 256
"""Characters of a request's id in the log."""

new_flow = itertools.count(1).__next__
"""A number that no connection of this process had before."""


LOAD_FORMAT = "endpoint-load-metrics-format"
"""The header of those who want to hear of the server's load."""


class Target(NamedTuple):
    """What the client's request line says, for logs and traces."""

    verb: str
    path: str
    scheme: str = "http"


class CallOrigin(Protocol):
    """The transport's own record of a call. What few ask for is made when it is asked for."""

    @property
    def metadata(self) -> Sequence[tuple[str, str | bytes]]:
        """The client's headers, names in lower case; over gRPC those that end in ``-bin`` have octets."""

    @property
    def peer(self) -> str:
        """The client's address: ``host:port``, or ``unix:``; empty where the transport does not know it."""

    @property
    def certificate_name(self) -> str:
        """The name in the certificate that the client has shown; empty without one."""

    @property
    def target(self) -> Target:
        """What was asked for; the path is percent-decoded, and without the query."""


class Called(Protocol):
    """A method or an endpoint, of which a call is one."""

    @property
    def protocol(self) -> str:
        """The API's name."""

    @property
    def name(self) -> str:
        """The method's name in it."""

    @property
    def changes_server(self) -> bool:
        """Whether only administrators may call it."""

    @property
    def is_open(self) -> bool:
        """Whether anybody may call it."""


class CallContext:
    """One call, from the moment its head is known to its end. Its transport makes it, once for each call.

    What is learnt on the way is for observers (:mod:`ovms_mp.front.observers`): monotonic times in nanoseconds, 0 for
    what has not happened.

    Attributes:
        deadline_ns: Monotonic moment after which nobody waits for the answer; 0 for the server's own limit.
        flow: Whose request this is, as workers take flows in turn: who asks for much must not be ahead of everybody
            else. The connection's number, or one of the client's address where a connection has one request at once
            anyway; 0 for a flow of its own. Whoever calls with a key has one flow, whatever this is.
        protocol: The API's name, that of its folder here, e.g. ``tfs``.
        method: The method's name in that API, e.g. ``Predict``; the same over gRPC and REST.
        interface: ``gRPC`` or ``REST``.
        changes_server: Whether the call is for administrators, as it changes the server for everybody.
        is_open: Whether anybody may call, as of probes.
        begun_ns: When the transport knew the head.
        priority: 0 for ordinary requests, 1 for those that go first at a worker. A handler sets it before it has the
            request run.
        client: The client's address where a trusted proxy has said it; empty for the peer's own.
        caller: The name of who calls, if a key or a certificate gives one.
        model: As the request names it; empty before it is known, and of calls about no model.
        version: The version that was found; 0 before that.
        counters: That version's.
        batch_size: First dimension of the first input.
        arrived_ns: When the last octet of the request was there.
        is_part: Whether it is one message of a streaming call, which has a context, too.
        load_format: How the client wants to hear of the server's load; empty where it has not asked.
        decoded_ns: When the request had been read and understood.
        sent_ns: When its inputs were written and its task went to a worker.
        received_ns: When the results were there.
        encoded_ns: When the answer had been made of them.
        queue_ns: How long the task waited at the worker.
        infer_ns: How long it ran.
        received_bytes: Of messages or the body, as they were sent.
        sent_bytes: Of messages or the body, before compression.
        http_status: Of a REST answer.
        trace: What tracing keeps of the call; None if it has no spans.
        message_id: The request's id, as its message gives one; empty without.
        reply_metadata: Names and values that go back with the answer, failures too: gRPC's trailers, REST's headers.
        is_admitted: Whether the gate has let it in.
    """

    # PERF: 0.35 us, as values that are usual are the class's own. With a slot for each it is 0.9 us.
    priority: int = 0
    client: str = ""
    caller: str = ""
    model: str = ""
    version: int = 0
    counters: VersionCounters = UNCOUNTED
    batch_size: int = 1
    arrived_ns: int = 0
    load_format: str = ""
    is_part: bool = False
    decoded_ns: int = 0
    sent_ns: int = 0
    received_ns: int = 0
    encoded_ns: int = 0
    queue_ns: int = 0
    infer_ns: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0
    http_status: int = 0
    trace: CallTrace | None = None
    message_id: str = ""
    reply_metadata: tuple[tuple[str, str], ...] = ()
    is_admitted: bool = False

    def __init__(
        self,
        deadline_ns: int,
        flow: int,
        protocol: str,
        method: str,
        origin: CallOrigin,
        interface: str = "",
        begun_ns: int = 0,
        *,
        changes_server: bool = False,
        is_open: bool = False,
    ) -> None:
        """Begin; see the attributes."""
        self.deadline_ns = deadline_ns
        self.flow = flow
        self.protocol = protocol
        self.method = method
        self.origin = origin
        self.interface = interface
        self.begun_ns = begun_ns
        self.changes_server = changes_server
        self.is_open = is_open

    @classmethod
    def of(
        cls,
        called: Called | None,
        deadline_ns: int,
        flow: int,
        origin: CallOrigin,
        interface: str,
        begun_ns: int,
    ) -> CallContext:
        """The context of a call of a method or an endpoint; of None, which is there for nothing, without a name."""
        if called is None:
            return cls(deadline_ns, flow, "", "", origin, interface, begun_ns)
        return cls(
            deadline_ns,
            flow,
            called.protocol,
            called.name,
            origin,
            interface,
            begun_ns,
            changes_server=called.changes_server,
            is_open=called.is_open,
        )

    @property
    def metadata(self) -> Sequence[tuple[str, str | bytes]]:
        """The client's headers."""
        return self.origin.metadata

    @property
    def peer(self) -> str:
        """The client's address, for logs and limits: ``host:port``, with port 0 behind a proxy that does not say it."""
        return self.client or self.origin.peer

    def reply_with(self, name: str, value: str) -> None:
        """Send this back with the answer; the name in lower case."""
        self.reply_metadata = (*self.reply_metadata, (name, value))

    def part(self, method: str, begun_ns: int) -> CallContext:
        """The context of one message of a streaming call, which is observed like a call of its own."""
        part = CallContext(
            self.deadline_ns, self.flow, self.protocol, method, self.origin, self.interface, begun_ns
        )
        part.is_part = True
        part.client, part.caller, part.trace = self.client, self.caller, self.trace
        return part


def request_id_of(context: CallContext) -> str:
    """The id that a client or proxy has given the request by a header, for logs; empty without."""
    for name, value in context.metadata:
        if name == REQUEST_ID and isinstance(value, str):
            return value[:_LONGEST_ID]
    return ""


def address_text(address: object) -> str:
    """A socket's address for people: ``host:port``, ``unix:`` of a Unix socket, or empty where there is none."""
    match address:
        case (host, port, *_):
            # As sockets for both families show IPv4's.
            name = str(host).removeprefix("::ffff:") if "." in str(host) else str(host)
            return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
        case str() | bytes():
            return f"unix:{os.fsdecode(address)}"
        case _:
            return ""
