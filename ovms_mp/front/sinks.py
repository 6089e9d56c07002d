# SPDX-License-Identifier: Apache-2.0
"""Where a message goes while it arrives: a protocol's decoder names memory, a transport fills it."""

from __future__ import annotations

from typing import Any, Protocol


class MessageSink(Protocol):
    """Takes the octets of one message in their order, some of them straight from the socket.

    One owner: it is made when the message's length is known, and ends with ``finish``, whose return is its
    handler's; or with ``abort``, also if ``feed`` or ``finish`` refused the message by raising an OvmsError.

    Attributes:
        place: Writable octets, part of the message; None if what comes next shall be given to ``feed``.
        filled: How many of the place's octets are there; never all of them. PERF: who writes the next ones may count
            them here itself, as long as some are missing.
    """

    place: memoryview | None
    filled: int

    def advance(self, nbytes: int) -> None:
        """So many more octets of the place are there."""

    def feed(self, piece: memoryview) -> int:
        """Take the first octets of a piece, which is valid during the call; how many, at least one."""

    def finish(self) -> Any:  # Any: each method has its own type of request.
        """The request; called when all octets of the message are there."""

    def abort(self) -> None:
        """Let go of everything."""


def wanted(sink: MessageSink | None) -> memoryview | None:
    """Where the next octets belong, if there is a sink and a place."""
    return None if sink is None or sink.place is None else sink.place[sink.filled :]


def fill(sink: MessageSink, piece: memoryview) -> int:
    """Give octets to a sink, with one copy for those that it wants in its memory; how many it took for itself."""
    fed = 0
    while piece:
        target = wanted(sink)
        if target is None:
            taken = sink.feed(piece)
            fed += taken
        else:
            taken = min(len(target), len(piece))
            target[:taken] = piece[:taken]
            sink.advance(taken)
        piece = piece[taken:]
    return fed
