# SPDX-License-Identifier: Apache-2.0
"""Where a status document comes from.

On the same machine the manager is asked by its status socket (:mod:`ovms_mp.manager.status_socket`), so neither a REST
port nor a loaded model is needed; elsewhere a REST front is asked (``GET /v1/status``).
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from dataclasses import dataclass

from ovms_mp.commands.http_target import NoAnswer, Target, Trust
from ovms_mp.errors import ConfigError
from ovms_mp.wire.status_document import ADDRESS_PREFIX

_DEADLINE_S = 5.0
_MAX_BYTES = 64 << 20
_DEFAULT_REST_PORT = 8000
_NUMBERS_IN_ADDRESS = 3
"""pid, gRPC port, REST port."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Whom to ask.

    Attributes:
        host: Where the server runs; None for this machine, where it needs no REST port.
        port: Its gRPC port, to choose among several on this machine.
        rest_port: Its REST port, which a server on another machine must have.
        prefix: Of its REST paths.
        trust: For a server elsewhere; None where its REST port is plain.
        key: For a server elsewhere that asks for one.
    """

    host: str | None = None
    port: int | None = None
    rest_port: int | None = None
    prefix: str = ""
    trust: Trust | None = None
    key: str = ""

    def document(self) -> bytes:
        """The status document.

        Raises:
            NoAnswer: There is none.
            ConfigError: The host is none.
        """
        if self.host is None:
            found = self._local()
            if found is not None:
                return _ask_local(found)
        return _ask_over_http(self.target())

    def target(self) -> Target:
        """The REST port, of a server that is asked there.

        Raises:
            ConfigError: The host is none.
        """
        port = _DEFAULT_REST_PORT if self.rest_port is None else self.rest_port
        return Target(_bare(self.host or "127.0.0.1"), port, self.prefix, self.trust, self.key)

    def _local(self) -> LocalServer | None:
        """The server of this machine that is meant; None where its REST port is to be asked.

        Raises:
            NoAnswer: There is none, or more than one.
        """
        found = [
            server
            for server in local_servers()
            if self.port in (None, server.port) and self.rest_port in (None, server.rest_port)
        ]
        if len(found) == 1:
            return found[0]
        if found:
            listed = "; ".join(server.text() for server in found)
            raise NoAnswer(f"several servers run here; choose one by --port or --rest_port: {listed}")
        if self.rest_port is None:
            raise NoAnswer(
                "no ovms_mp of this user runs on this machine"
                + (f" with --port {self.port}" if self.port is not None else "")
                + "; for one elsewhere give --host and --rest_port"
            )
        return None


@dataclass(frozen=True, slots=True)
class LocalServer:
    """A server on this machine, as the name of its status socket tells."""

    address: str
    pid: int
    port: int
    rest_port: int

    def text(self) -> str:
        """For messages."""
        ports = [f"{name} {port}" for name, port in (("gRPC", self.port), ("REST", self.rest_port)) if port]
        return f"pid {self.pid} ({', '.join(ports) or 'Unix sockets only'})"


def local_servers(table: str = "/proc/net/unix") -> list[LocalServer]:
    """The servers on this machine that listen for ``ovms_mp status``, whoever owns them.

    Source: proc_pid_net(5); an abstract name is shown with a leading ``@``.
    """
    try:
        with open(table, errors="replace") as file:
            names = [line.split()[-1] for line in file if f"@{ADDRESS_PREFIX}-" in line]
    except OSError:
        return []
    found: dict[str, LocalServer] = {}
    for name in names:
        numbers = name.removeprefix(f"@{ADDRESS_PREFIX}-").split("-")
        if len(numbers) == _NUMBERS_IN_ADDRESS and all(number.isdecimal() for number in numbers):
            pid, port, rest_port = map(int, numbers)
            found[name] = LocalServer("\0" + name[1:], pid, port, rest_port)
    return sorted(found.values(), key=lambda server: server.pid)


def _ask_local(server: LocalServer) -> bytes:
    """The document of a server on this machine.

    Raises:
        NoAnswer: It gives none.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        # The kernel waits, which it does not for a socket with a timeout of Python's, where others are before us.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(_DEADLINE_S), 0))
        try:
            connection.connect(server.address)
            connection.settimeout(_DEADLINE_S)
            _, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
        except OSError as error:
            raise NoAnswer(f"the server {server.text()} does not answer ({error})") from None
    if not descriptors:
        raise NoAnswer(
            f"the server {server.text()} tells only its own user and root; run this as one of them"
        )
    try:
        # Not read(): the descriptor shares its position with the server's.
        return os.pread(descriptors[0], _MAX_BYTES, 0)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _ask_over_http(target: Target) -> bytes:
    """The document of a server that has a REST port.

    Raises:
        NoAnswer: None comes from there.
    """
    try:
        return target.ask("/v1/status", _DEADLINE_S).body
    except NoAnswer as error:
        if error.status in (401, 403):
            raise NoAnswer(f"{error}; give --api_key", error.status) from None
        if error.status:
            url = target.url("/v1/status")
            raise NoAnswer(
                f"{url} answers {error.status}: no ovms_mp of this release listens there", error.status
            ) from None
        raise NoAnswer(f"{error}; give the server's --rest_port (not its gRPC port) and --host") from None


def _bare(host: str) -> str:
    """A host without the brackets that IPv6 addresses may have.

    Raises:
        ConfigError: It is more than a host, e.g. one with a port, or a URL.
    """
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not set(bare) & set("/[]:@?#"):
        return bare
    try:
        return str(ipaddress.IPv6Address(bare))
    except ValueError:
        raise ConfigError(
            f"--host {host}: give a name or an address, e.g. 10.0.0.1 or ::1, and the port by --rest_port"
        ) from None
