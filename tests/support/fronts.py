# SPDX-License-Identifier: Apache-2.0
"""Clients of one front each: over a connection that stays, so that it is known which process answers."""

from __future__ import annotations

import contextlib
import http.client
import json
from typing import TYPE_CHECKING, Any, Protocol

import psutil
from google.protobuf.json_format import MessageToDict, ParseDict

from ovms_mp.front.kserve._proto import kserve_pb2 as kserve
from tests.support.h2_client import H2Client, message
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.server import Server

_SERVICE = "/inference.GRPCInferenceService"
_TIMEOUT_S = 60.0
_FOUND_WITHIN_S = 30.0


class Refused(Exception):
    """A call failed; the server's words."""


class FrontClient(Protocol):
    """KServe's calls about state, by whatever protocol the front speaks."""

    pid: int

    def index(self) -> dict[tuple[str, str], tuple[str, str]]:
        """State and reason, by model and version."""

    def load(self, model: str) -> None:
        """Load a model."""

    def unload(self, model: str) -> None:
        """Unload a model."""

    def log(self, **settings: object) -> dict[str, Any]:
        """Set what is logged; the settings afterwards."""

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Register a region."""

    def unregister(self, name: str) -> None:
        """Forget a region, or all."""

    def regions(self) -> dict[str, tuple[str, int, int]]:
        """Key, offset and size by name."""

    def close(self) -> None:
        """Hang up."""


class RestFront:
    """One REST front."""

    def __init__(self, pid: int, connection: http.client.HTTPConnection) -> None:
        self.pid = pid
        self._connection = connection

    def ask(self, verb: str, path: str, body: object = None) -> Any:
        """The answer's document; raises what is an error."""
        payload = None if body is None else json.dumps(body)
        self._connection.request(verb, path, payload)
        response = self._connection.getresponse()
        content = response.read()
        if response.status != 200:
            raise Refused(json.loads(content)["error"])
        return json.loads(content) if content else None

    def index(self) -> dict[tuple[str, str], tuple[str, str]]:
        """See :class:`FrontClient`."""
        found = self.ask("POST", "/v2/repository/index")
        return {(entry["name"], entry["version"]): (entry["state"], entry["reason"]) for entry in found}

    def load(self, model: str) -> None:
        """See :class:`FrontClient`."""
        self.ask("POST", f"/v2/repository/models/{model}/load", {})

    def unload(self, model: str) -> None:
        """See :class:`FrontClient`."""
        self.ask(
            "POST", f"/v2/repository/models/{model}/unload", {"parameters": {"unload_dependents": False}}
        )

    def log(self, **settings: object) -> dict[str, Any]:
        """See :class:`FrontClient`."""
        found: dict[str, Any] = (
            self.ask("POST", "/v2/logging", settings) if settings else self.ask("GET", "/v2/logging")
        )
        return found

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """See :class:`FrontClient`."""
        body = {"key": key, "offset": offset, "byte_size": byte_size}
        self.ask("POST", f"/v2/systemsharedmemory/region/{name}/register", body)

    def unregister(self, name: str) -> None:
        """See :class:`FrontClient`."""
        place = f"/region/{name}" if name else ""
        self.ask("POST", f"/v2/systemsharedmemory{place}/unregister")

    def regions(self) -> dict[str, tuple[str, int, int]]:
        """See :class:`FrontClient`."""
        found = self.ask("GET", "/v2/systemsharedmemory/status")
        return {entry["name"]: (entry["key"], entry["offset"], entry["byte_size"]) for entry in found}

    def close(self) -> None:
        """See :class:`FrontClient`."""
        self._connection.close()


class GrpcFront:
    """One gRPC front."""

    def __init__(self, pid: int, client: H2Client) -> None:
        self.pid = pid
        self._client = client

    def ask(self, method: str, request: dict[str, Any]) -> Any:
        """The answer's document; raises what is an error."""
        sent = ParseDict(request, getattr(kserve, f"{method}Request")())
        answer = self._client.ask(f"{_SERVICE}/{method}", message(sent.SerializeToString()))
        if answer.headers["grpc-status"] != "0":
            raise Refused(answer.headers["grpc-message"])
        received = getattr(kserve, f"{method}Response").FromString(answer.body[5:])
        return MessageToDict(received, always_print_fields_with_no_presence=True)

    def index(self) -> dict[tuple[str, str], tuple[str, str]]:
        """See :class:`FrontClient`."""
        found = self.ask("RepositoryIndex", {})["models"]
        return {(entry["name"], entry["version"]): (entry["state"], entry["reason"]) for entry in found}

    def load(self, model: str) -> None:
        """See :class:`FrontClient`."""
        self.ask("RepositoryModelLoad", {"modelName": model})

    def unload(self, model: str) -> None:
        """See :class:`FrontClient`."""
        self.ask("RepositoryModelUnload", {"modelName": model})

    def log(self, **settings: object) -> dict[str, Any]:
        """See :class:`FrontClient`."""
        fields = {bool: "boolParam", int: "uint32Param", str: "stringParam"}
        given = {name: {fields[type(value)]: value} for name, value in settings.items()}
        found = self.ask("LogSettings", {"settings": given})["settings"]
        return {name: next(iter(value.values())) for name, value in found.items()}

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """See :class:`FrontClient`."""
        request = {"name": name, "key": key, "offset": offset, "byteSize": byte_size}
        self.ask("SystemSharedMemoryRegister", request)

    def unregister(self, name: str) -> None:
        """See :class:`FrontClient`."""
        self.ask("SystemSharedMemoryUnregister", {"name": name})

    def regions(self) -> dict[str, tuple[str, int, int]]:
        """See :class:`FrontClient`."""
        found = self.ask("SystemSharedMemoryStatus", {})["regions"]
        return {
            name: (entry["key"], int(entry["offset"]), int(entry["byteSize"]))
            for name, entry in found.items()
        }

    def close(self) -> None:
        """See :class:`FrontClient`."""
        self._client.__exit__(None, None, None)


@contextlib.contextmanager
def fronts_of(server: Server) -> Iterator[list[FrontClient]]:
    """A client of each front of a server, as long as this lasts."""
    found: dict[int, FrontClient] = {}
    wanted = {*server.pids("grpc"), *server.pids("rest")}

    def connect() -> bool:
        for client in (_rest_client(server), _grpc_client(server)):
            if client is None:
                continue
            if client.pid in found:
                client.close()
            found.setdefault(client.pid, client)
        return found.keys() >= wanted

    try:
        eventually(connect, _FOUND_WITHIN_S, "a connection to each front")
        yield list(found.values())
    finally:
        for client in found.values():
            client.close()


def _rest_client(server: Server) -> RestFront | None:
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=_TIMEOUT_S)
    connection.request("GET", "/v2/health/live")
    connection.getresponse().read()
    pid = _owner(server.pids("rest"), connection.sock.getsockname()[1])
    if pid is None:
        connection.close()
        return None
    return RestFront(pid, connection)


def _grpc_client(server: Server) -> GrpcFront | None:
    client = H2Client(server.port)
    client.__enter__()
    pid = _owner(server.pids("grpc"), client.local_port)
    if pid is None:
        client.__exit__(None, None, None)
        return None
    return GrpcFront(pid, client)


def _owner(pids: list[int], port: int) -> int | None:
    """The process that has the other end of a connection from this port."""
    for pid in pids:
        for entry in psutil.Process(pid).net_connections("tcp"):
            if entry.raddr and entry.raddr.port == port:
                return pid
    return None
