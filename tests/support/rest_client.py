# SPDX-License-Identifier: Apache-2.0
"""One HTTP request on a connection of its own, with no header that the test does not name."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

TIMEOUT_S = 60.0


@dataclass(frozen=True)
class HttpReply:
    """Status, headers by lower-case name, and body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body's document, which has any JSON type."""
        return json.loads(self.body)

    def text(self) -> str:
        """The body, for messages and substrings; an error document's words as they were before JSON quoted them."""
        if self.status >= 400 and self.body.startswith(b"{"):
            return str(self.json().get("error", self.body))
        return self.body.decode(errors="replace")


def request(
    port: int,
    method: str,
    path: str,
    body: bytes | str | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = TIMEOUT_S,
) -> HttpReply:
    """Send one request to 127.0.0.1 and read its answer."""
    payload = body.encode() if isinstance(body, str) else body
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)) as connection:
        connection.request(method, path, payload, dict(headers or {}))
        return _read(connection)


def https_status(port: int, ca: Path, path: str, key: str = "", method: str = "GET") -> int:
    """The status of a request to ``localhost`` over TLS, with an API key if there is one."""
    context = ssl.create_default_context(cafile=str(ca))
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with contextlib.closing(
        http.client.HTTPSConnection("localhost", port, timeout=TIMEOUT_S, context=context)
    ) as connection:
        connection.request(method, path, headers=headers)
        return connection.getresponse().status


def request_chunked(
    port: int,
    path: str,
    chunks: Iterable[bytes],
    headers: Mapping[str, str] | None = None,
    timeout_s: float = TIMEOUT_S,
) -> HttpReply:
    """POST a body in HTTP/1.1 chunks, without a Content-Length."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)) as connection:
        all_headers = {"Transfer-Encoding": "chunked", **(headers or {})}
        connection.request("POST", path, chunks, all_headers, encode_chunked=True)
        return _read(connection)


def predict(port: int, model: str, body: Any, version: int = 0, timeout_s: float = TIMEOUT_S) -> HttpReply:
    """POST a predict request; ``body`` is any JSON value."""
    place = f"/v1/models/{model}" + (f"/versions/{version}" if version else "")
    return request(port, "POST", f"{place}:predict", json.dumps(body), timeout_s=timeout_s)


def _read(connection: http.client.HTTPConnection) -> HttpReply:
    response = connection.getresponse()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return HttpReply(response.status, headers, response.read())
