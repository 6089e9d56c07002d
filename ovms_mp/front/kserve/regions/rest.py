# SPDX-License-Identifier: Apache-2.0
"""REST calls that list, register and unregister clients' shared memory: ``/v2/systemsharedmemory`` and ``cuda...``.

``GET [region/R/]status``, ``POST region/R/register``, ``POST [region/R/]unregister``. Answers are Triton's: a list of
regions, or nothing.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote_to_bytes

import msgspec

from ovms_mp.errors import MalformedPayload, RegionNotFound
from ovms_mp.front.endpoints import Answer, Endpoint
from ovms_mp.front.kserve.calls import PROTOCOL
from ovms_mp.front.kserve.regions import calls

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.endpoints import Handler, RestRequest, Route
    from ovms_mp.front.served_protocol import HasService

SYSTEM_PREFIX, CUDA_PREFIX = "/v2/systemsharedmemory/", "/v2/cudasharedmemory/"
_STATUS, _REGISTER, _UNREGISTER = "status", "register", "unregister"
_LONGEST_BODY_BYTES = 64 << 10
_MOST_KEPT = 64
_NOTHING = b""


class Target(NamedTuple):
    """A path taken apart.

    Attributes:
        region: The region's name; empty where the path names none.
        action: What is asked for; empty where the path says nothing that there is.
    """

    region: str
    action: str


@lru_cache(_MOST_KEPT)
def target_of(raw_path: bytes, prefix: str) -> Target:
    """Take a path apart. A region's name is percent-decoded, and may hold a ``/`` that is.

    Args:
        raw_path: As it was sent, without the query. One slash at its end means nothing.
        prefix: What it begins with.

    Raises:
        MalformedPayload: A name is no UTF-8.
    """
    words = raw_path.decode("latin-1").removeprefix(prefix).removesuffix("/").split("/")
    match words:
        case ["status" | "unregister" | "register" as action]:
            return Target("", action)
        case ["region", name, "status" | "unregister" | "register" as action] if name:
            try:
                return Target(unquote_to_bytes(name).decode(), action)
            except UnicodeDecodeError:
                raise MalformedPayload(f"the region's name {name!r} is not UTF-8") from None
        case _:
            return Target("", "")


def routes(front: HasService) -> Sequence[Route]:
    """All paths."""
    return (
        RegionRoute(SYSTEM_PREFIX, calls.SYSTEM, SystemRestCalls(front).handlers()),
        RegionRoute(CUDA_PREFIX, calls.CUDA, CudaRestCalls().handlers()),
    )


class RegionRoute:
    """The paths of one kind of memory."""

    def __init__(self, prefix: str, kind: str, handlers: Mapping[str, Handler]) -> None:
        """Prepare.

        Args:
            prefix: What the paths begin with.
            kind: Begins the methods' names.
            handlers: By action; those of no action for all other paths.
        """
        self.template = f"{prefix}{{path:path}}"
        self._prefix = prefix
        self._unknown = Endpoint(_unknown, PROTOCOL, "Unknown")
        self._gets = {_STATUS: Endpoint(handlers[_STATUS], PROTOCOL, kind + calls.STATUS)}
        self._posts = {
            _REGISTER: Endpoint(
                handlers[_REGISTER], PROTOCOL, kind + calls.REGISTER, takes_body=True, changes_server=True
            ),
            _UNREGISTER: Endpoint(
                handlers[_UNREGISTER], PROTOCOL, kind + calls.UNREGISTER, changes_server=True
            ),
        }

    def find(self, verb: str, raw_path: bytes) -> Endpoint | None:
        """See :class:`~ovms_mp.front.endpoints.Route`."""
        action = self._action(raw_path)
        if not action:
            return self._unknown if verb in ("GET", "POST") else None
        if verb == "GET":
            return self._gets.get(action)
        return self._posts.get(action) if verb == "POST" else None

    def allowed(self, raw_path: bytes) -> tuple[str, ...]:
        """See :class:`~ovms_mp.front.endpoints.Route`."""
        return ("POST",) if self._action(raw_path) in self._posts else ("GET", "HEAD")

    def operations(self) -> Iterable[tuple[str, str, Endpoint]]:
        """See :class:`~ovms_mp.front.endpoints.Route`."""
        for verb, endpoints in (("GET", self._gets), ("POST", self._posts)):
            for action, endpoint in endpoints.items():
                yield verb, f"{self._prefix}region/{{region}}/{action}", endpoint
                if action != _REGISTER:
                    yield verb, f"{self._prefix}{action}", endpoint

    def _action(self, raw_path: bytes) -> str:
        try:
            return target_of(raw_path, self._prefix).action
        except MalformedPayload:
            # The handler says what is wrong with the name.
            return raw_path.decode("latin-1").removesuffix("/").rpartition("/")[2]


class SystemRestCalls:
    """Handlers of system shared memory."""

    def __init__(self, front: HasService) -> None:
        self._front = front

    def handlers(self) -> Mapping[str, Handler]:
        """By action."""
        return {_STATUS: self.status, _REGISTER: self.register, _UNREGISTER: self.unregister}

    async def status(self, request: RestRequest, context: CallContext) -> Answer:
        """``GET /v2/systemsharedmemory[/region/R]/status``."""
        target = target_of(request.raw_path, SYSTEM_PREFIX)
        records = calls.system_status(self._front.service, target.region)
        return Answer(
            msgspec.json.encode(
                [
                    {
                        "name": record.name,
                        "key": record.key,
                        "offset": record.offset,
                        "byte_size": record.byte_size,
                    }
                    for record in records
                ]
            )
        )

    async def register(self, request: RestRequest, context: CallContext) -> Answer:
        """``POST /v2/systemsharedmemory/region/R/register``."""
        target = target_of(request.raw_path, SYSTEM_PREFIX)
        asked = _registration(await request.read_body(_LONGEST_BODY_BYTES))
        await calls.register_system(
            self._front.service, target.region, asked.key, asked.offset, asked.byte_size, context
        )
        return Answer(_NOTHING)

    async def unregister(self, request: RestRequest, context: CallContext) -> Answer:
        """``POST /v2/systemsharedmemory[/region/R]/unregister``. A body would have no meaning and is not read."""
        target = target_of(request.raw_path, SYSTEM_PREFIX)
        await calls.unregister_system(self._front.service, target.region, context)
        return Answer(_NOTHING)


class CudaRestCalls:
    """Handlers of the memory of GPUs, of which there is none."""

    def handlers(self) -> Mapping[str, Handler]:
        """By action."""
        return {_STATUS: self.status, _REGISTER: self.register, _UNREGISTER: self.unregister}

    async def status(self, request: RestRequest, context: CallContext) -> Answer:
        """``GET /v2/cudasharedmemory[/region/R]/status``."""
        return Answer(b"[]")

    async def register(self, request: RestRequest, context: CallContext) -> Answer:
        """Refuses ``POST /v2/cudasharedmemory/region/R/register``.

        Raises:
            UnsupportedOperation: Always.
        """
        await request.read_body(_LONGEST_BODY_BYTES)
        calls.register_cuda(target_of(request.raw_path, CUDA_PREFIX).region)
        return Answer(_NOTHING)

    async def unregister(self, request: RestRequest, context: CallContext) -> Answer:
        """``POST /v2/cudasharedmemory[/region/R]/unregister``."""
        return Answer(_NOTHING)


class _Registration(msgspec.Struct, frozen=True):
    """The body of a registration. Keys that are not known mean nothing, as in Triton."""

    key: str
    byte_size: int
    offset: int = 0


def _registration(body: bytes | bytearray) -> _Registration:
    try:
        return msgspec.json.decode(body, type=_Registration)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise MalformedPayload(
            f"a shared memory register request is a JSON object with 'key' (text), 'byte_size' and perhaps 'offset' "
            f"(whole numbers): {error}"
        ) from None


async def _unknown(request: RestRequest, context: CallContext) -> Answer:
    raise RegionNotFound(
        f"Requested REST resource not found: {request.verb} {request.path}; known behind "
        f"{SYSTEM_PREFIX} and {CUDA_PREFIX}: [region/NAME/]status, region/NAME/register, [region/NAME/]unregister"
    )
