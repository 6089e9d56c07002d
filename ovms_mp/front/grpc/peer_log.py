# SPDX-License-Identifier: Apache-2.0
"""What peers of the native front do wrong, in the log: their count once a second."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

from ovms_mp.front.grpc.http2.limits import Hit
from ovms_mp.front.steps import Periodic

if TYPE_CHECKING:
    import asyncio

    from ovms_mp.front.grpc.http2.limits import Guard

_log = logging.getLogger(__name__)

_REPORT_INTERVAL_S = 1.0


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
