# SPDX-License-Identifier: Apache-2.0
"""Says what photos show. They are sent as they are, as JPEG, PNG or WebP, and the server decodes them.

Usage: ``python classify.py grpc://127.0.0.1:9000 meadow.jpg sunset.jpg``
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ovms_mp.client import Client, ClientError, Unavailable

if TYPE_CHECKING:
    from numpy.typing import NDArray

MODEL = "colours"
SHOWN = 3
LEAST_SHARE = 0.02


def description(share: NDArray[np.float32], labels: list[str]) -> str:
    """The classes of one photo with the highest values."""
    best = np.argsort(share)[::-1][:SHOWN]
    return ", ".join(f"{labels[index]} {share[index]:.0%}" for index in best if share[index] >= LEAST_SHARE)


def main() -> int:
    """Ask about each photo; 1 if one of them could not be looked at."""
    if len(sys.argv) < 3:
        sys.exit("usage: python classify.py URL PHOTO...")
    url, *photos = sys.argv[1:]
    labels = Path("labels.txt").read_text().split()
    failed = False
    with Client(url, timeout=10) as client:
        for photo in photos:
            try:
                # One string: the encoded image. The first dimension of the answer is the batch, of one.
                share = client.predict_one(MODEL, Path(photo).read_bytes())[0]
            except Unavailable as error:
                sys.exit(f"no server answers at {url}: {error.message}")
            except (ClientError, OSError) as error:
                print(f"{photo}: {error}")
                failed = True
            else:
                print(f"{photo}: {description(share, labels)}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
