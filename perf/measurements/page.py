# SPDX-License-Identifier: Apache-2.0
"""Measure what open live pages cost the rate of small requests.

One server with ``tiny``: loads beside no page, one page and fifty take turns, over gRPC and over REST, whose front is
the one that tells the pages. Pages are connections that read all events and do nothing with them: a browser takes its
own processor time, which on a machine of two cores is the server's.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from perf.load.bodies import write_bodies
from perf.load.h2load import LoadPlan, Protocol, run_load
from perf.measurements.rounds import Rounds, rounds_of, usual_models
from perf.models.declared import ModelFiles
from perf.report.console import say, say_table, spread
from perf.subjects.server import RunningServer, config_entry, running_config

_PAGES = (0, 1, 50)
_PROTOCOLS: tuple[Protocol, ...] = ("kserve_grpc", "kserve_rest")
_CONCURRENCY = 16
_TIMEOUT_S = 10.0
_PACE_S = 0.1
_WANTED = 0.99
"""Of the rate without a page, beside one."""


@contextlib.contextmanager
def open_pages(port: int, count: int) -> Iterator[None]:
    """So many connections that are told events, for the length of a block."""
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        for _ in range(count):
            selector.register(stack.enter_context(_open_page(port)), selectors.EVENT_READ)
        is_over = threading.Event()
        thread = threading.Thread(target=_read_all, args=(selector, is_over))
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()


def _open_page(port: int) -> socket.socket:
    """One connection; pages that were closed just now take room until the server tells them something."""
    ends_at_s = time.monotonic() + _TIMEOUT_S
    while True:
        connection = socket.create_connection(("127.0.0.1", port), _TIMEOUT_S)
        connection.sendall(b"GET /ui/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = connection.recv(1 << 16)
        if answer.startswith(b"HTTP/1.1 200"):
            return connection
        connection.close()
        if time.monotonic() > ends_at_s:
            raise ConnectionError(f"the server tells this page nothing: {answer[:200]!r}")
        time.sleep(_PACE_S)


def _read_all(selector: selectors.BaseSelector, is_over: threading.Event) -> None:
    while not is_over.is_set():
        for key, _ in selector.select(0.5):
            if isinstance(key.fileobj, socket.socket) and not key.fileobj.recv(1 << 16):
                selector.unregister(key.fileobj)


def measure(
    server: RunningServer, plans: dict[Protocol, LoadPlan], scratch: Path, given: Rounds
) -> dict[tuple[Protocol, int], list[float]]:
    """Rates a second by protocol and open pages, one for each round, whose order is turned round each time."""
    rates: dict[tuple[Protocol, int], list[float]] = {
        (protocol, pages): [] for protocol in plans for pages in _PAGES
    }
    for turn in range(given.rounds):
        for protocol, pages in list(rates)[:: -1 if turn % 2 else 1]:
            with open_pages(server.rest_port, pages):
                rate = run_load(plans[protocol], given.seconds, scratch / "h2load.log").rate_per_s
            rates[protocol, pages].append(rate)
    return rates


def plan_of(protocol: Protocol, server: RunningServer, files: ModelFiles) -> LoadPlan:
    """The load."""
    bodies = write_bodies(files)
    return LoadPlan(
        protocol=protocol,
        port=server.port(protocol),
        model=files.name,
        body_path=bodies.of(protocol),
        headers=bodies.headers.get(protocol, {}),
        concurrency=_CONCURRENCY,
    )


def main(arguments: list[str]) -> int:
    """Run; exit code 1 if one page costs too much."""
    given = rounds_of("page", __doc__, arguments)
    is_well = True
    with usual_models() as root:
        files = ModelFiles(root, "tiny")
        with running_config([config_entry(files, {})], root / "server", "--metrics_enable") as server:
            plans = {protocol: plan_of(protocol, server, files) for protocol in _PROTOCOLS}
            rates = measure(server, plans, root, given)
    table = [("API", "pages", "req/s", "ratio to none, of each round")]
    for (protocol, pages), found in rates.items():
        ratios = [one / other for one, other in zip(found, rates[protocol, 0], strict=True)]
        table.append((protocol, str(pages), spread(found, ".0f"), spread(ratios, ".3f")))
        is_well &= pages != 1 or sorted(ratios)[len(ratios) // 2] >= _WANTED
    say_table(table)
    say(f"wanted with one page: {_WANTED} at least; {'kept' if is_well else 'MISSED'}")
    return 0 if is_well else 1
