# SPDX-License-Identifier: Apache-2.0
"""A stream: its state, what it has to send, and the hooks by which it is told (RFC 9113, section 5)."""

from __future__ import annotations

import abc
from collections import deque
from collections.abc import Callable

from ovms_mp.front.grpc.http2.faults import StreamFault
from ovms_mp.front.grpc.http2.window import ReceiveWindow, Window
from ovms_mp.front.sinks import MessageSink

Hook = Callable[[], None]

_RAPID_NS = 5_000_000
"""Who opens streams and lets each live for longer than this costs us no more than calls that are answered."""


class Stream(abc.ABC):
    """One request and its answer.

    Attributes:
        id: The stream's identifier.
        opened_ns: When its request's header section came.
        deadline_ns: When its client stops waiting, on the same clock; 0 for never.
        expected: Octets still missing to content-length; negative if none was declared.
        receive_window: What the peer may send.
        send_window: What we may send.
        is_remote_open: Whether the peer may still send.
        is_local_open: Whether we may.
        is_reading: Whether more window than the present one may be granted.
        sink: Takes the message that is on its way, if there is one.
        missing: Octets of that message that are due; -1 while its length is not known.
        outbox: What waits for window.
        outbox_bytes: The octets of the outbox.
        trailers: The frame behind the outbox that ends the stream; empty if it is not known yet.
        releases: To be called once the outbox has been written.
        stalled_since_ns: When the outbox was first seen without progress; 0 if it was not.
    """

    def __init__(
        self, stream_id: int, receive_window: int, send_window: int, expected: int, opened_ns: int
    ) -> None:
        self.id = stream_id
        self.opened_ns = opened_ns
        self.deadline_ns = 0
        self.expected = expected
        self.receive_window = ReceiveWindow(receive_window, receive_window // 2, StreamFault)
        self.send_window = Window(send_window, StreamFault)
        self.is_remote_open = True
        self.is_local_open = True
        self.is_reading = True
        self.sink: MessageSink | None = None
        self.missing = -1
        self.outbox: deque[bytes | memoryview] = deque()
        self.outbox_bytes = 0
        self.trailers = b""
        self.releases: list[Hook] = []
        self.stalled_since_ns = 0

    def is_rapid(self, now_ns: int) -> bool:
        """Whether a peer that resets it now cannot have waited for its answer (CVE-2023-44487).

        Clients reset calls whose deadline has passed, too: under overload most of them, with short deadlines
        thousands a second.
        """
        lived_ns = now_ns - self.opened_ns
        return lived_ns < _RAPID_NS and (
            not self.deadline_ns or 2 * now_ns < self.deadline_ns + self.opened_ns
        )

    @abc.abstractmethod
    def opened(self) -> None:
        """The request's header section is valid."""

    @abc.abstractmethod
    def data(self, piece: memoryview) -> None:
        """Octets of the body, valid during the call only; but for those that are put into a sink's place."""

    @abc.abstractmethod
    def advance(self, nbytes: int) -> None:
        """So many octets were received into the sink's place."""

    @abc.abstractmethod
    def ended(self) -> None:
        """The body is complete."""

    @abc.abstractmethod
    def was_reset(self) -> None:
        """The stream is gone, whoever ended it; nothing can be sent any more."""

    @abc.abstractmethod
    def drained(self) -> None:
        """All that was sent has left the stream, or its window has changed."""

    @abc.abstractmethod
    def tick(self, now_ns: int) -> None:
        """Time to look at deadlines."""
