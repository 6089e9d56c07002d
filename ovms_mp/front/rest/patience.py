# SPDX-License-Identifier: Apache-2.0
"""How long one client is waited for: counted in sweeps of all connections, without a timer for each."""

from __future__ import annotations

from ovms_mp.front.rest import bounds
from ovms_mp.front.rest.connections import SWEEP_INTERVAL_S

_FAIR_BYTES_PER_S, _MUCH_BYTES = 16 << 20, 64 << 10
"""Who reads more slowly may not keep so much when memory is short; over gRPC it is the same."""
ANSWER_UNREAD, BODY_LATE, HEAD_LATE, IDLE = "answer_unread", "body_late", "head_late", "idle"


class Patience:
    """With one client."""

    def __init__(self, client_timeout_s: float) -> None:
        """Begin.

        Args:
            client_timeout_s: How long it may neither send what it has begun nor read its answer.
        """
        self._client_timeout_s = client_timeout_s
        self._unread_bytes = self._unread_for = 0
        """Of answers, and for so many sweeps much of them."""
        self._waited = 0
        self._waits_for = ""
        """What the connection had been doing for so many sweeps."""
        self._lingered = 0
        """For so many sweeps."""

    def begin_again(self) -> None:
        """It has got its answer."""
        self._waited = 0

    def end_of(
        self,
        unread_bytes: int,
        *,
        is_memory_short: bool,
        is_between: bool,
        has_begun: bool,
        is_body_due: bool,
    ) -> str:
        """What it has been waited for too long for; empty if it has not. Called at every sweep.

        Args:
            unread_bytes: Of answers.
            is_memory_short: Whether what is held of them keeps others waiting.
            is_between: Whether no request is under way.
            has_begun: Whether a head has begun to come.
            is_body_due: Whether nothing has come of a body that it should send.
        """
        unread, self._unread_bytes = self._unread_bytes, unread_bytes
        timeout_s = self._client_timeout_s
        self._unread_for = self._unread_for + 1 if unread_bytes >= _MUCH_BYTES else 0
        if is_memory_short and self._unread_for * SWEEP_INTERVAL_S > 2 + unread_bytes / _FAIR_BYTES_PER_S:
            return ANSWER_UNREAD
        if unread_bytes:
            name, is_waiting = ANSWER_UNREAD, unread_bytes >= unread > 0
        elif is_between:
            # From its first octet on a head has to be here in time, however it dribbles.
            timeout_s = min(bounds.HEAD_TIMEOUT_S, timeout_s) if has_begun else bounds.IDLE_TIMEOUT_S
            name, is_waiting = (HEAD_LATE if has_begun else IDLE), True
        else:
            name, is_waiting = BODY_LATE, is_body_due
        self._waited = self._waited + 1 if is_waiting and name == self._waits_for else 0
        self._waits_for = name
        return name if self._waited * SWEEP_INTERVAL_S >= timeout_s else ""

    def is_linger_over(self, *, is_fresh: bool) -> bool:
        """Whether a connection whose answer came early has been read from for long enough. Called at every sweep.

        Args:
            is_fresh: Whether anything has come since the last one.
        """
        self._lingered += 1
        self._waited = 0 if is_fresh else self._waited + 1
        return self._lingered >= bounds.LINGER_SWEEPS or self._waited >= bounds.QUIET_SWEEPS
