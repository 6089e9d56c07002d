# SPDX-License-Identifier: Apache-2.0
"""The protocols that fronts speak, and what each of them is given and hands over. Transports know only this list.

A protocol is a folder beside this file. Its ``protocol.py`` imports nothing heavy: a gRPC front does not load what
reads JSON, nor a REST front what reads messages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ovms_mp.front.server.protocol import ServerItself
from ovms_mp.front.tfs.protocol import TensorFlowServing

if TYPE_CHECKING:
    from ovms_mp.front.endpoints import Route
    from ovms_mp.front.infer.arrivals import Arrival
    from ovms_mp.front.infer.leases import Lease
    from ovms_mp.front.methods import Method
    from ovms_mp.front.service import Service


@dataclass(frozen=True, slots=True)
class MessageParts:
    """What a protocol's methods are made from.

    Attributes:
        service: Answers.
        lease: Leases arena memory for a message that is arriving; raises where there is none.
        release: Gives such a lease back.
        memory: The whole arena.
        unpacked_limit: How long a request with tensors may become, by its packed octets.
        has_typed_outputs: Whether answers carry values one by one in typed fields (--grpc_output_encoding).
    """

    service: Service
    lease: Callable[[Arrival, int], Lease]
    release: Callable[[Lease], None]
    memory: memoryview
    unpacked_limit: Callable[[int], int]
    has_typed_outputs: bool = False


class HasService(Protocol):
    """A REST front. Its routes are made before it has its service, which it has when the first request comes."""

    @property
    def service(self) -> Service:
        """Answers."""


class ServedProtocol(Protocol):
    """A protocol's folder as the transports see it."""

    @property
    def name(self) -> str:
        """The folder's name, for settings, logs and counters."""

    def methods(self, parts: MessageParts) -> Sequence[Method]:
        """Its gRPC methods."""

    def routes(self, front: HasService) -> Sequence[Route]:
        """Its REST paths."""


PROTOCOLS: tuple[ServedProtocol, ...] = (
    TensorFlowServing(),
    ServerItself(),
)
"""All of them."""


def all_methods(parts: MessageParts) -> list[Method]:
    """The methods of all protocols, for a gRPC transport."""
    return [method for protocol in PROTOCOLS for method in protocol.methods(parts)]


def all_routes(front: HasService) -> list[Route]:
    """The routes of all protocols, for the REST transport."""
    return [route for protocol in PROTOCOLS for route in protocol.routes(front)]
