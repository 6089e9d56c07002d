# SPDX-License-Identifier: Apache-2.0
"""``ovms_mp status``: what a running server says of itself, for people.

On the same machine the manager is asked by its status socket (:mod:`ovms_mp.manager.status_socket`), so neither a REST
port nor a loaded model is needed; elsewhere a REST front is asked (``GET /v1/status``).

Fields that this release does not know are skipped, and those that are missing are left empty, so that it reads
the status of an older or newer server as well.
"""

from __future__ import annotations

import http.client
import ipaddress
import math
import os
import socket
import ssl
import struct
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from ovms_mp.codes import ExitCode
from ovms_mp.errors import ConfigError
from ovms_mp.log import printable, say
from ovms_mp.model.core_lists import core_text
from ovms_mp.wire.status_document import ADDRESS_PREFIX

if TYPE_CHECKING:
    from collections.abc import Sequence

_DEADLINE_S = 5.0
_MAX_BYTES = 64 << 20
_DEFAULT_REST_PORT = 8000
_CELLS = 4
"""In a version's row, after its state."""
_NUMBERS_IN_ADDRESS = 3
"""pid, gRPC port, REST port."""


class _Worker(msgspec.Struct, frozen=True):
    name: str = ""
    device: str = ""
    pid: int = 0
    cores: tuple[int, ...] = ()


class _Configuration(msgspec.Struct, frozen=True):
    refused_at: str = ""
    is_refused_whole: bool = True
    reason: str = ""


class _Version(msgspec.Struct, frozen=True):
    version: int
    state: str = ""
    is_failed: bool = False
    is_being_loaded: bool = False
    next_try_in_s: float | None = None
    error_message: str = ""
    nireq: int = 0
    workers: int = 0
    requests: int = 0
    failures: int = 0
    cancelled: int = 0
    detail: str = ""


class _Model(msgspec.Struct, frozen=True):
    default_version: int = 0
    versions: tuple[_Version, ...] = ()
    notes: tuple[str, ...] = ()
    is_unloaded: bool = False


class _Status(msgspec.Struct, frozen=True):
    configuration: _Configuration | None = None
    configuration_notes: tuple[str, ...] = ()
    plan: tuple[str, ...] = ()
    workers: tuple[_Worker, ...] = ()
    models: dict[str, _Model] = {}


@dataclass(frozen=True, slots=True)
class StatusTls:
    """How a server elsewhere is trusted that speaks TLS, and what it is shown: files, empty for none."""

    authority: str
    certificate: str = ""
    key: str = ""


def run_status(
    host: str | None, port: int | None, rest_port: int | None, tls: StatusTls | None = None, *, as_json: bool
) -> int:
    """Ask a server and print what it says; the exit code.

    Args:
        host: Where it runs; None for this machine, where it needs no REST port.
        port: Its gRPC port, to choose among several on this machine.
        rest_port: Its REST port, which a server on another machine must have.
        tls: For a server elsewhere; None where its REST port is plain.
        as_json: Print the document as it is.

    Raises:
        ConfigError: The host is none.
    """
    try:
        document = _ask(host, port, rest_port, tls)
        text = document.decode() if as_json else status_text(document)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return _failed(f"the answer is not a status document: {error}")
    except _NoStatus as error:
        return _failed(str(error))
    sys.stdout.write("".join(f"{printable(line)}\n" for line in text.rstrip("\n").split("\n")))
    return ExitCode.CLEAN


class _NoStatus(Exception):
    """Why there is nothing to show."""


def _ask(host: str | None, port: int | None, rest_port: int | None, tls: StatusTls | None) -> bytes:
    if host is None:
        found = [
            server
            for server in local_servers()
            if port in (None, server.port) and rest_port in (None, server.rest_port)
        ]
        if len(found) == 1:
            return _ask_local(found[0])
        if found:
            listed = "; ".join(server.text() for server in found)
            raise _NoStatus(f"several servers run here; choose one by --port or --rest_port: {listed}")
        if rest_port is None:
            raise _NoStatus(
                "no ovms_mp of this user runs on this machine"
                + (f" with --port {port}" if port is not None else "")
                + "; for one elsewhere give --host and --rest_port"
            )
    return _ask_over_http(host or "127.0.0.1", _DEFAULT_REST_PORT if rest_port is None else rest_port, tls)


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
        _NoStatus: It gives none.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        # The kernel waits, which it does not for a socket with a timeout of Python's, where others are before us.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(_DEADLINE_S), 0))
        try:
            connection.connect(server.address)
            connection.settimeout(_DEADLINE_S)
            _, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
        except OSError as error:
            raise _NoStatus(f"the server {server.text()} does not answer ({error})") from None
    if not descriptors:
        raise _NoStatus(
            f"the server {server.text()} tells only its own user and root; run this as one of them"
        )
    try:
        # Not read(): the descriptor shares its position with the server's.
        return os.pread(descriptors[0], _MAX_BYTES, 0)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _ask_over_http(host: str, rest_port: int, tls: StatusTls | None) -> bytes:
    """The document of a server that has a REST port.

    Raises:
        _NoStatus: None comes from there.
    """
    url = f"{'https' if tls else 'http'}://{_in_url(host)}:{rest_port}/v1/status"
    # A proxy that the environment names is for the world outside.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), *_handlers(tls))
    try:
        with opener.open(url, timeout=_DEADLINE_S) as answer:
            document: bytes = answer.read(_MAX_BYTES)
            return document
    except urllib.error.HTTPError as error:
        error.close()
        raise _NoStatus(f"{url} answers {error.code}: no ovms_mp of this release listens there") from None
    except (OSError, ValueError, http.client.InvalidURL) as error:
        # URLError and a deadline are OSErrors; a host that makes no URL is one of the others.
        reason = getattr(error, "reason", error)
        raise _NoStatus(
            f"nothing answers at {url} ({reason}); give the server's --rest_port and --host"
        ) from None
    except http.client.HTTPException:
        raise _NoStatus(
            f"what listens at {url} does not speak HTTP; give the server's --rest_port (not its gRPC port)"
        ) from None


