# SPDX-License-Identifier: Apache-2.0
"""When a call is tried again, and after what time.

A request that no server has begun with is tried again at once. One that was perhaps begun is, too, as inference and
what else a client asks changes nothing, but only where the server says that it cannot answer now (UNAVAILABLE), where
the connection ended, or where the server names the time of another try. Never beyond the deadline.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from ovms_mp.client.errors import NotSecure, NotSent, Overloaded, Unavailable

_AT_ONCE = 2
"""Tries without a pause where nothing was begun, e.g. as an idle connection was closed."""


@dataclass(frozen=True, slots=True)
class Retries:
    """How often and how soon.

    Attributes:
        most: Tries besides the first one; 0 for none.
        first_pause_s: Before the second try; it doubles from try to try, and a random half of it is left out.
        longest_pause_s: The longest pause, unless the server wants a longer one.
    """

    most: int = 4
    first_pause_s: float = 0.05
    longest_pause_s: float = 1.0

    def pause_s(self, error: Exception, tries: int, left_s: float) -> float | None:
        """The pause before the next try; None if there shall be none.

        Args:
            error: What the last one failed with.
            tries: How many there were.
            left_s: Until the deadline.
        """
        if tries > self.most or left_s <= 0 or not isinstance(error, (Unavailable, Overloaded)):
            return None
        if isinstance(error, NotSecure):
            return None  # It would end in the same way.
        wanted = error.retry_after_s
        if (wanted is None and isinstance(error, Overloaded)) or (wanted is not None and wanted < 0):
            return None
        if isinstance(error, NotSent) and tries <= _AT_ONCE:
            return 0.0
        pause = min(self.longest_pause_s, self.first_pause_s * 2 ** (tries - 1))
        pause *= random.uniform(0.5, 1.0)  # noqa: S311  # so that clients do not come back together
        pause = max(pause, wanted or 0.0)
        return pause if pause < left_s else None
