# SPDX-License-Identifier: Apache-2.0
"""Floor of REST tensors: how often one core turns a JSON body into a float32 array with orjson and numpy."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import orjson


def main() -> None:
    """Parse for the given time and print the rate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--body", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()
    body = arguments.body.read_bytes()
    times_ms: list[float] = []
    started_s = time.perf_counter()
    while time.perf_counter() - started_s < arguments.seconds:
        before_s = time.perf_counter()
        np.array(orjson.loads(body)["instances"], dtype=np.float32)
        times_ms.append((time.perf_counter() - before_s) * 1000)
    elapsed_s = time.perf_counter() - started_s
    times_ms.sort()
    figures = {
        "requests": float(len(times_ms)),
        "seconds": elapsed_s,
        "p50_ms": times_ms[len(times_ms) // 2],
        "p99_ms": times_ms[int(len(times_ms) * 0.99)],
    }
    sys.stdout.write(orjson.dumps(figures).decode() + "\n")


if __name__ == "__main__":
    main()
