# SPDX-License-Identifier: Apache-2.0
"""Says in the log who is refused for the want of a key, however often they try."""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING

from ovms_mp.front.access.peers import host_of

if TYPE_CHECKING:
    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.clock import Clock

_log = logging.getLogger(__name__)

NOT_ADMIN = "not_admin"
"""The reason for which one is refused whose key is known."""
_QUIET_NS = 60 * 10**9
"""Between two lines about one peer."""
_MOST_PEERS = 1024
_MOST_LINES = 100
"""Of all peers in that time; who has many addresses must not fill the log."""


class KeyRefusals:
    """One line for each peer and minute, with the number of refusals that had none.

    Attributes:
        counts: Refusals by reason since the start.
    """

    def __init__(self, clock_ns: Clock) -> None:
        """Know of nobody.

        Args:
            clock_ns: Monotonic time.
        """
        self.counts = Counter[str]()
        self._clock_ns = clock_ns
        self._peers: OrderedDict[str, tuple[int, int]] = OrderedDict()
        """When each had its last line, and how many refusals came since; the one that was quiet longest first."""
        self._window_ns = 0
        self._lines = 0

    def note(self, context: CallContext, reason: str) -> None:
        """Count a refusal, and log it if it is the peer's first one for a while."""
        self.counts[reason] += 1
        host, now_ns = host_of(context.peer), self._clock_ns()
        told_ns, untold = self._peers.pop(host, (0, 0))
        if told_ns and now_ns - told_ns < _QUIET_NS:
            self._peers[host] = (told_ns, untold + 1)
            return
        if len(self._peers) >= _MOST_PEERS:
            self._peers.popitem(last=False)
        self._peers[host] = (now_ns, 0)
        if now_ns - self._window_ns >= _QUIET_NS or not self._window_ns:
            self._window_ns, self._lines = now_ns, 0
        self._lines += 1
        if self._lines > _MOST_LINES:
            return
        # Fields are told apart by the format: one that came within a value would be part of that. For any other reason
        # the caller's name, if it has one, is its certificate's.
        key, caller = (" key_name=%s", (context.caller,)) if reason == NOT_ADMIN else ("", ())
        _log.warning(
            f"event=key_refused peer=%s reason=%s interface=%s method=%s{key} more_since_last_line=%d",
            host,
            reason,
            context.interface,
            context.method or "unknown",
            *caller,
            untold,
        )
