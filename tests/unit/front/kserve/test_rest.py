# SPDX-License-Identifier: Apache-2.0
"""Which call a path below ``/v2`` means, and with which HTTP methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from ovms_mp.front.kserve.rest import ModelRoute, routes
from ovms_mp.front.metrics.page import MetricsPage

if TYPE_CHECKING:
    from ovms_mp.front.endpoints import Route
    from ovms_mp.front.live.feed import PageFeed
    from ovms_mp.front.service import Service


class Front:
    metrics = MetricsPage((), ())
    page = cast("PageFeed", None)

    @property
    def service(self) -> Service:
        raise AssertionError("no path needs the service to be found")


def route_of(template: str) -> Route:
    return next(route for route in routes(Front()) if route.template == template)


@pytest.mark.parametrize(
    ("verb", "path", "name", "allowed"),
    [
        ("GET", "m", "ModelMetadata", ("GET", "HEAD")),
        ("GET", "m/", "ModelMetadata", ("GET", "HEAD")),
        ("GET", "", "ModelList", ("GET", "HEAD")),
        ("GET", "a/b/versions/1", "ModelMetadata", ("GET", "HEAD")),
        ("GET", "m/ready", "ModelReady", ("GET", "HEAD")),
        ("GET", "m/versions/1/config", "ModelConfig", ("GET", "HEAD")),
        ("POST", "m/infer", "ModelInfer", ("POST",)),
        ("GET", "m/infer", None, ("POST",)),
        ("PUT", "m/infer", None, ("POST",)),
        ("POST", "m/ready", None, ("GET", "HEAD")),
        ("POST", "m/generate", "Unknown", ("GET", "HEAD")),
        ("DELETE", "m", None, ("GET", "HEAD")),
    ],
)
def test_who_answers(verb: str, path: str, name: str | None, allowed: tuple[str, ...]) -> None:
    route = cast("ModelRoute", route_of(ModelRoute.template))
    raw_path = f"/v2/models/{path}".encode()
    endpoint = route.find(verb, raw_path)

    assert (endpoint and endpoint.name) == name
    assert endpoint is None or (endpoint.protocol, endpoint.takes_body) == ("kserve", name == "ModelInfer")
    assert route.allowed(raw_path) == allowed


@pytest.mark.parametrize("path", ["/", "/v2", "/v2/", "/v2/models", "/v2/health/live", "/v2/health/ready"])
def test_fixed_paths(path: str) -> None:
    route = route_of(path)
    assert route.find("GET", path.encode()) is not None
    assert route.find("POST", path.encode()) is None


def test_no_path_is_there_twice() -> None:
    templates = [route.template for route in routes(Front())]
    assert len(set(templates)) == len(templates)
