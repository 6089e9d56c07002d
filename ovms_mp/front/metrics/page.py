# SPDX-License-Identifier: Apache-2.0
"""The page at ``/metrics``: what is collected, of which families, written in turns with other requests."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ovms_mp.front.metrics.families import text_of
from ovms_mp.front.protobuf.turns import in_turns

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterator, Sequence

    from ovms_mp.front.metrics.families import Collector, Family


class MetricsPage:
    """What one front tells of the whole server. Belongs to the event loop."""

    def __init__(self, collectors: Sequence[Collector], enabled: Collection[str]) -> None:
        """Collect nothing yet.

        Args:
            collectors: Asked for each page, in this order.
            enabled: Names of the families that are shown; without any there is no page.
        """
        self._collectors = collectors
        self._enabled = frozenset(enabled)
        self._lock = asyncio.Lock()
        self._next: asyncio.Task[bytes] | None = None

    @property
    def is_enabled(self) -> bool:
        """Whether there is a page."""
        return bool(self._enabled)

    def families(self) -> Iterator[Family]:
        """Those that are shown."""
        for collect in self._collectors:
            for family in collect():
                if family.name in self._enabled:
                    yield family

    async def written(self) -> bytes:
        """The page of now, or of the moments that it takes to write it: each line is of one moment.

        It is written once at a time, and once for all who have asked before it was begun.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._write())
        return await asyncio.shield(self._next)

    async def _write(self) -> bytes:
        async with self._lock:
            self._next = None  # Who comes from now on may know of what this one does not have.
            return await in_turns(self._steps())

    def _steps(self) -> Generator[None, None, bytes]:
        pieces = []
        for piece in text_of(self.families()):
            pieces.append(piece)
            yield
        return "".join(pieces).encode()
