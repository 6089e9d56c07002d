# SPDX-License-Identifier: Apache-2.0
"""What clients can cause thousands of times a second is logged a few times a second: it must not fill the disk."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_RECORDS_PER_S = 10


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
