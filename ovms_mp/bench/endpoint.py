# SPDX-License-Identifier: Apache-2.0
"""Where a server listens, as the user writes it: ``grpc://host:9000``, ``https://host``, ``unix:///run/ovms.sock``.

The forms are those of :mod:`ovms_mp.client`, so that a URL is good for every command and for programs.
"""

from __future__ import annotations

import re
import ssl
from urllib.parse import urlsplit

import msgspec

from ovms_mp.errors import ConfigError

ACCEPTED = (
    "grpc://HOST:PORT, grpcs://HOST:PORT (TLS), http://HOST:PORT, https://HOST:PORT, unix:///PATH (gRPC) or "
    "unix:///PATH?protocol=rest"
)
_DEFAULT_PORTS = {"grpc": 9000, "grpcs": 9000, "http": 80, "https": 443}
_HOST_ALONE = re.compile(r"[\w.-]+(:\d+)?(/|$)")
"""Without a scheme."""
_UNIX = "unix"
_IS_GRPC = {"": True, "protocol=grpc": True, "protocol=rest": False}
"""What may follow a Unix socket's path."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A port or a Unix socket, and what is spoken there.

    Attributes:
        prefix: What paths begin with over REST; empty or ``/...``.
    """

    is_grpc: bool
    is_secure: bool = False
    host: str = "localhost"
    port: int = 0
    unix_path: str = ""
    prefix: str = ""

    @property
    def authority(self) -> str:
        """Host and port as HTTP has them."""
        if self.unix_path:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """As a user would write it."""
        if self.unix_path:
            return f"{_UNIX}:{self.unix_path}{'' if self.is_grpc else '?protocol=rest'}"
        return f"{'grpc' if self.is_grpc else 'http'}{'s' * self.is_secure}://{self.authority}{self.prefix}"

    @property
    def is_local(self) -> bool:
        """Whether the server surely runs on this machine, so that the load takes processor time from it."""
        return bool(self.unix_path) or self.host in ("localhost", "::1") or self.host.startswith("127.")


class Trust(msgspec.Struct, frozen=True):
    """How a server that speaks TLS is trusted, and what it is shown: files, empty for none."""

    authority: str = ""
    certificate: str = ""
    key: str = ""

    def context(self, *, is_grpc: bool) -> ssl.SSLContext:
        """What connections are secured by.

        Raises:
            ConfigError: A file cannot be read, or is not what it should be.
        """
        try:
            context = ssl.create_default_context(cafile=self.authority or None)
            if self.certificate:
                context.load_cert_chain(self.certificate, self.key or None)
        except OSError as error:
            raise ConfigError(f"--tls_ca, --tls_cert, --tls_key: {error}") from None
        context.set_alpn_protocols(["h2"] if is_grpc else ["http/1.1"])
        return context


def parse_endpoint(text: str, source: str = "URL") -> Endpoint:
    """Read where a server is.

    Args:
        text: As the user wrote it.
        source: The argument or flag, for messages.

    Raises:
        ConfigError: It is none of the accepted forms.
    """
    scheme, _, rest = text.partition(":")
    refusal = ConfigError(f"{source} {text!r} is no address of a server; accepted: {ACCEPTED}")
    if scheme == _UNIX:
        path, _, query = rest.removeprefix("//").partition("?")
        if not path.startswith("/"):
            raise ConfigError(
                f"{source} {text!r}: a Unix socket has an absolute path, as in unix:///run/ovms.sock"
            )
        if query not in _IS_GRPC:
            raise refusal
        return Endpoint(is_grpc=_IS_GRPC[query], unix_path=path)
    if _HOST_ALONE.match(text):
        text, scheme = f"http://{text}", "http"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise refusal from None
    prefix = parts.path.rstrip("/")
    is_grpc = scheme.startswith("grpc")
    if scheme not in _DEFAULT_PORTS or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise refusal
    if is_grpc and prefix:
        raise ConfigError(f"{source} {text!r}: a gRPC address has no path")
    return Endpoint(
        is_grpc=is_grpc,
        is_secure=scheme.endswith("s"),
        host=parts.hostname,
        port=_DEFAULT_PORTS[scheme] if port is None else port,
        prefix=prefix,
    )
