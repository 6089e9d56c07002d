# SPDX-License-Identifier: Apache-2.0
"""Flow-control windows: one type for both directions, on connections and on streams (RFC 9113, 5.2 and 6.9)."""

from __future__ import annotations

from ovms_mp.front.grpc.http2.faults import ErrorCode, Fault
from ovms_mp.front.grpc.http2.frames import LARGEST_WINDOW


class Window:
    """How many octets of DATA one side may still send.

    Attributes:
        size: Those octets. Negative on a stream after the peer has reduced its initial window (6.9.2). PERF: hot
            paths that have compared it with a frame's length subtract from it themselves.
        fault: What it is if the peer breaks a rule of this window: the connection's fault or the stream's.
    """

    __slots__ = ("fault", "size")

    def __init__(self, size: int, fault: type[Fault]) -> None:
        self.size = size
        self.fault = fault

    def take(self, nbytes: int) -> None:
        """Count a DATA frame's payload, with its padding (6.9.1).

        Raises:
            Fault: It is more than was granted.
        """
        self.size -= nbytes
        if self.size < 0:
            raise self.fault(ErrorCode.FLOW_CONTROL_ERROR, "more data than the window")

    def widen(self, increment: int) -> None:
        """Apply a WINDOW_UPDATE.

        Raises:
            Fault: The increment is 0 (6.9), or the window would exceed 2^31-1 (6.9.1).
        """
        if increment == 0:
            raise self.fault(ErrorCode.PROTOCOL_ERROR, "a window update of 0")
        if self.size + increment > LARGEST_WINDOW:
            raise self.fault(ErrorCode.FLOW_CONTROL_ERROR, "a window beyond 2^31-1")
        self.size += increment


class ReceiveWindow(Window):
    """A window that we grant, and fill up again once enough of it is used.

    Attributes:
        low_size: At this size or below a WINDOW_UPDATE is worth its frame.
    """

    __slots__ = ("_capacity", "low_size")

    def __init__(self, capacity: int, low_size: int, fault: type[Fault]) -> None:
        super().__init__(capacity, fault)
        self._capacity = capacity
        self.low_size = low_size

    @property
    def is_low(self) -> bool:
        """Whether it is time for a WINDOW_UPDATE."""
        return self.size <= self.low_size

    def refill(self) -> int:
        """Grant the whole capacity again; the increment that the peer must be told."""
        used = self._capacity - self.size
        self.size = self._capacity
        return used
