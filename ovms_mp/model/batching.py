# SPDX-License-Identifier: Apache-2.0
"""The setting of opportunistic batching, one number: off, automatic, or the most requests of a batch."""

from __future__ import annotations

from typing import Final

BATCHING_OFF: Final = 0
AUTO_BATCHING: Final = -1
"""Where a trial shows that it pays and that no answer changes by a bit."""
MAX_BATCHING: Final = 1024
"""The most that may be asked for by ``{"max": N}``."""


def parse_batching(value: object) -> int | None:
    """The number for what a configuration says, absence included; None for what it may not say."""
    if value is None or value == "auto":
        return AUTO_BATCHING
    if value == "off":
        return BATCHING_OFF
    if isinstance(value, dict) and value.keys() == {"max"}:
        most = value["max"]
        if isinstance(most, int) and not isinstance(most, bool) and 2 <= most <= MAX_BATCHING:
            return most
    return None
