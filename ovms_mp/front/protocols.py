# SPDX-License-Identifier: Apache-2.0
"""The protocols that fronts speak. Transports know only this list.

A protocol is a folder beside this file. Its ``protocol.py`` imports nothing heavy: a gRPC front does not load what
reads JSON, nor a REST front what reads messages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.front.kserve.protocol import KServe
from ovms_mp.front.server.protocol import ServerItself
from ovms_mp.front.tfs.protocol import TensorFlowServing

if TYPE_CHECKING:
    from ovms_mp.front.endpoints import Route
    from ovms_mp.front.methods import Method
    from ovms_mp.front.served_protocol import HasService, MessageParts, ServedProtocol

PROTOCOLS: tuple[ServedProtocol, ...] = (
    TensorFlowServing(),
    KServe(),
    ServerItself(),
)
"""All of them."""


def all_methods(parts: MessageParts) -> list[Method]:
    """The methods of all protocols, for a gRPC transport."""
    return [method for protocol in PROTOCOLS for method in protocol.methods(parts)]


def all_routes(front: HasService) -> list[Route]:
    """The routes of all protocols, for the REST transport."""
    return [route for protocol in PROTOCOLS for route in protocol.routes(front)]
