# SPDX-License-Identifier: Apache-2.0
"""What peers of the native front do wrong, in the log: their count once a second, single faults a few times a second.

A peer can break a rule thousands of times a second; it must not fill the disk with it.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import TYPE_CHECKING

from ovms_mp.front.grpc.http2.limits import Hit
from ovms_mp.front.steps import Periodic

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from ovms_mp.front.grpc.http2.limits import Guard

_log = logging.getLogger(__name__)

_REPORT_INTERVAL_S = 1.0
_RECORDS_PER_S = 10


def report_hits(guard: Guard, loop: asyncio.AbstractEventLoop) -> None:
    """Log from now on which limits were hit, and how often, since the last such line; ends with the loop."""
    told = Counter[Hit]()

    def report() -> None:
        new = guard.counters - told
        if new[Hit.TLS_HELLO] and not told[Hit.TLS_HELLO]:
            _log.warning(
                "event=tls_hello a client speaks TLS to this port, which is plain: start the server with --tls_cert "
                "and --tls_key, or have the client use an insecure channel; further ones are only counted"
            )
        told.update(new)
        if new:
            counts = " ".join(f"{Hit(hit).name.lower()}={new[hit]}" for hit in sorted(new))
            _log.warning("event=limits_hit %s", counts)

    Periodic(loop, "grpc.report_hits", lambda: _REPORT_INTERVAL_S, report)


class AtMost(logging.Filter):
    """Lets so many records of a logger pass in a second."""

    def __init__(self, per_s: int = _RECORDS_PER_S, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._per_s = per_s
        self._clock = clock
        self._second = 0
        self._passed = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record may pass."""
        second = int(self._clock())
        if second != self._second:
            self._second, self._passed = second, 0
        self._passed += 1
        return self._passed <= self._per_s
