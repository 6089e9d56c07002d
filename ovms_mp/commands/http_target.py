# SPDX-License-Identifier: Apache-2.0
"""A server's REST port as commands ask it: where it is, and requests with a deadline and a key."""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ovms_mp.config.target_flags import read_key
from ovms_mp.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_BYTES = 2 << 30
_SCHEMES = {"http": 80, "https": 443}
_LONGEST_REASON = 500


class NoAnswer(Exception):
    """Why a server has not answered, or not as was asked.

    Attributes:
        status: HTTP's; 0 where nothing spoke HTTP.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Trust:
    """How a server that speaks TLS is trusted, and what it is shown: files; empty for the system's and none."""

    authority: str = ""
    certificate: str = ""
    key: str = ""

    def context(self) -> ssl.SSLContext:
        """For connections.

        Raises:
            NoAnswer: A file cannot be read.
        """
        try:
            context = ssl.create_default_context(cafile=self.authority or None)
            if self.certificate:
                context.load_cert_chain(self.certificate, self.key or None)
        except OSError as error:
            raise NoAnswer(f"--tls_ca, --tls_cert, --tls_key: {error}") from None
        return context


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer whose status is 200."""

    body: bytes
    headers: http.client.HTTPMessage


@dataclass(frozen=True, slots=True)
class Target:
    """A REST port.

    Attributes:
        host: A name or an address; IPv6 without brackets.
        port: Its port.
        prefix: What all paths begin with, without a slash at the end.
        trust: None where the port is plain.
        key: Of the server's API keys; empty for none.
    """

    host: str
    port: int
    prefix: str = ""
    trust: Trust | None = None
    key: str = ""

    def url(self, path: str = "") -> str:
        """For messages."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.trust else 'http'}://{host}:{self.port}{self.prefix}{path}"

    def ask(
        self,
        path: str,
        deadline_s: float,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """GET a path, or POST a body to it. No proxy that the environment names is used.

        Args:
            path: Percent-encoded, below the prefix.
            deadline_s: Longest wait for the connection, and for each part of the answer.
            body: To be sent; None for GET.
            headers: Besides those of every request.

        Raises:
            NoAnswer: Nothing answers, or not with 200.
        """
        url = self.url(path)
        sent = {"accept": "application/json", **(headers or {})}
        if self.key:
            sent["authorization"] = f"Bearer {self.key}"
        connection: http.client.HTTPConnection | None = None
        try:
            connection = self._connection(deadline_s)
            connection.request("GET" if body is None else "POST", self.prefix + path, body, sent)
            response = connection.getresponse()
            content = response.read(MOST_BYTES)
        except ssl.SSLError as error:
            reason = getattr(error, "verify_message", "") or error.reason or error
            raise NoAnswer(f"no TLS connection to {url} ({reason})") from None
        except (OSError, ValueError, http.client.InvalidURL) as error:
            raise NoAnswer(f"nothing answers at {url} ({error or type(error).__name__})") from None
        except http.client.HTTPException:
            raise NoAnswer(f"what listens at {url} does not speak HTTP") from None
        finally:
            if connection is not None:
                connection.close()
        if response.status != http.HTTPStatus.OK:
            raise NoAnswer(f"{url} answers {response.status}: {_reason(content)}", response.status)
        return Reply(content, response.headers)

    def ask_json(self, path: str, deadline_s: float) -> Any:
        """GET a document.

        Raises:
            NoAnswer: As of :meth:`ask`, or it is no JSON.
        """
        reply = self.ask(path, deadline_s)
        try:
            return json.loads(reply.body)
        except (ValueError, RecursionError):
            raise NoAnswer(f"{self.url(path)} answers with something else than JSON") from None

    def _connection(self, deadline_s: float) -> http.client.HTTPConnection:
        if self.trust is None:
            return http.client.HTTPConnection(self.host, self.port, timeout=deadline_s)
        context = self.trust.context()
        return http.client.HTTPSConnection(self.host, self.port, timeout=deadline_s, context=context)


def _reason(content: bytes) -> str:
    """What an answer says went wrong: the text of its ``error``, or its beginning."""
    text = content.decode(errors="replace").strip()
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict) and isinstance(found.get("error"), str):
        text = found["error"]
    return text[:_LONGEST_REASON] or "nothing else"


def read_trust(given: Mapping[str, str | None], *, is_tls: bool = False) -> Trust | None:
    """What the flags say of TLS; None where they say nothing and the URL does not either.

    Raises:
        ConfigError: A certificate without an authority.
    """
    ca, cert, key = (given[name] or "" for name in ("tls_ca", "tls_cert", "tls_key"))
    if (cert or key) and not ca and not is_tls:
        raise ConfigError("--tls_cert and --tls_key need --tls_ca, by which the server is trusted")
    return Trust(ca, cert, key) if ca or is_tls else None


def target_of_url(text: str, given: Mapping[str, str | None], environment: Mapping[str, str]) -> Target:
    """The REST port that a URL names, such as ``http://127.0.0.1:8000`` or ``https://host/prefix``.

    Raises:
        ConfigError: It is no such URL.
    """
    try:
        parts = urllib.parse.urlsplit(text if "//" in text else f"http://{text}")
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"{text!r} is not valid: {error}") from None
    if parts.scheme not in _SCHEMES or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ConfigError(
            f"{text!r} is not valid; accepted: a URL such as http://127.0.0.1:8000, or https://HOST:PORT/PREFIX"
        )
    return Target(
        parts.hostname,
        _SCHEMES[parts.scheme] if port is None else port,
        parts.path.rstrip("/"),
        read_trust(given, is_tls=parts.scheme == "https"),
        read_key(given, environment),
    )
