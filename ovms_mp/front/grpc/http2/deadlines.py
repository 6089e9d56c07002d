# SPDX-License-Identifier: Apache-2.0
"""Since when a connection has been as it is, and which of its limits in time are over. Monotonic ns."""

from __future__ import annotations

import random

from ovms_mp.front.grpc.http2.connection import Http2Connection
from ovms_mp.front.grpc.http2.limits import SECOND_NS

FAREWELL_S = 1.0
"""How long octets behind our last one are waited for; closing at once would reset what we wrote."""
_DRAIN_PING_S = 1.0
"""How long a client may take to answer the PING of a drain."""


def is_late(since_ns: int | None, limit_s: float, now_ns: int) -> bool:
    """Whether something has lasted too long; never if it has not begun (None) or has no limit (0)."""
    return since_ns is not None and 0 < limit_s * SECOND_NS < now_ns - since_ns


class Deadlines:
    """What has to happen on one connection before a time is over.

    Attributes:
        drained_ns: When the client was asked to leave; None before.
    """

    def __init__(self, connection: Http2Connection, opened_ns: int) -> None:
        self._opened_ns = opened_ns
        self.drained_ns: int | None = None
        self._connection = connection
        self._limits = connection.limits
        self._frames_seen = 0
        self._progress_ns = opened_ns
        """When the connection was last seen between two frames, or with more of them than before."""
        self._last_id_seen = 0
        self._active_ns = opened_ns
        """When it was last seen with a call, or with a later one than before."""
        # Connections shall not all leave at once.
        self._max_age_s = self._limits.max_age_s * random.uniform(0.9, 1.1)  # noqa: S311

    def look(self) -> None:
        """Note what has happened since the last look."""
        connection = self._connection
        if connection.frames_received != self._frames_seen or not connection.is_mid_frame:
            self._frames_seen = connection.frames_received
            self._progress_ns = connection.now_ns
        if connection.streams or connection.last_id != self._last_id_seen:
            self._last_id_seen = connection.last_id
            self._active_ns = connection.now_ns

    def idle_since_ns(self, now_ns: int) -> int:
        """When the last call began or was there, if there was none since the last look, else now."""
        return self._active_ns if self._connection.last_id == self._last_id_seen else now_ns

    @property
    def is_handshake_late(self) -> bool:
        """Whether preface and SETTINGS should have come."""
        is_due = not self._connection.is_settled
        return is_due and self._is_late(self._opened_ns, self._limits.handshake_timeout_s)

    @property
    def is_frame_late(self) -> bool:
        """Whether the rest of a frame should have come."""
        return self._is_late(self._progress_ns, self._limits.message_timeout_s)

    @property
    def is_old(self) -> bool:
        """Whether the connection has been there, or without a call, for as long as any may be."""
        is_aged = self._is_late(self._opened_ns, self._max_age_s)
        return is_aged or self._is_late(self._active_ns, self._limits.idle_timeout_s)

    @property
    def is_drain_ping_late(self) -> bool:
        """Whether the client should have answered the PING of a drain."""
        return self._is_late(self.drained_ns, _DRAIN_PING_S)

    @property
    def is_grace_over(self) -> bool:
        """Whether a client that was asked to leave should have done so."""
        return self._is_late(self.drained_ns, self._limits.age_grace_s)

    def _is_late(self, since_ns: int | None, limit_s: float) -> bool:
        return is_late(since_ns, limit_s, self._connection.now_ns)
