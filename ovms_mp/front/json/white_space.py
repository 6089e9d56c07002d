# SPDX-License-Identifier: Apache-2.0
"""White space that makes a JSON text long, taken out before it is read: a parser would look at all of it at one go."""

from __future__ import annotations

import asyncio
import re

import numpy as np

LONGEST_LEFT_BYTES = 256
"""Of white space that stays."""
_LONGER = re.compile(rb"[ \t\r\n]{%d,}" % (LONGEST_LEFT_BYTES + 1))
_PIECE_BYTES = 1 << 20
"""PERF: 0.1 ms to look at, a few to take white space out of."""
_LARGEST_CODE = ord(" ")
"""Of white space; characters with lower codes are nothing that JSON may have."""


async def squeezed(text: bytes | bytearray) -> bytes | bytearray:
    """The text with a space in place of each long run of white space, where that is most of the text.

    Args:
        text: Without strings that are longer than :data:`LONGEST_LEFT_BYTES`, which may consist of spaces.
    """
    codes = np.frombuffer(text, np.uint8)
    parts: list[bytes | bytearray] = []
    start = 0
    for at in range(0, len(text), _PIECE_BYTES):
        end = min(at + _PIECE_BYTES, len(text))
        if 2 * int(np.count_nonzero(codes[at:end] <= _LARGEST_CODE)) > end - at:
            parts += [text[start:at], _LONGER.sub(b" ", text[at:end])]
            start = end
            await asyncio.sleep(0)
    return b"".join([*parts, text[start:]]) if parts else text
