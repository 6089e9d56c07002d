# SPDX-License-Identifier: Apache-2.0
"""Estimates rents of flats that a JSON file lists, over REST and with nothing but Python's own library.

Usage: ``python estimate.py http://127.0.0.1:8000 flats.json``
"""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

MODEL = "rent"
FEATURES = ("area", "rooms", "garden")
DEADLINE_S = 10


def predict(url: str, instances: list[dict[str, Any]]) -> list[float]:
    """One request in row form: an object for each flat, and as many predictions."""
    request = urllib.request.Request(  # noqa: S310  # whoever calls this gives the URL
        f"{url}/v1/models/{MODEL}:predict",
        json.dumps({"instances": instances}).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:  # noqa: S310  # as above
            predictions: list[float] = json.load(answer)["predictions"]
    except urllib.error.HTTPError as error:
        # Whatever is wrong with a request, the answer is JSON and says what would be right.
        sys.exit(f"{error.code}: {json.load(error)['error']}")
    except urllib.error.URLError as error:
        sys.exit(f"no server answers at {url}: {error.reason}")
    return predictions


def main() -> None:
    """Print each flat's rent."""
    if len(sys.argv) != 3:
        sys.exit("usage: python estimate.py URL FLATS.json")
    url, file = sys.argv[1:]
    flats = json.loads(Path(file).read_text())
    rents = predict(url, [{name: flat[name] for name in FEATURES if name in flat} for flat in flats])
    for flat, rent in zip(flats, rents, strict=True):
        print(f"{flat['name']:20} {rent:7.2f}")


if __name__ == "__main__":
    main()
