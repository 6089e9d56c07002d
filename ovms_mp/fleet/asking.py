# SPDX-License-Identifier: Apache-2.0
"""A server of the fleet is asked over its REST port, without any proxy."""

from __future__ import annotations

import http.client
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_SAMPLE = re.compile(r'^(\w+)(?:\{(?:.*?\bname="((?:[^"\\]|\\.)*)")?.*\})? (\S+)$', re.MULTILINE)
_MOST_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back; status 0 where nothing did."""

    status: int
    body: bytes
    headers: Mapping[str, str]


def ask(
    host: str,
    port: int,
    path: str,
    within_s: float,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """Send a request without a body."""
    connection = http.client.HTTPConnection(host, port, timeout=within_s)
    try:
        connection.request(method, path, headers=dict(headers or {}))
        response = connection.getresponse()
        return Reply(response.status, response.read(_MOST_BYTES), dict(response.getheaders()))
    except (OSError, http.client.HTTPException) as error:
        return Reply(0, str(error).encode(), {})
    finally:
        connection.close()


def summed(page: bytes, family: str) -> dict[str, float]:
    """A family's samples of a page of metrics, added up by model; without one, under the empty name."""
    sums: dict[str, float] = {}
    for name, model, value in _SAMPLE.findall(page.decode(errors="replace")):
        if name == family:
            sums[model] = sums.get(model, 0.0) + float(value)
    return sums
