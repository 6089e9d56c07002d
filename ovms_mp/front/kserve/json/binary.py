# SPDX-License-Identifier: Apache-2.0
"""The octets behind the JSON of a request, from which its inputs are cut in their order."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ovms_mp.front.infer.leases import Lease


class Part(NamedTuple):
    """A piece of them.

    Attributes:
        octets: Format ``B``.
        lease: Of exactly these octets, if they are in the arena.
    """

    octets: memoryview
    lease: Lease | None = None


class Binary:
    """Octets in the order in which they were sent.

    Attributes:
        left_bytes: So many have not been cut off yet.
    """

    def __init__(self, parts: Iterable[Part]) -> None:
        """Begin with all of them. Where they are in several parts, each is one input's."""
        self._parts = deque(parts)
        self.left_bytes = sum(len(part.octets) for part in self._parts)

    def cut(self, nbytes: int) -> Part:
        """The next so many octets, of which there are as many, at least one."""
        part = self._parts.popleft()
        self.left_bytes -= nbytes
        if len(part.octets) == nbytes:
            return part
        self._parts.appendleft(Part(part.octets[nbytes:]))
        return Part(part.octets[:nbytes])
