# SPDX-License-Identifier: Apache-2.0
"""The model repository's paths, below ``/v2/repository``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import msgspec

from ovms_mp.errors import ModelNotFound
from ovms_mp.front.endpoints import Answer, Endpoint, FixedRoute
from ovms_mp.front.kserve.calls import PROTOCOL
from ovms_mp.front.kserve.repository import calls
from ovms_mp.front.kserve.small_body import small_body

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.endpoints import RestRequest, Route
    from ovms_mp.front.served_protocol import HasService

_PREFIX = "/v2/repository/models/"
_LOAD, _UNLOAD = "load", "unload"


class _IndexBody(msgspec.Struct):
    ready: bool = False


class _ModelBody(msgspec.Struct):
    parameters: dict[str, Any] = {}


def routes(front: HasService) -> Sequence[Route]:
    """The paths of this room."""
    own = RepositoryRestCalls(front)
    index = Endpoint(own.index, PROTOCOL, calls.INDEX, takes_body=True)
    return (FixedRoute("/v2/repository/index", {"POST": index}), ModelRoute(own))


class ModelRoute:
    """``/v2/repository/models/{name}/load`` and ``.../unload``. Names may have slashes."""

    template = f"{_PREFIX}{{path:path}}"

    def __init__(self, own: RepositoryRestCalls) -> None:
        self._endpoints = {
            _LOAD: Endpoint(own.load, PROTOCOL, calls.LOAD, takes_body=True, changes_server=True),
            _UNLOAD: Endpoint(own.unload, PROTOCOL, calls.UNLOAD, takes_body=True, changes_server=True),
        }
        self._unknown = Endpoint(own.unknown, PROTOCOL, "Unknown")

    def find(self, verb: str, raw_path: bytes) -> Endpoint | None:
        """See :class:`~ovms_mp.front.endpoints.Route`."""
        if verb != "POST":
            return None
        name, call = _taken_apart(raw_path)
        return self._endpoints.get(call, self._unknown) if name else self._unknown

    def allowed(self, raw_path: bytes) -> tuple[str, ...]:
        """See :class:`~ovms_mp.front.endpoints.Route`."""
        return ("POST",)

    def operations(self) -> Iterable[tuple[str, str, Endpoint]]:
        """See :class:`~ovms_mp.front.endpoints.Route`."""
        return [
            ("POST", f"{_PREFIX}{{model}}/{call}", endpoint) for call, endpoint in self._endpoints.items()
        ]


def _taken_apart(raw_path: bytes) -> tuple[str, str]:
    """The model's name and what is asked of it; both may be empty."""
    name, _, call = raw_path.decode("latin-1").removeprefix(_PREFIX).removesuffix("/").rpartition("/")
    return unquote(name), call


class RepositoryRestCalls:
    """Handlers."""

    def __init__(self, front: HasService) -> None:
        self._front = front

    async def index(self, request: RestRequest, context: CallContext) -> Answer:
        """``POST /v2/repository/index``: a list, as the protocol has it."""
        body = await small_body(request, _IndexBody)
        entries = calls.index(self._front.service, "", only_ready=body.ready)
        return Answer(msgspec.json.encode(entries))

    async def load(self, request: RestRequest, context: CallContext) -> Answer:
        """``POST /v2/repository/models/{name}/load``."""
        body = await small_body(request, _ModelBody)
        name, _ = _taken_apart(request.raw_path)
        await calls.load(self._front.service, name, "", body.parameters, context)
        return Answer(b"{}")

    async def unload(self, request: RestRequest, context: CallContext) -> Answer:
        """``POST /v2/repository/models/{name}/unload``."""
        body = await small_body(request, _ModelBody)
        name, _ = _taken_apart(request.raw_path)
        await calls.unload(self._front.service, name, "", body.parameters, context)
        return Answer(b"{}")

    async def unknown(self, request: RestRequest, context: CallContext) -> Answer:
        """A call that there is not.

        Raises:
            ModelNotFound: Always.
        """
        raise ModelNotFound(
            f"Requested REST resource not found: {request.verb} {request.path}; known: {_PREFIX}NAME/load, "
            f"{_PREFIX}NAME/unload"
        )
