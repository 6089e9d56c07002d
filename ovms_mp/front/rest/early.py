# SPDX-License-Identifier: Apache-2.0
"""Lets the application answer before the first byte of a body has come, and end when its client has gone.

Falcon waits for a request's first event before it looks at the path, so a client that holds its body back until it
knows that it is wanted (``Expect: 100-continue``) or that is slow would wait for a 404 or 413 in vain. ASGI allows an
empty first event with more to come; with that in hand falcon goes ahead, and the server is asked for the body, and
sends its ``100 Continue``, only when the body is read.
https://asgi.readthedocs.io/en/latest/specs/www.html#request-receive-event
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any, TypeAlias

    Receive: TypeAlias = Callable[[], Awaitable[dict[str, Any]]]
    Send: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]
    AsgiApp: TypeAlias = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]


CERTIFICATE_NAME = "certificate_name"
"""In the state of a connection: the name in the client's certificate, if it has shown one."""
IS_GONE = "ovms_mp.is_gone"
"""In the scope of a request whose client has closed its connection; its task is cancelled then."""


def answering_early(app: AsgiApp) -> AsgiApp:
    """The same application, called with an empty first event where a body is to come."""

    async def call(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        # PERF: 0.6 us a request.
        if scope["type"] == "http" and scope["method"] in ("POST", "PUT", "PATCH", "DELETE"):
            receive = _after_an_empty_event(receive)
        try:
            await app(scope, receive, send)
        except asyncio.CancelledError:
            # Nobody is left who could be told; uvicorn would log a defect.
            if IS_GONE not in scope:
                raise

    return call


def _after_an_empty_event(receive: Receive) -> Receive:
    is_first = True

    async def next_event() -> dict[str, Any]:
        nonlocal is_first
        if is_first:
            is_first = False
            return {"type": "http.request", "body": b"", "more_body": True}
        return await receive()

    return next_event
