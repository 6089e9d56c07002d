# SPDX-License-Identifier: Apache-2.0
"""Which page of the counters each version has.

A version keeps its page while it is known and has not ended, so reloads, failed loads and deaths of workers leave what
was counted. One that was unloaded and is loaded again begins at zero. A page goes to another version only when every
front has applied a snapshot without the old one, whose workers have unloaded it by then.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

from ovms_mp.defects import contain
from ovms_mp.wire.counters import PAGES, PROCESS_PAGE

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger(__name__)


class CounterPages:
    """Owned by the catalogue."""

    def __init__(self, clear: Callable[[int], None], *, has_metrics: bool = False) -> None:
        """Begin with all pages free.

        Args:
            clear: Has a page begin at zero.
            has_metrics: Whether calls are counted that are about a model and no version of it.
        """
        self._clear = clear
        self._has_metrics = has_metrics
        self._free = deque(page for page in range(PAGES) if page != PROCESS_PAGE)
        """The next one is that which has been free for longest."""
        self._given_back: deque[tuple[int, int]] = deque()
        """(epoch, page): free when every front has applied that snapshot."""
        self._is_short = False

    def take(self) -> int:
        """A page that nobody writes; 0 where there is none: then the version is served and not counted."""
        if self._free:
            return self._free.popleft()
        if not self._is_short:
            self._is_short = True
            _log.warning("event=not_counted counters are kept for %d versions at once", PAGES - 1)
        return PROCESS_PAGE

    def take_for_model(self) -> int:
        """The same for a model, until it is forgotten; 0 where nothing is counted there."""
        return self.take() if self._has_metrics else PROCESS_PAGE

    def give_back(self, page: int, epoch: int) -> None:
        """A version has ended; the snapshot of this number is the first one without it."""
        if page != PROCESS_PAGE:
            self._given_back.append((epoch, page))

    def fronts_applied(self, epoch: int) -> None:
        """Every front routes by a snapshot of at least this epoch."""
        while self._given_back and self._given_back[0][0] <= epoch:
            _, page = self._given_back.popleft()
            if contain("manager.counters", f"page {page}", self._clear, page):
                self._free.append(page)
                self._is_short = False
