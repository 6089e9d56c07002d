# SPDX-License-Identifier: Apache-2.0
"""Where tensors lie in memory that client and server share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from ovms_mp.client.datatypes import row_of
from ovms_mp.client.errors import InvalidRequest, unreadable
from ovms_mp.codes import Code

if TYPE_CHECKING:
    from collections.abc import Sequence

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

    def filled(self, name: str, datatype: str, shape: Sequence[int]) -> AnyArray:
        """The array that an output was written to; as much of it as the output has, in the output's shape.

        Raises:
            InvalidRequest: It has elements of another type.
        """
        array = self.array
        kind = row_of(array.dtype)[0]
        if kind != datatype:
            raise InvalidRequest(
                Code.INVALID_ARGUMENT, f"output {name!r} has elements {datatype}, and its array is of {kind}"
            )
        if array.shape == tuple(shape):
            return array
        count = math.prod(shape)
        if not 0 <= count <= array.size:
            raise unreadable(f"output {name!r} of the shape {list(shape)} in an array {list(array.shape)}")
        return array.reshape(-1)[:count].reshape(shape)
