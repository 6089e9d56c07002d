# SPDX-License-Identifier: Apache-2.0
"""All connections of a server: how many there may be, who leaves if there are more, and what they share."""

from __future__ import annotations

import asyncio
import heapq
from typing import Protocol

from ovms_mp.front.grpc.http2.faults import peer_log
from ovms_mp.front.grpc.http2.limits import SECOND_NS

_SCRATCH_BYTES = 512 << 10
_CALM_NS = SECOND_NS // 50
"""For how long new connections are not read, for each fault of a peer; a second at most."""
_LONGEST_CALM_NS = SECOND_NS
_LEAVING_AT_ONCE = 32
"""One of so many connections is told to go when there is no room: several at once, as it takes a look at all."""
_MOST_LEAVING = 16
"""One of so many may have been told to go and still be there."""
_FULL_NS = SECOND_NS // 20
"""For how long all connections are taken for busy after a look at them."""


class Member(Protocol):
    """A connection as the others' keeper sees it. All methods return at once."""

    def idle_rank(self, now_ns: int) -> tuple[bool, int] | None:
        """Who goes first, by order; None: this one is busy."""

    def leave(self) -> None:
        """End; the client is told, and that a call it may just begin was not processed."""

    def abort(self) -> None:
        """Give the descriptor back now."""

    def drain(self) -> None:
        """Ask the client to leave."""

    def stop(self) -> None:
        """End all calls, then the connection; at once if that was done before."""

    def tick(self) -> None:
        """Look at all deadlines."""

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing that a tick must look at soon."""


class Connections:
    """The connections of one server; lives on its event loop.

    Attributes:
        members: Those that are open.
        changed: Set whenever one comes or goes.
        scratch: Memory that octets are read into. SAFETY: one for all, as a loop reads one socket at a time and the
            octets are taken before it does anything else.
        calm_ns: Until then new connections are not read, as peers have broken rules.
    """

    def __init__(self, most: int) -> None:
        """Start empty.

        Args:
            most: How many there may be.
        """
        self.members: set[Member] = set()
        self.changed = asyncio.Event()
        self.scratch = memoryview(bytearray(_SCRATCH_BYTES))
        self.calm_ns = 0
        self._most = most
        self._leaving: dict[Member, None] = {}
        """Idle ones that were told to go, the first one first."""
        self._full_until_ns = 0

    def add(self, member: Member) -> None:
        """One has come."""
        self.members.add(member)
        self.changed.set()

    def remove(self, member: Member) -> None:
        """One has gone."""
        self.members.discard(member)
        self._leaving.pop(member, None)
        self.changed.set()

    def calm_down(self, now_ns: int) -> None:
        """A peer has broken a rule: read new connections a little later, as floods of them cost more than they do."""
        self.calm_ns = min(max(self.calm_ns, now_ns) + _CALM_NS, now_ns + _LONGEST_CALM_NS)

    def make_room(self, now_ns: int) -> bool:
        """Whether there may be one more connection; if not, those that are idle for longest go."""
        if len(self.members) - len(self._leaving) < self._most:
            return True
        if now_ns < self._full_until_ns:
            return False
        told = self._tell_idle_ones(now_ns)
        self._abort_first_leaving()
        if not told:
            self._full_until_ns = now_ns + _FULL_NS
        peer_log.warning(
            "event=connection_limit most=%d closed_idle=%d "
            "(raise the limit of open files, or close idle channels)",
            self._most,
            told,
        )
        return told > 0

    def _tell_idle_ones(self, now_ns: int) -> int:
        """Tell those that are idle for longest to go; how many there were."""
        ranked = []
        for member in self.members:
            rank = member.idle_rank(now_ns)
            if rank is not None:
                ranked.append((rank, id(member), member))
        idlest = heapq.nsmallest(max(1, self._most // _LEAVING_AT_ONCE), ranked)
        for _, _, member in idlest:
            self._leaving[member] = None
            member.leave()
        return len(idlest)

    def _abort_first_leaving(self) -> None:
        """Wait no longer for those that were told first, as each one keeps a descriptor."""
        while len(self._leaving) > max(1, self._most // _MOST_LEAVING):
            first = next(iter(self._leaving))
            del self._leaving[first]
            self.members.discard(first)
            first.abort()
