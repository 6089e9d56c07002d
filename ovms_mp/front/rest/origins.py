# SPDX-License-Identifier: Apache-2.0
"""What web pages of other origins may do with a browser: read answers where CORS allows it, but not change the server.

A page of any site may have its visitor's browser POST a plain text wherever that browser gets to, without asking first.
Browsers say in the request's header where it comes from; other clients, such as curl, say nothing and are not held up.
So what changes the server is refused for all origins but the server's own and those that ``--allowed_origins`` names;
``*``, the default as in OVMS, names none. The rules are those of Go's ``net/http.CrossOriginProtection``, and one more:
whoever owns a name can have it lead here when a browser asks for it again (DNS rebinding), and its pages are the
server's own then. So without keys a name that anybody may own is no own origin over plain HTTP, unless it is named;
over HTTPS the certificate tells.

CORS headers are for answers to browsers, which send ``Origin``. ``*`` among the methods and headers of a preflight is
answered with what it asks for: browsers do not take the star for ``Authorization``, or together with credentials.
Source: https://fetch.spec.whatwg.org/#http-cors-protocol
"""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import TYPE_CHECKING

import falcon

if TYPE_CHECKING:
    from falcon.asgi import Request, Response

    from ovms_mp.child.specs import OriginSpec
    from ovms_mp.front.access.proxies import TrustedProxies
    from ovms_mp.front.call_context import CallOrigin
    from ovms_mp.front.rest.compression import Asking, Changing

_ANY = "*"
_LONGEST = 100
_LONGEST_LIST = 1024
_MAX_AGE_S = 600
_EXPOSED = (
    "Endpoint-Load-Metrics, Inference-Header-Content-Length, Retry-After, WWW-Authenticate, X-Request-ID"
)
_NOBODYS = ("localhost", "local", "internal", "home.arpa")
"""Domains that nobody can register: RFC 6761, RFC 6762, ICANN's resolution 2024.07.29.06, RFC 8375."""
_WORDS = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:[ \t]*,[ \t]*[!#$%&'*+.^_`|~0-9A-Za-z-]+)*")


class Origins:
    """The rules of one server."""

    def __init__(self, spec: OriginSpec, *, has_admin_keys: bool = False) -> None:
        """Follow the settings.

        Args:
            spec: What they say of origins.
            has_admin_keys: Whether what changes the server needs a key, which no page has from its visitor's browser.
        """
        self._has_admin_keys = has_admin_keys
        self._is_any = _ANY in spec.origins
        self._named = frozenset(spec.origins) - {_ANY}
        self._methods = ", ".join(spec.methods)
        self._headers = ", ".join(spec.headers)
        self._allows_credentials = spec.allows_credentials

    @property
    def has_any(self) -> bool:
        """Whether pages of any other origin may read answers."""
        return self._is_any or bool(self._named)

    async def process_request(self, request: Request, response: Response) -> None:
        """Falcon's hook before it looks for a route: a preflight goes no further, as it has no key."""
        if request.method == "OPTIONS" and self.answers_preflight(request, response):
            response.complete = True

    async def process_response(
        self, request: Request, response: Response, _resource: object, _is_answered: bool
    ) -> None:
        """Falcon's hook behind every answer, failures too."""
        if not response.complete:
            self.set_headers(request, response)

    def set_headers(self, request: Asking, response: Changing) -> None:
        """Let the page that asks read the answer. PERF: 0.3 us for other clients."""
        if self._named:
            response.append_header("Vary", "Origin")
        origin = request.get_header("Origin")
        if origin is None or not (self._is_any or origin.lower() in self._named):
            return
        response.set_header("Access-Control-Allow-Origin", _ANY if self._is_any else origin)
        response.set_header("Access-Control-Expose-Headers", _EXPOSED)
        if self._allows_credentials:
            response.set_header("Access-Control-Allow-Credentials", "true")

    def answers_preflight(self, request: Request, response: Response) -> bool:
        """Answer a browser's question what a page may send; the same for every path. False for other requests."""
        method = request.get_header("Access-Control-Request-Method")
        if method is None or request.get_header("Origin") is None:
            return False
        self.set_headers(request, response)
        response.set_header("Content-Length", "0")
        if response.get_header("Access-Control-Allow-Origin") is None:
            return True
        asked = request.get_header("Access-Control-Request-Headers") or ""
        for name, allowed, wanted in (
            ("Access-Control-Allow-Methods", self._methods, method),
            ("Access-Control-Allow-Headers", self._headers, asked),
        ):
            value = wanted if allowed == _ANY else allowed
            if value and len(value) <= _LONGEST_LIST and _WORDS.fullmatch(value):
                response.set_header(name, value)
        response.set_header("Access-Control-Max-Age", str(_MAX_AGE_S))
        response.append_header("Vary", "Access-Control-Request-Method, Access-Control-Request-Headers")
        return True

    def refuse_other_sites(self, request: Asking, call: CallOrigin, proxies: TrustedProxies) -> None:
        """Raise if a page of another site has made a browser send the request.

        Raises:
            falcon.HTTPForbidden: It has.
        """
        site, origin = request.get_header("Sec-Fetch-Site"), request.get_header("Origin")
        if (site is None and origin is None) or site in ("same-origin", "none"):
            return
        if origin is not None:
            if origin.lower() in self._named:
                return
            host = origin.partition("://")[2]
            if site is None and host == (proxies.host_of(call.peer, call.metadata) or None):
                return
            if site is None and host == request.get_header("Host"):
                if self._has_admin_keys or origin.startswith("https:") or is_nobodys(host):
                    return
                raise falcon.HTTPForbidden(
                    description=f"a page at {host[:_LONGEST]} may not change this server: whoever owns that name can "
                    f"have it lead anywhere; ask by address, by HTTPS or with a key, or name {origin[:_LONGEST]} in "
                    f"--allowed_origins"
                )
        named = (
            f"Origin: {origin[:_LONGEST]}"
            if origin is not None
            else f"Sec-Fetch-Site: {str(site)[:_LONGEST]}"
        )
        raise falcon.HTTPForbidden(
            description=f"a page of another site may not change this server ({named}); name its origin in "
            f"--allowed_origins, or send the request without a browser, e.g. with curl"
        )


def is_nobodys(host: str) -> bool:
    """Whether a host, with or without a port, is no name that a stranger can own: an address, or a local name."""
    name = host.rpartition(":")[0] if re.fullmatch(r".*:\d*", host) else host
    name = name.removeprefix("[").removesuffix("]").rstrip(".").lower()
    try:
        ipaddress.ip_address(name)
    except ValueError:
        is_local = "." not in name or name.endswith(tuple(f".{domain}" for domain in _NOBODYS))
        return is_local or name == socket.gethostname().lower()
    return True
