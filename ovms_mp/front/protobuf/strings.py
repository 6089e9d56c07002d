# SPDX-License-Identifier: Apache-2.0
"""Many strings as a repeated field of bytes, and no object for any of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ovms_mp.front.protobuf.plain import varint
from ovms_mp.front.protobuf.records import LONGEST_SIZE_BYTES

if TYPE_CHECKING:
    from ovms_mp.front.strings import Strings

_FEW = 64
"""PERF: below that, writing strings one by one takes less time than making NumPy do it."""


def delimited(strings: Strings, tag: int) -> bytes | bytearray:
    """Write each string behind a field's tag, which has one byte, and its own length."""
    if len(strings) < _FEW:
        head = bytes([tag])
        return b"".join([piece for string in strings for piece in (head, varint(len(string)), string)])
    sizes = strings.sizes.astype(np.int64)
    prefixes = np.full(len(sizes), 2, np.int64)
    for index in range(1, LONGEST_SIZE_BYTES):
        prefixes += sizes >= 1 << 7 * index
    ends = np.cumsum(sizes + prefixes)
    whole = bytearray(int(ends[-1]))
    place = np.frombuffer(whole, np.uint8)
    starts = ends - sizes - prefixes
    place[starts] = tag
    for index in range(int(prefixes.max()) - 1):
        has_one = prefixes > index + 1
        has_more = prefixes > index + 2
        octets = (sizes >> 7 * index & 0x7F) | np.where(has_more, 0x80, 0)
        place[(starts + index + 1)[has_one]] = octets[has_one]
    strings.scatter(place, ends - sizes)
    return whole
