# SPDX-License-Identifier: Apache-2.0
"""A range of a region: where a client says that a tensor lies, or shall lie."""

from __future__ import annotations

from typing import NamedTuple


class SharedRange(NamedTuple):
    """Where a tensor is, in a client's words.

    Attributes:
        region: The name that the region was registered by.
        offset: Bytes from the region's begin.
        nbytes: Of an input, its size; of an output, the room for it and, in an answer, its size.
    """

    region: str
    offset: int
    nbytes: int
