# SPDX-License-Identifier: Apache-2.0
"""Bodies that are nearly right."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random


def mutated(body: bytes, dice: random.Random) -> bytes:
    """A body with a few bytes changed, cut out, doubled or appended, or altogether random."""
    if dice.random() < 0.1:
        return dice.randbytes(dice.randrange(200))
    data = bytearray(body)
    for _ in range(dice.randrange(1, 6)):
        at = dice.randrange(len(data) + 1)
        match dice.randrange(4):
            case 0 if at < len(data):
                data[at] = dice.randrange(256)
            case 1:
                del data[at : at + dice.randrange(8)]
            case 2:
                data[at:at] = data[at : at + dice.randrange(16)]
            case _:
                data[at:at] = dice.randbytes(dice.randrange(4))
    return bytes(data)
