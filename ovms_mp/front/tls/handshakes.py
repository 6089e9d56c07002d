# SPDX-License-Identifier: Apache-2.0
"""All handshakes of one front: how many there may be at once, what they use, and what the log has of them.

A flood of connections that are opened and never secured costs no more than ``most`` descriptors: the oldest one makes
room, as an honest client is through within milliseconds.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

from ovms_mp.front.steps import Periodic
from ovms_mp.front.tls.handshake import Handshake
from ovms_mp.front.tls.reasons import Reason

if TYPE_CHECKING:
    import asyncio
    import ssl
    from collections.abc import Callable

    from ovms_mp.front.tls.handshake import NewProtocol

_log = logging.getLogger(__name__)

_PART = 8
"""One of so many connections may be one that is not secure yet."""
_LEAST = 4
_REPORT_INTERVAL_S = 10.0


def handshakes_among(connections: int) -> int:
    """How many of a front's connections may be handshakes."""
    return max(_LEAST, connections // _PART)


class Handshakes:
    """Makes the protocols of a TLS port's new connections; lives on the front's event loop.

    Attributes:
        refused: How many failed, by reason.
        most: How many there may be at once.
    """

    def __init__(
        self, read_context: Callable[[], ssl.SSLContext], plain_answer: Callable[[bytes], bytes], most: int
    ) -> None:
        """Prepare.

        Args:
            read_context: Gives what a handshake that begins now uses.
            plain_answer: What a client is told that does not speak TLS, by what it began with.
            most: Handshakes at once.
        """
        self.refused: Counter[Reason] = Counter()
        self.plain_answer = plain_answer
        self._read_context = read_context
        self.most = most
        self._open: dict[Handshake, None] = {}
        self._told: Counter[Reason] = Counter()

    def begin(self, new_protocol: NewProtocol) -> Handshake:
        """The protocol of a new connection; it goes on as what ``new_protocol`` makes."""
        return Handshake(self, new_protocol)

    def context(self) -> ssl.SSLContext:
        """For handshakes that begin now."""
        return self._read_context()

    def entered(self, handshake: Handshake) -> None:
        """One has connected."""
        self._open[handshake] = None
        if len(self._open) > self.most:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.end(Reason.CROWDED)

    def left(self, handshake: Handshake, reason: Reason | None, peer: str) -> None:
        """It is through; or not, for a reason."""
        self._open.pop(handshake, None)
        if reason is None:
            return
        self.refused[reason] += 1
        if self.refused[reason] == 1:
            self._told[reason] = 1
            detail = f" ({handshake.error.reason})" if handshake.error and handshake.error.reason else ""
            _log.warning(
                "event=tls_refused peer=%s why=%s %s%s; further ones are only counted",
                peer,
                reason.name.lower(),
                reason.value,
                detail,
            )

    def report_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Log how many were refused, at intervals and if there were some; ends with the loop."""
        Periodic(loop, "front.tls_report", lambda: _REPORT_INTERVAL_S, self._report)

    def _report(self) -> None:
        new = self.refused - self._told
        self._told.update(new)
        if new:
            counts = " ".join(
                f"{reason.name.lower()}={count}" for reason, count in sorted(new.items(), key=_name)
            )
            _log.warning("event=tls_refused %s handshakes=%d most=%d", counts, len(self._open), self.most)


def _name(item: tuple[Reason, int]) -> str:
    return item[0].name
