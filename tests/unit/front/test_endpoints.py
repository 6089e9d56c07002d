# SPDX-License-Identifier: Apache-2.0
"""Routes of one path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.front.endpoints import Answer, Endpoint, FixedRoute

if TYPE_CHECKING:
    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.endpoints import RestRequest


async def handler(request: RestRequest, context: CallContext) -> Answer:
    raise AssertionError("it is not called here")


def test_a_fixed_path_has_the_methods_that_it_was_given_and_head_beside_get() -> None:
    get, post = Endpoint(handler, "p", "Get"), Endpoint(handler, "p", "Post", takes_body=True)
    route = FixedRoute("/v1/x", {"GET": get, "POST": post})

    assert route.template == "/v1/x"
    assert [route.find(verb, b"/v1/x") for verb in ("GET", "POST", "PUT")] == [get, post, None]
    assert route.allowed(b"/v1/x") == ("GET", "POST", "HEAD")
    assert FixedRoute("/v1/x", {"POST": post}).allowed(b"/v1/x") == ("POST",)


def test_an_answer_is_json_unless_it_says_otherwise() -> None:
    assert Answer(b"{}") == Answer(b"{}", 200, "application/json", ())
