# SPDX-License-Identifier: Apache-2.0
"""How long one connection is read before the others of its loop have their turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Sized

from ovms_mp.front.grpc.http2.limits import SECOND_NS

_LONE_TURN_NS = SECOND_NS // 250
"""PERF: of the only connection; tasks and answers go in larger groups."""
_TURN_NS = SECOND_NS // 4000
"""After so long with what one connection sent it is the others' turn."""


class Turn:
    """The turn of one connection, of one or more reads.

    Attributes:
        read_ns: When the last read began; monotonic.
    """

    def __init__(self, connections: Sized, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        """Start with no time spent.

        Args:
            connections: All connections of the loop, as they are at any time.
            clock_ns: Monotonic.
        """
        self.read_ns = 0
        self._connections = connections
        self._clock_ns = clock_ns
        self._spent_ns = 0
        """By the reads of this turn before the last one."""

    def begin_read(self) -> int:
        """Start the clock; the time."""
        self.read_ns = self._clock_ns()
        return self.read_ns

    def is_over(self) -> bool:
        """Whether it is the others' turn now."""
        took_ns = self._spent_ns + self._clock_ns() - self.read_ns
        if took_ns <= _TURN_NS:
            return False
        return took_ns > _LONE_TURN_NS or len(self._connections) > 1

    def end_read(self, *, has_more: bool) -> int:
        """Stop the clock; how long this read took.

        Args:
            has_more: Whether the loop will read this connection again at once. Else it goes on to others by itself.
        """
        took_ns = self._clock_ns() - self.read_ns
        if has_more:
            self._spent_ns += took_ns
        else:
            self._spent_ns = 0
        return took_ns

    def begin_again(self) -> None:
        """Begin a new turn, after others had theirs."""
        self._spent_ns = 0
