# SPDX-License-Identifier: Apache-2.0
"""What web pages of other origins may do: CORS headers, preflights, and changes of the server."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import falcon
import falcon.asgi
import falcon.testing
import pytest

from ovms_mp.child.specs import OriginSpec
from ovms_mp.front.access.proxies import TrustedProxies
from ovms_mp.front.rest.origins import Origins, is_nobodys

from ..callers import Caller

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from falcon.asgi import Request, Response

A, B = "https://a.example", "https://b.example"
ANY = OriginSpec(origins=("*",), methods=("*",), headers=("*",))
NAMED = OriginSpec(origins=(A,), methods=("GET", "POST"), headers=("X-One",), allows_credentials=True)


class Resource:
    """Answers, fails, or is changed."""

    def __init__(self, origins: Origins, call: Caller) -> None:
        self._origins = origins
        self._call = call

    async def on_get(self, request: Request, response: Response) -> None:
        if request.path == "/fails":
            raise falcon.HTTPBadRequest

    async def on_post(self, request: Request, response: Response) -> None:
        self._origins.refuse_other_sites(request, self._call, TrustedProxies(("10.0.0.0/8",)))


def ask(
    spec: OriginSpec,
    verb: str,
    path: str,
    headers: Mapping[str, str],
    *sent: tuple[str, str],
    has_admin_keys: bool = False,
) -> Any:  # Any: falcon's Result, whose attributes are untyped.
    origins = Origins(spec, has_admin_keys=has_admin_keys)
    app: falcon.asgi.App[Request, Response] = falcon.asgi.App(middleware=[origins])
    for place in ("/", "/fails"):
        app.add_route(place, Resource(origins, Caller(metadata=sent)))
    return falcon.testing.TestClient(app).simulate_request(verb, path, headers=dict(headers))


def preflight(origin: str, method: str = "PUT", headers: str = "authorization") -> dict[str, str]:
    return {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": headers,
    }


@pytest.mark.parametrize("path", ["/", "/fails", "/nowhere"])
def test_every_answer_to_a_page_says_whether_it_may_be_read(path: str) -> None:
    assert ask(ANY, "GET", path, {"Origin": B}).headers["access-control-allow-origin"] == "*"
    named = ask(NAMED, "GET", path, {"Origin": A}).headers
    assert named["access-control-allow-origin"] == A
    assert named["access-control-allow-credentials"] == "true"
    assert "Origin" in named["vary"]
    stranger = ask(NAMED, "GET", path, {"Origin": B}).headers
    assert "access-control-allow-origin" not in stranger
    assert "Origin" in stranger["vary"]


@pytest.mark.parametrize("spec", [ANY, NAMED, OriginSpec()])
def test_other_clients_hear_nothing_of_it(spec: OriginSpec) -> None:
    assert not [name for name in ask(spec, "GET", "/", {}).headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", ["/", "/nowhere"])
def test_a_preflight_is_answered_on_every_path(path: str) -> None:
    reply = ask(ANY, "OPTIONS", path, preflight(B))

    assert (reply.status_code, reply.content) == (200, b"")
    assert reply.headers["access-control-allow-methods"] == "PUT"
    assert reply.headers["access-control-allow-headers"] == "authorization"


def test_a_preflight_hears_of_what_is_allowed() -> None:
    headers = ask(NAMED, "OPTIONS", "/", preflight(A)).headers
    stranger = ask(NAMED, "OPTIONS", "/", preflight(B))

    assert headers["access-control-allow-methods"] == "GET, POST"
    assert headers["access-control-allow-headers"] == "X-One"
    assert (stranger.status_code, "access-control-allow-methods" in stranger.headers) == (200, False)


@pytest.mark.parametrize("asked", ["a b", "a;b", "a" * 2000])
def test_odd_words_are_not_sent_back(asked: str) -> None:
    assert "access-control-allow-headers" not in ask(ANY, "OPTIONS", "/", preflight(B, headers=asked)).headers


@pytest.mark.parametrize(
    ("spec", "headers", "status"),
    [
        (ANY, {}, 200),
        (ANY, {"Origin": B}, 403),
        (ANY, {"Origin": B, "Sec-Fetch-Site": "cross-site"}, 403),
        (ANY, {"Sec-Fetch-Site": "same-site"}, 403),
        (ANY, {"Origin": "null"}, 403),
        (ANY, {"Origin": B, "Sec-Fetch-Site": "same-origin"}, 200),
        (ANY, {"Sec-Fetch-Site": "none"}, 200),
        (NAMED, {"Origin": A, "Sec-Fetch-Site": "cross-site"}, 200),
        (NAMED, {"Origin": A.upper()}, 200),
        (NAMED, {"Origin": B}, 403),
    ],
)
def test_who_may_change_the_server(spec: OriginSpec, headers: dict[str, str], status: int) -> None:
    assert ask(spec, "POST", "/", headers).status_code == status


@pytest.mark.parametrize(
    ("host", "is_own"),
    [
        ("10.0.0.7:8000", True),
        ("[::1]:8000", True),
        ("localhost:8000", True),
        ("gpu7:8000", True),
        ("models.internal", True),
        ("gpu7.local.:8000", True),
        (socket.gethostname(), True),
        ("evil.example.com:8000", False),
        ("evil.example.com", False),
        ("10.0.0.7.evil.example.com:8000", False),
        ("evil.example.com.", False),
        ("internal.example:1", False),
    ],
)
def test_a_name_that_may_be_made_to_lead_here_is_no_own_origin(host: str, is_own: bool) -> None:
    assert is_nobodys(host) is is_own


def test_pages_of_the_servers_own_host() -> None:
    """The client's host is one that somebody owns, who may have it lead here (DNS rebinding)."""
    own = {"Origin": "http://falconframework.org"}
    refused = ask(ANY, "POST", "/", own)

    assert refused.status_code == 403
    assert "name http://falconframework.org in --allowed_origins" in refused.json["description"]
    assert ask(OriginSpec(origins=(own["Origin"],)), "POST", "/", own).status_code == 200
    assert ask(ANY, "POST", "/", own, has_admin_keys=True).status_code == 200
    assert ask(ANY, "POST", "/", {"Origin": "https://falconframework.org"}).status_code == 200


def test_behind_a_trusted_proxy_the_host_is_the_one_that_was_asked_for() -> None:
    sent = ("x-forwarded-host", "b.example")

    assert ask(ANY, "POST", "/", {"Origin": B}, sent).status_code == 200
    assert ask(ANY, "POST", "/", {"Origin": A}, sent).status_code == 403
