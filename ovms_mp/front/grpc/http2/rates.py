# SPDX-License-Identifier: Apache-2.0
"""How often a connection does what costs us more than it (RFC 9113, 10.5)."""

from __future__ import annotations

from collections import Counter

from ovms_mp.front.grpc.http2.limits import SECOND_NS, Hit, Limits


class RateCounter:
    """Counts what a peer does that costs us more than it, in windows of time.

    Attributes:
        suspect_until_ns: Until then the connection is suspect: in the present window it has reached a tenth of a limit.
    """

    def __init__(self, limits: Limits) -> None:
        self.suspect_until_ns = 0
        self._limits = limits
        self._counts = Counter[Hit]()
        self._settled = Counter[Hit]()
        """How much of what a peer earns by was taken into account."""
        self._window_ends_ns = 0

    def count(self, hit: Hit, now_ns: int) -> bool:
        """Count one more; whether that is still allowed."""
        if now_ns >= self._window_ends_ns:
            self._window_ends_ns = now_ns + int(self._limits.rate_window_s * SECOND_NS)
            self._counts = Counter[Hit]()
        self._counts[hit] += 1
        most = self._limits.rates[hit]
        if self._counts[hit] * 10 > most:
            self.suspect_until_ns = self._window_ends_ns
        return self._counts[hit] <= most

    def earn(self, hit: Hit, sent: int, times_each: int) -> None:
        """Take back what the peer had good reason to do.

        Args:
            hit: What it does.
            sent: What we have sent it so far that gives it reason.
            times_each: How often each of these may be followed by it.
        """
        self._counts[hit] = max(0, self._counts[hit] - times_each * (sent - self._settled[hit]))
        self._settled[hit] = sent
