# SPDX-License-Identifier: Apache-2.0
"""The live page's paths: its files, its events, and inference that tells where its time went."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ovms_mp.front.browsers import to_page
from ovms_mp.front.endpoints import Answer, Endpoint, FixedRoute
from ovms_mp.front.kserve import calls
from ovms_mp.front.kserve.rest import KServeRestCalls
from ovms_mp.front.kserve.targets import target_of
from ovms_mp.front.page.static_files import BEGIN, file_routes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.endpoints import RestRequest, Route
    from ovms_mp.front.served_protocol import HasService
    from ovms_mp.front.sinks import MessageSink

_NAME = "page"
_TRY, _CALL = "/ui/try", "infer"
_EVENT_HEADERS = (("Cache-Control", "no-store"), ("X-Accel-Buffering", "no"))
"""No proxy keeps events, nor waits until there are many."""


def routes(front: HasService) -> Sequence[Route]:
    """The paths of this room."""
    page = PageCalls(front)
    return (
        FixedRoute(BEGIN.removesuffix("/"), {"GET": Endpoint(page.to_page, _NAME, "ToPage", is_open=True)}),
        *file_routes(_NAME),
        FixedRoute("/ui/events", {"GET": Endpoint(page.events, _NAME, "PageEvents")}),
        TryRoute(page),
    )


class TryRoute:
    """``/ui/try/v2/models/.../infer``: KServe's call, whose answer has the header ``Server-Timing``."""

    template = f"{_TRY}/{{path:path}}"

    def __init__(self, page: PageCalls) -> None:
        # By the way that clients' requests take, whose times it is to tell.
        self._infer = Endpoint(
            page.infer, calls.PROTOCOL, calls.INFER, takes_body=True, compresses=True, carries_tensors=True
        )
        self._unknown = Endpoint(page.unknown, calls.PROTOCOL, "Unknown")

    def find(self, verb: str, raw_path: bytes) -> Endpoint | None:
        """See :class:`~ovms_mp.front.endpoints.Route`."""
        if verb != "POST":
            return None
        return self._infer if target_of(raw_path.removeprefix(_TRY.encode())).call == _CALL else self._unknown

    def allowed(self, raw_path: bytes) -> tuple[str, ...]:
        """See :class:`~ovms_mp.front.endpoints.Route`."""
        return ("POST",)

    def operations(self) -> Iterable[tuple[str, str, Endpoint]]:
        """See :class:`~ovms_mp.front.endpoints.Route`."""
        return [("POST", f"{_TRY}/v2/models/{{model}}/versions/{{version}}/infer", self._infer)]


class PageCalls:
    """Handlers."""

    def __init__(self, front: HasService) -> None:
        self._front = front
        self._kserve = KServeRestCalls(front)

    async def to_page(self, request: RestRequest, context: CallContext) -> Answer:
        """``GET /ui``, which lacks the slash that the page's files are relative to."""
        return to_page(request.path, "")

    async def events(self, request: RestRequest, context: CallContext) -> Answer:
        """``GET /ui/events``.

        Raises:
            TooManyWatchers: As many pages are open as may be.
            Draining: The server is stopping.
        """
        stream = None if request.verb == "HEAD" else self._front.page.open()
        return Answer(b"", 200, "text/event-stream", _EVENT_HEADERS, stream)

    async def unknown(self, request: RestRequest, context: CallContext) -> Answer:
        """Another path below ``/ui/try``.

        Raises:
            OvmsError: There is nothing.
        """
        return await self._kserve.unknown(_Tried(request), context)

    async def infer(self, request: RestRequest, context: CallContext) -> Answer:
        """``POST /ui/try/v2/models/{name}/versions/{version}/infer``.

        Raises:
            OvmsError: One of the failures in :mod:`ovms_mp.errors`.
        """
        tried = _Tried(request)
        answer = await self._kserve.infer(tried, context)
        timing = ("Server-Timing", server_timing(context, tried.arrived_ns))
        return answer._replace(headers=(*answer.headers, timing, ("Cache-Control", "no-store")))


class _Tried:
    """A request as KServe's handlers know it: without the words in front of its path."""

    def __init__(self, request: RestRequest) -> None:
        self._request = request
        self.verb, self.share = request.verb, request.share
        self.path = request.path.replace(_TRY, "", 1)
        self.raw_path = request.raw_path.removeprefix(_TRY.encode())
        self.header = request.header
        self.arrived_ns = 0

    async def read_body(self, bound_bytes: int | None) -> bytes | bytearray:
        """See :class:`~ovms_mp.front.endpoints.RestRequest`."""
        body = await self._request.read_body(bound_bytes)
        self.arrived_ns = time.monotonic_ns()
        return body

    async def receive_body(
        self, bound_bytes: int | None, least_bytes: int, make_sink: Callable[[int], MessageSink | None]
    ) -> Any:  # Any: what the sink makes.
        """See :class:`~ovms_mp.front.endpoints.RestRequest`."""
        made = await self._request.receive_body(bound_bytes, least_bytes, make_sink)
        self.arrived_ns = time.monotonic_ns()
        return made


def server_timing(context: CallContext, arrived_ns: int) -> str:
    """The stages of an answered call, in their order, as https://www.w3.org/TR/server-timing/ has it.

    Args:
        context: The call.
        arrived_ns: When its body was there.
    """
    queue_ns, infer_ns = context.queue_ns, context.infer_ns
    stages = {
        "receive": arrived_ns - context.begun_ns,
        "decode": context.sent_ns - arrived_ns,
        "queue": queue_ns,
        "infer": infer_ns,
        "handover": context.received_ns - context.sent_ns - queue_ns - infer_ns,
        "encode": context.encoded_ns - context.received_ns,
    }
    return ", ".join(f"{name};dur={max(0, took_ns) / 1e6:.3f}" for name, took_ns in stages.items())
