# SPDX-License-Identifier: Apache-2.0
"""A front that has no descriptor left turns connections away without a word: libuv resets them, gRPC lets them wait.

Neither tells the application, so the front looks whether a descriptor could be had, at each of its ticks.
PERF: 1.5 us a look.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ovms_mp.front.clock import Clock

_log = logging.getLogger(__name__)

_TELL_INTERVAL_NS = 60 * 10**9


class DescriptorWatch:
    """Says once in a while that connections are turned away."""

    def __init__(self, clock_ns: Clock) -> None:
        self._clock_ns = clock_ns
        self._tell_at_ns = 0

    def look(self) -> bool:
        """Whether a descriptor can be had; if not, that is logged at most once a minute."""
        try:
            os.close(os.open("/", os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                return True
            if self._clock_ns() >= self._tell_at_ns:
                self._tell_at_ns = self._clock_ns() + _TELL_INTERVAL_NS
                limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
                _log.error(
                    "event=connections_turned_away reason=%s limit=%d; raise the limit of open files (ulimit -n, "
                    "LimitNOFILE=), or have clients close connections that they do not use",
                    error.strerror,
                    limit,
                )
            return False
        return True
