# SPDX-License-Identifier: Apache-2.0
"""What a hostile or careless REST client sends, and the client beside it that wants nothing but answers."""

from __future__ import annotations

import contextlib
import functools
import gzip
import http.client
import json
import math
import os
import re
import socket
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Self

MIB = 1 << 20
TIMEOUT_S = 30.0
_PACE_S = 0.002


_PACKED_BYTES, _PLAIN_BYTES = 48 * MIB, 3 * MIB


def _of(element: bytes, last: bytes, nbytes: int = _PLAIN_BYTES) -> bytes:
    return b'{"instances": [' + element * (nbytes // len(element)) + last + b"]}"


def _packed(element: bytes, last: bytes) -> bytes:
    return gzip.compress(_of(element, last, _PACKED_BYTES), 6)


def _empty_members() -> bytes:
    member = gzip.compress(b"")
    return member * (4 * MIB // len(member))


PACKED: Mapping[str, Callable[[], bytes]] = {
    "packed empty objects": partial(_packed, b"{},", b"NaN"),
    "packed empty lists": partial(_packed, b"[],", b"NaN"),
    "packed integers": partial(_packed, b"1,", b"NaN"),
    "packed nested empties": partial(_packed, b"[[[[]]]],", b"NaN"),
    "packed white space": partial(_packed, b"    ", b"1"),
    "packed strings": partial(_packed, b'"",', b"1"),
    "empty members": _empty_members,
    "members of one octet": lambda: gzip.compress(b" ") * 50_000,
}
PLAIN: Mapping[str, Callable[[], bytes]] = {
    "empty objects": partial(_of, b"{},", b"NaN"),
    "empty lists": partial(_of, b"[],", b"NaN"),
    "nulls": partial(_of, b"null,", b"1"),
    "brackets": lambda: b'{"instances": ' + b"[" * _PLAIN_BYTES,
    "a long key": lambda: b'{"inputs": {"' + b"k" * _PLAIN_BYTES + b'": [1]}}',
    "many keys": lambda: b'{"inputs": {' + b",".join(b'"k%d": [1]' % n for n in range(200_000)) + b"}}",
}
BODIES = {**PACKED, **PLAIN}
"""What makes bodies that take much more than they look, by name: seconds of work, for who sends them."""


@functools.cache
def body_of(name: str) -> bytes:
    """One of :data:`BODIES`."""
    return BODIES[name]()


def exchange(port: int, octets: bytes, timeout_s: float = TIMEOUT_S) -> bytes:
    """Send octets as far as the server takes them; all that it answers until it closes the connection."""
    heard = b""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(octets)
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(MIB):
                heard += part
    return heard


def status_of(answer: bytes) -> int:
    """The status of the first answer; 0 if there is none."""
    found = re.match(rb"HTTP/1\.1 (\d+)", answer)
    return int(found[1]) if found else 0


class Client:
    """Asks ``tiny`` all the time on one connection, and notes how long each request took."""

    def __init__(self, port: int, *, may_be_evicted: bool = False) -> None:
        """Begin.

        Args:
            port: Of the server.
            may_be_evicted: Where connections make room for each other, this one may be idle for longest when the test
                gets little of the machine; then it connects again, as HTTP clients do.
        """
        self.failures: list[str] = []
        self._may_be_evicted = may_be_evicted
        self._port = port
        self._took_ms: list[float] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(2 * TIMEOUT_S)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        body = json.dumps({"instances": [list(range(10))]})
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)
        while not self._stopping.wait(_PACE_S):
            started = time.perf_counter()
            try:
                connection.request("POST", "/v1/models/tiny:predict", body)
                response = connection.getresponse()
                answer = response.read()
                if response.status != 200:
                    self.failures.append(f"{response.status}: {answer[:200]!r}")
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if not self._may_be_evicted or not isinstance(error, ConnectionError):
                    self.failures.append(repr(error))
            self._took_ms.append((time.perf_counter() - started) * 1e3)
        connection.close()

    def wait_for_answers(self, count: int = 100) -> None:
        """Wait until it has had so many in all."""
        eventually(lambda: len(self._took_ms) >= count, TIMEOUT_S, f"{count} answers")

    def p99_ms(self) -> float:
        """Of all requests, also failed ones."""
        return float(np.percentile(self._took_ms, 99)) if self._took_ms else math.inf


class Watch:
    """The most private memory that a process has while this is open, in MiB, and its processor time then in seconds."""

    def __init__(self, pid: int) -> None:
        self.before_mib = self.peak_mib = 0
        self.processor_s = 0.0
        self._pid = pid
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self.before_mib = self.peak_mib = self.now_mib()
        self.processor_s = -self._processor_s()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self.processor_s += self._processor_s()

    @property
    def growth_mib(self) -> int:
        """How much more it has had than at the beginning."""
        return self.peak_mib - self.before_mib

    def now_mib(self) -> int:
        """Its private memory at this moment."""
        found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{self._pid}/status").read_text())
        assert found is not None
        return int(found[1]) >> 10

    def _run(self) -> None:
        while not self._stopping.wait(0.01):
            self.peak_mib = max(self.peak_mib, self.now_mib())

    def _processor_s(self) -> float:
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
