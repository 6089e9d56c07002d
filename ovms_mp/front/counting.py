# SPDX-License-Identifier: Apache-2.0
"""This front's counters of the versions that it routes to, and the sums of all processes' counters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.wire.counters import PROCESS_PAGE
from ovms_mp.wire.version_counters import UNCOUNTED, VersionCounters, VersionTotals

if TYPE_CHECKING:
    from collections.abc import Collection

    from ovms_mp.wire.counters import CounterReader, CounterRow


class Counting:
    """Belongs to the event loop."""

    def __init__(self, row: CounterRow, reader: CounterReader, *, has_metrics: bool = False) -> None:
        """Begin with no version.

        Args:
            row: Written by this process.
            reader: Reads all processes' rows.
            has_metrics: Whether to count what only metrics show.
        """
        self._row = row
        self.reader = reader
        self.has_metrics = has_metrics
        self._by_page: dict[int, VersionCounters] = {}

    def counters_of(self, page: int) -> VersionCounters:
        """Where to count a version's requests; the same as long as snapshots have the page."""
        if page == PROCESS_PAGE:
            return UNCOUNTED
        counters = self._by_page.get(page)
        if counters is None:
            counters = VersionCounters(self._row, page, has_metrics=self.has_metrics)
            self._by_page[page] = counters
        return counters

    def keep(self, pages: Collection[int]) -> None:
        """Touch no other pages any more: the manager gives them to other versions once this front has said so."""
        for page in self._by_page.keys() - set(pages):
            self._by_page.pop(page).retire()

    def totals(self, page: int) -> VersionTotals:
        """What all processes have counted of a version."""
        return VersionTotals.of(self.reader.pages(page))
