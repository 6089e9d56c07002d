# SPDX-License-Identifier: Apache-2.0
"""What peers may do at most (RFC 9113, 10.5), how often each limit was hit, and how much is held.

They answer CVE-2019-9511 to 9518, CVE-2023-44487 (rapid reset), CVE-2024-27316 (CONTINUATION flood), CVE-2025-8671.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ovms_mp.front.gate import OPEN_GATE, Gate

SECOND_NS = 1_000_000_000
_FAIR_BYTES_PER_S, _MUCH_BYTES = 16 << 20, 64 << 10
"""Who sends or reads more slowly may not keep so much when memory is short."""


class Hit(enum.IntEnum):
    """The limits that are counted, by what was too much; PROTOCOL is any other fault of a peer.

    Who does not even greet in HTTP/2 is counted as TLS_HELLO or NOT_HTTP2, and not logged one by one.
    """

    CONNECTIONS = 0
    STREAMS = 1
    HEADER_LIST = 2
    HEADER_BLOCK = 3
    CONTINUATIONS = 4
    MESSAGE_SIZE = 5
    UNREAD = 6
    RESETS = 7
    PINGS = 8
    SETTINGS = 9
    WINDOW_UPDATES = 10
    EMPTY_DATA = 11
    IGNORED = 12
    HANDSHAKE = 13
    SLOW_FRAME = 14
    SLOW_MESSAGE = 15
    BUDGET = 16
    STALLED_STREAM = 17
    STALLED_CONNECTION = 18
    PROTOCOL = 19
    TLS_HELLO = 20
    NOT_HTTP2 = 21


RATES = {
    Hit.HEADER_LIST: 1000,
    Hit.RESETS: 1000,  # Streams that the peer reset at once, or that we reset for what the peer did.
    Hit.PINGS: 2000,  # Besides one for each DATA frame that we sent.
    Hit.SETTINGS: 100,
    Hit.WINDOW_UPDATES: 5000,  # Besides four for each DATA frame that we sent, but not for crumbs.
    Hit.EMPTY_DATA: 100,
    Hit.IGNORED: 1000,  # PRIORITY, GOAWAY and unknown frames.
}
"""How often a connection may do what costs us more than it, in ``Limits.rate_window_s``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """All limits of a server. A time of 0 switches idle or age off."""

    max_message_bytes: int = 1 << 30  # Of a request, before and after decompression.
    max_connections: int = 4096  # Of the process.
    max_streams: int = 128  # Calls at once on a connection; a further one is refused.
    max_frame_bytes: int = 1 << 20  # Large frames are what lets tensors go straight to their place.
    stream_window_bytes: int = 4 << 20
    connection_window_bytes: int = 16 << 20  # Granted in advance, so held beyond the budget at worst.
    connection_buffer_bytes: int = 2 << 30  # Held for one connection; beyond it no window is granted.
    process_buffer_bytes: int = 4 << 30  # Held for all; beyond it answers without window are refused, too.
    process_limit_bytes: int = 5 << 30  # Held for all; beyond it messages on their way are refused, too.
    arena_reserve_bytes: int = 0  # With less than this left in the arena no window is granted.
    max_header_list_bytes: int = 16 << 10  # Announced; a call with more is refused.
    max_header_block_bytes: int = 64 << 10  # Compressed or not, more ends the connection.
    max_continuations: int = 16  # CONTINUATION frames of one header block.
    max_settings: int = 32  # Entries of a SETTINGS frame.
    max_output_bytes: int = 4 << 20  # Framed and waiting for the socket; DATA waits in its stream beyond it.
    max_unread_bytes: int = 8 << 20  # As before, with acknowledgements that a peer asks for and never reads.
    rate_window_s: float = 10  # What ``rates`` count in.
    rates: Mapping[Hit, int] = field(default_factory=lambda: RATES)
    handshake_timeout_s: float = 10  # Preface, SETTINGS and the acknowledgement of ours.
    message_timeout_s: float = 60  # For a message, plus a second for each MiB; also for the rest of a frame.
    send_timeout_s: float = 60  # For an answer that waits for the peer's window or socket without progress.
    idle_timeout_s: float = 0  # A connection without calls is asked to leave.
    max_age_s: float = 0  # A connection this old is asked to leave (give or take a tenth).
    age_grace_s: float = 300  # Calls that go on for longer after that are ended.


class Guard:
    """What all connections of a server share.

    Attributes:
        limits: What peers are held to.
        counters: How often each limit was hit.
        held_bytes: What messages hold that are on their way, but for memory of sinks.
        gate: Lets calls in, and is told of their ends.
    """

    def __init__(
        self, limits: Limits, free_bytes: Callable[[], int] | None = None, gate: Gate = OPEN_GATE
    ) -> None:
        """Start with nothing held.

        Args:
            limits: What peers are held to.
            free_bytes: Tells what the arena has left at this moment; None if there is no arena.
            gate: Lets calls in.
        """
        self.limits = limits
        self.counters = Counter[Hit]()
        self.held_bytes = 0
        self.gate = gate
        self._free_bytes = free_bytes

    @property
    def is_open(self) -> bool:
        """Whether more may be asked for. Who must not ask looks again at the server's next tick."""
        has_arena = self._free_bytes is None or self._free_bytes() >= self.limits.arena_reserve_bytes
        return has_arena and not self.is_full

    @property
    def is_full(self) -> bool:
        """Whether what is held is all that may be, whatever the arena has left."""
        return self.held_bytes >= self.limits.process_buffer_bytes


def lags(nbytes: int, since_ns: int, now_ns: int) -> bool:
    """Whether a peer has kept so much memory since then for longer than it may where there is no more."""
    return nbytes >= _MUCH_BYTES and now_ns - since_ns > SECOND_NS * (1 + nbytes / _FAIR_BYTES_PER_S)
