# SPDX-License-Identifier: Apache-2.0
"""What tests of the live page give it: an image, its events, those of a much larger server; and what they look at."""

from __future__ import annotations

import contextlib
import difflib
import itertools
import json
import re
import socket
import struct
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest
    from playwright.sync_api import Page

    from tests.support.server import Server

PREFIX = "/a"
_REFERENCES = Path(__file__).parents[1] / "data" / "page"
_WITHIN_S = 20.0


def png(width: int, height: int) -> bytes:
    """A white image."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = (b"\0" + b"\xff" * 3 * width) * height
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def reader(server: Server, prefix: str = PREFIX, key: str = "") -> socket.socket:
    """A connection that has asked for events."""
    return _reader(("127.0.0.1", server.rest_port), prefix, key)


def _reader(address: tuple[str, int], prefix: str, key: str = "") -> socket.socket:
    connection = socket.create_connection(address, _WITHIN_S)
    shown = f"Authorization: Bearer {key}\r\n" if key else ""
    connection.sendall(f"GET {prefix}/ui/events HTTP/1.1\r\nHost: x\r\n{shown}\r\n".encode())
    return connection


def many(state: dict[str, Any], sample: dict[str, Any]) -> bytes:
    """The same server with 20 versions of a model and 50 processes."""
    (model,) = (each for each in state["models"] if each["name"] == "digits")
    versions = [{**model["versions"][0], "version": str(number)} for number in range(20, 0, -1)]
    workers = [{"name": f"worker-{n}", "device": "CPU", "pid": 1000 + n, "cores": [n]} for n in range(32)]
    state |= {
        "models": [{**model, "default": "20", "versions": versions}],
        "workers": workers,
        "server": {**state["server"], "cores": list(range(64))},
    }
    one = {"cores": 0.5, "own_bytes": 1 << 26, "shared_bytes": 0, "age_s": 90_000}
    kinds = ["manager", "arbiter", *["worker"] * 32, *["grpc"] * 8, *["rest"] * 8]
    sample["processes"] = [
        {**one, "kind": kind, "pid": 998 + number, "name": f"{kind}-{number}"}
        for number, kind in enumerate(kinds)
    ]
    sample["versions"] = [
        {
            **{
                "model": "digits",
                "version": str(number),
                "requests": 10**6,
                "answers_per_s": 1234.5,
                "batch": 4.0,
            },
            **{"p50_ms": 1.5, "p99_ms": 25.0, "queue_ms": 0.25, "under_way": 16, "failures_per_s": 0.0},
        }
        for number in range(1, 21)
    ]
    samples = "".join(
        f"event: sample\ndata: {json.dumps({**sample, 'elapsed_s': 1})}\n\n" for _ in range(120)
    )
    return f"event: state\ndata: {json.dumps(state)}\n\n{samples}".encode()


def first_events(server: Server) -> tuple[dict[str, Any], dict[str, Any]]:
    """The data of the first state and sample."""
    return _first_events(("127.0.0.1", server.rest_port), PREFIX)


def first_sample(host: str, port: int) -> dict[str, Any]:
    """What the page of whoever has this REST port is told of a second."""
    return _first_events((host, port), "")[1]


def _first_events(address: tuple[str, int], prefix: str) -> tuple[dict[str, Any], dict[str, Any]]:
    with _reader(address, prefix) as connection:
        text, ends_at = b"", time.monotonic() + _WITHIN_S
        while text.count(b"event: sample") < 2 and time.monotonic() < ends_at:
            text += connection.recv(1 << 16)
    state, sample = (
        re.search(rf"event: {kind}\ndata: (.*)\n".encode(), text) for kind in ("state", "sample")
    )
    assert state is not None
    assert sample is not None
    return json.loads(state[1]), json.loads(sample[1])


def compare(name: str, outline: Callable[[], str], request: pytest.FixtureRequest) -> None:
    """Hold what a screen reader is told against the reference; a page that is still changing may become it."""
    path = _REFERENCES / f"{name}.txt"
    if request.config.getoption("--update-page"):
        path.write_text(outline())
    expected, told = path.read_text(), ""

    def is_as_expected() -> bool:
        nonlocal told
        told = outline()
        return told == expected

    with contextlib.suppress(AssertionError):
        eventually(is_as_expected, _WITHIN_S, path.name)
    differing = "\n".join(difflib.unified_diff(expected.splitlines(), told.splitlines(), lineterm=""))
    assert not differing, f"look at the page, then run with --update-page ({path.name}):\n{differing}"


def readable(page: Page, selector: str) -> int:
    """How many rows there are, which must not lie on one another nor be cut off."""
    boxes = [box for each in page.locator(selector).all() if (box := each.bounding_box())]
    width = page.viewport_size["width"] if page.viewport_size else 0
    for above, below in itertools.pairwise(boxes):
        assert above["y"] + above["height"] <= below["y"] + 1 or above["y"] > below["y"], (above, below)
    assert all(box["height"] >= 18 and box["x"] >= 0 and box["x"] + box["width"] <= width for box in boxes)
    return len(boxes)
