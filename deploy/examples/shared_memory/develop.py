# SPDX-License-Identifier: Apache-2.0
"""Sends 6 MB and gets 6 MB, once through the connection and once in memory that client and server share.

Usage: ``python develop.py grpc://127.0.0.1:9000 shm.sock``
"""

from __future__ import annotations

import os
import sys
import time
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from ovms_mp.client import Client, ClientError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Photo = NDArray[np.uint8]

MODEL = "negative"
SHAPE = (1080, 1920, 3)
TIMES = 10


def fill(photo: Photo, number: int) -> None:
    """Take a photo, into memory that is there already."""
    photo[:] = number
    photo[number : number + 100, :, 0] = 200


def check(photo: Photo, negative: Photo) -> None:
    """Whether it is the negative of this photo and not of another one."""
    if not np.array_equal(negative, 255 - photo):
        sys.exit("this is another photo's negative")


def timed(title: str, photo: Photo, develop: Callable[[], Photo]) -> float:
    """Develop some photos; milliseconds of one, without taking it and looking at it."""
    took_ms = []
    for number in range(TIMES):
        fill(photo, number)
        start = time.perf_counter()
        negative = develop()
        took_ms.append(1000 * (time.perf_counter() - start))
        check(photo, negative)
    print(f"{title:24} {median(took_ms):6.2f} ms")
    return median(took_ms)


def main() -> None:
    """Compare both ways."""
    if len(sys.argv) != 3:
        sys.exit("usage: python develop.py URL SOCKET")
    url, socket = sys.argv[1:]
    try:
        with Client(url, shared_memory=os.path.abspath(socket)) as client:
            photo = np.empty(SHAPE, np.uint8)
            sent_ms = timed(
                "through the connection", photo, lambda: client.predict_one(MODEL, {"photo": photo})
            )
            # Registered once, used as often as one likes. An array that lies in shared memory does not travel:
            # the request says where it is, and the server writes the answer where `into` says.
            shared, result = client.shared_array(SHAPE, np.uint8), client.shared_array(SHAPE, np.uint8)
            shared_ms = timed(
                "in shared memory",
                shared,
                lambda: client.predict_one(MODEL, {"photo": shared}, into={"negative": result}),
            )
    except ClientError as error:
        sys.exit(f"{url}: {error}")
    print(
        f"{2 * TIMES} photos, all as they should be; shared memory takes {shared_ms / sent_ms:.0%} of the time"
    )


if __name__ == "__main__":
    main()