def _handlers(tls: StatusTls | None) -> list[urllib.request.BaseHandler]:
    if tls is None:
        return []
    try:
        context = ssl.create_default_context(cafile=tls.authority)
        if tls.certificate:
            context.load_cert_chain(tls.certificate, tls.key or None)
    except OSError as error:
        raise _NoStatus(f"--tls_ca, --tls_cert, --tls_key: {error}") from None
    return [urllib.request.HTTPSHandler(context=context)]


def _in_url(host: str) -> str:
    """A host as a URL has it: IPv6 addresses in brackets.

    Raises:
        ConfigError: It is more than a host, e.g. one with a port, or a URL.
    """
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not set(bare) & set("/[]:@?#"):
        return bare
    try:
        return f"[{ipaddress.IPv6Address(bare)}]"
    except ValueError:
        raise ConfigError(
            f"--host {host}: give a name or an address, e.g. 10.0.0.1 or ::1, and the port by --rest_port"
        ) from None


def status_text(document: bytes) -> str:
    """The status document as aligned lines.

    Raises:
        msgspec.MsgspecError: It is no status document.
    """
    status = msgspec.json.decode(document, type=_Status)
    lines = [
        *_refusal_lines(status.configuration),
        *(f"configuration file: ! {note}" for note in status.configuration_notes),
        *status.plan,
    ]
    if status.workers:
        lines += ["", "workers"]
        lines += _table(
            [
                (worker.name, worker.device, f"pid {worker.pid}", _cores(worker.cores))
                for worker in status.workers
            ]
        )
    for name, model in status.models.items():
        default = (
            f"default version {model.default_version}" if model.default_version else "no default version"
        )
        unloaded = ", unloaded by a client" if model.is_unloaded else ""
        lines += ["", f"{name}: {default}{unloaded}"]
        rows = _table([_version_row(version) for version in model.versions])
        for row, version in zip(rows, model.versions, strict=True):
            lines.append(row)
            lines += [f"    {line}" for line in version.detail.splitlines()]
            lines += [f"    ! {line}" for line in version.error_message.splitlines()]
        lines += [f"  ! {note}" for note in model.notes]
    if not status.models:
        lines += ["", "no models"]
    return "\n".join(lines).strip("\n")


def _refusal_lines(found: _Configuration | None) -> list[str]:
    if found is None:
        return []
    how = "refused; the one before it is followed" if found.is_refused_whole else "refused in part"
    at = found.refused_at.replace("T", " ")
    return [
        f"configuration file of {at}: {how}",
        *(f"    ! {line}" for line in found.reason.splitlines()),
        "",
    ]


def _version_row(version: _Version) -> tuple[str, ...]:
    state = "FAILED" if version.is_failed else version.state
    cells = []
    if version.workers:
        workers = f"{version.workers} worker{'s' if version.workers > 1 else ''}"
        requests = f"{version.nireq} infer request{'s' if version.nireq != 1 else ''}"
        cells = [workers, f"{requests} each" if version.workers > 1 else requests]
    cells += _request_cells(version)
    if version.is_failed and version.is_being_loaded:
        cells.append("being tried again")
    elif version.is_being_loaded and version.workers:
        cells.append("being reloaded")
    elif version.next_try_in_s is not None:
        cells.append(f"next try in {math.ceil(version.next_try_in_s)} s")
    return (str(version.version), state, *cells, *("",) * (_CELLS - len(cells)))


def _request_cells(version: _Version) -> list[str]:
    """What became of the requests that there were; nothing before the first."""
    if not version.requests:
        return []
    parts = [
        f"{version.requests - version.failures - version.cancelled} answered",
        *([f"{version.failures} failed"] if version.failures else ()),
        *([f"{version.cancelled} cancelled"] if version.cancelled else ()),
    ]
    return [", ".join(parts)]


def _cores(cores: Sequence[int]) -> str:
    """Cores for people, e.g. ``cores 0-3,8``; empty where they are not known."""
    return f"core{'s' if len(cores) > 1 else ''} {core_text(cores)}" if cores else ""


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows with aligned columns, indented by two."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _failed(message: str) -> int:
    say(printable(f"ovms_mp: error: {message}"))
    return ExitCode.BOOT_FAILED
