# SPDX-License-Identifier: Apache-2.0
"""Which server a URL names, and how it is spoken to."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast, get_args
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from ovms_mp.client.errors import InvalidRequest
from ovms_mp.codes import Code

Api: TypeAlias = Literal["kserve", "tfs"]
Protocol: TypeAlias = Literal["grpc", "rest"]

_SCHEMES: dict[str, tuple[Protocol, bool, int]] = {
    "grpc": ("grpc", False, 9000),
    "grpcs": ("grpc", True, 9000),
    "http": ("rest", False, 80),
    "https": ("rest", True, 443),
}
_EXAMPLES = (
    "grpc://HOST:PORT, grpcs://HOST:PORT, http://HOST:PORT, https://HOST:PORT, unix:///PATH (gRPC), "
    "unix:///PATH?protocol=rest; each with ?api=tfs for TensorFlow Serving's API"
)
_DEFAULT_API: Api = "kserve"
_LONGEST_SOCKET_PATH = 107
"""Bytes (unix(7))."""


@dataclass(frozen=True, slots=True)
class Target:
    """A server.

    Attributes:
        protocol: What carries the calls.
        api: Which of the server's two APIs.
        is_secure: Whether by TLS.
        host: Name or address without brackets, perhaps with a zone behind a ``%``; empty for a Unix socket.
        port: 0 for a Unix socket.
        path: Of a Unix socket; empty otherwise.
        prefix: What comes before each REST path, e.g. of a proxy.
    """

    protocol: Protocol
    api: Api
    is_secure: bool
    host: str = ""
    port: int = 0
    path: str = ""
    prefix: str = ""

    @property
    def authority(self) -> str:
        """Host and port as requests name them."""
        if self.path:
            return "localhost"
        host = self.host.partition("%")[0]  # A zone means nothing to others (RFC 6874, 4).
        host = f"[{host}]" if ":" in host else host
        return f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else self.authority


def parse(url: str, api: str | None = None) -> Target:
    """Read a URL.

    Args:
        url: See the message of the error for its forms.
        api: ``kserve`` or ``tfs``; None for what the URL says, else KServe.

    Raises:
        InvalidRequest: It is none of these forms.
    """
    parts, port = _split(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    asked = _choice("api", options.pop("api", None) if api is None else api, get_args(Api), _DEFAULT_API)
    protocol = options.pop("protocol", None)
    if options or parts.fragment or parts.username is not None:
        raise _refused(url, "accepted behind a ? are api and protocol")
    chosen = cast(Api, asked)
    if parts.scheme == "unix":
        carried = cast(Protocol, _choice("protocol", protocol, get_args(Protocol), "grpc"))
        return Target(carried, chosen, is_secure=False, path=_socket_path(url, parts))
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise _refused(url, "it has no scheme that is known, or no host")
    carried, is_secure, default_port = _SCHEMES[parts.scheme]
    if protocol not in (None, carried):
        raise _refused(url, f"{parts.scheme}:// is {carried}; protocol= is for Unix sockets")
    prefix = parts.path.rstrip("/")
    if prefix and carried == "grpc":
        raise _refused(url, "gRPC has no path")
    if port == 0:
        raise _refused(url, "nobody listens on port 0")
    prefix = quote(prefix, safe="/%:@!$&'()*+,;=~")
    host = _ascii_host(url, parts.hostname.replace("%25", "%"))  # RFC 6874, 2.
    return Target(carried, chosen, is_secure, host, port or default_port, prefix=prefix)


def _split(url: str) -> tuple[SplitResult, int | None]:
    if not isinstance(url, str):
        raise _refused(url, "it is no text")
    try:
        parts = urlsplit(url)
        return parts, parts.port
    except ValueError as error:
        raise _refused(url, str(error)) from None


def _socket_path(url: str, parts: SplitResult) -> str:
    path = unquote(parts.path)
    if parts.netloc or not path.startswith("/"):
        raise _refused(url, "a Unix socket has an absolute path, unix:///run/ovms.sock")
    if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH or "\0" in path:
        raise _refused(url, f"a Unix socket's path has at most {_LONGEST_SOCKET_PATH} bytes, and no zero")
    return path


def _ascii_host(url: str, host: str) -> str:
    try:
        return host if host.isascii() else host.encode("idna").decode()
    except UnicodeError as error:
        raise _refused(url, str(error)) from None


def _choice(name: str, value: str | None, choices: tuple[str, ...], default: str) -> str:
    if value is None:
        return default
    if value not in choices:
        raise InvalidRequest(
            Code.INVALID_ARGUMENT, f"{name} {value!r} is unknown; accepted: {', '.join(choices)}"
        )
    return value


def _refused(url: object, reason: str) -> InvalidRequest:
    return InvalidRequest(
        Code.INVALID_ARGUMENT, f"the URL {url!r} names no server: {reason}; accepted: {_EXAMPLES}"
    )
