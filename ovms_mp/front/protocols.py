# SPDX-License-Identifier: Apache-2.0
"""The protocols that fronts speak. Transports know only this list.

A protocol is a folder beside this file. Its ``protocol.py`` imports nothing heavy: a gRPC front does not load what
reads JSON, nor a REST front what reads messages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.front.docs.protocol import Documentation
from ovms_mp.front.kserve.protocol import KServe
from ovms_mp.front.methods import service_of
from ovms_mp.front.page.protocol import LivePage
from ovms_mp.front.server.protocol import ServerItself
from ovms_mp.front.tfs.protocol import TensorFlowServing

if TYPE_CHECKING:
    from collections.abc import Collection

    from ovms_mp.front.endpoints import Route
    from ovms_mp.front.methods import Method
    from ovms_mp.front.openapi.description import Description
    from ovms_mp.front.served_protocol import HasService, MessageParts, ServedProtocol

PROTOCOLS: tuple[ServedProtocol, ...] = (
    TensorFlowServing(),
    KServe(),
    ServerItself(),
    LivePage(),
    Documentation(),
)
"""All of them."""


def all_methods(parts: MessageParts) -> list[Method]:
    """The methods of all protocols and of gRPC's standard services, for a gRPC transport."""
    from ovms_mp.front.health import methods as health
    from ovms_mp.front.reflection import methods as reflection

    methods = [method for protocol in PROTOCOLS for method in protocol.methods(parts)]
    services = {service_of(method.path) for method in methods}
    methods += health.methods(parts.service, services)
    methods += reflection.methods({*services, health.SERVICE})
    return methods


def all_routes(front: HasService, without: Collection[str] = ()) -> list[Route]:
    """The routes of all protocols, for the REST transport.

    Args:
        front: Answers.
        without: Names of protocols that are switched off.
    """
    from ovms_mp.front.openapi.document import description_route

    routes = [
        route for protocol in PROTOCOLS if protocol.name not in without for route in protocol.routes(front)
    ]
    return [*routes, description_route(routes, descriptions)]


def descriptions() -> dict[str, Description]:
    """What the paths of each protocol mean, by its name."""
    return {protocol.name: protocol.description() for protocol in PROTOCOLS}
