# SPDX-License-Identifier: Apache-2.0
"""Follows a ball in the frames of a camera, which travel in one call and are answered in their order.

Usage: ``python follow.py grpc://127.0.0.1:9000``

A frame is sent when the camera has it, while those before it may still be without an answer, `AHEAD` at most. One
that is broken gets an error as its answer, and the stream goes on.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing
from typing import TYPE_CHECKING

import numpy as np

from ovms_mp.client import AsyncClient, ClientError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from numpy.typing import NDArray

MODEL = "ball"
HEIGHT, WIDTH = 48, 64
FRAMES = 10
FRAMES_PER_S = 50
BROKEN = 6
"""A frame of which the camera has sent only half."""
AHEAD = 4
RADIUS = 2


async def camera() -> AsyncIterator[NDArray[np.uint8]]:
    """A ball that is thrown from the left; yours would read a device or a video here."""
    for number in range(FRAMES):
        row, column = _place(number)
        frame = np.zeros((HEIGHT, WIDTH), np.uint8)
        frame[row - RADIUS : row + RADIUS + 1, column - RADIUS : column + RADIUS + 1] = 255
        yield frame[: HEIGHT // 2] if number == BROKEN else frame
        await asyncio.sleep(1 / FRAMES_PER_S)


def _place(number: int) -> tuple[int, int]:
    """Row and column of the ball in a frame."""
    return 5 + (number - 5) ** 2, 4 + 6 * number


async def follow(url: str) -> None:
    """Print where the ball is, frame by frame."""
    async with AsyncClient(url, timeout=10) as client:
        # aclosing() gives up the rest of the stream at once if this loop is left early.
        answers = client.stream(MODEL, camera(), ahead=AHEAD, return_errors=True)
        async with aclosing(answers):
            number = 0
            async for answer in answers:
                if isinstance(answer, ClientError):
                    print(f"frame {number}: {answer.code.name}")
                else:
                    row, column = answer["place"]
                    print(f"frame {number}: row {row:2.0f}, column {column:2.0f}")
                number += 1


def main() -> None:
    """Follow the ball of one throw."""
    if len(sys.argv) != 2:
        sys.exit("usage: python follow.py URL")
    try:
        asyncio.run(follow(sys.argv[1]))
    except ClientError as error:
        sys.exit(f"{sys.argv[1]}: {error}")


if __name__ == "__main__":
    main()
