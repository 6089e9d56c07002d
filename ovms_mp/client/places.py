# SPDX-License-Identifier: Apache-2.0
"""Where tensors lie in memory that client and server share."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ovms_mp.client.datatypes import AnyArray

REGION, NBYTES, OFFSET = "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"


class Place(NamedTuple):
    """A range of a registered region.

    Attributes:
        array: The same memory, as the client sees it.
    """

    region: str
    offset: int
    nbytes: int
    array: AnyArray

    @property
    def parameters(self) -> dict[str, int | str]:
        """As a request of KServe names it."""
        return {REGION: self.region, NBYTES: self.nbytes, OFFSET: self.offset}
