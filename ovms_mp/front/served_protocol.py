# SPDX-License-Identifier: Apache-2.0
"""What a protocol hands to transports, and what it is given for that; :mod:`ovms_mp.front.protocols` lists them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ovms_mp.front.gate import OPEN_GATE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ovms_mp.front.endpoints import Route
    from ovms_mp.front.gate import Gate
    from ovms_mp.front.infer.arrivals import Arrival
    from ovms_mp.front.infer.leases import Lease
    from ovms_mp.front.live.feed import PageFeed
    from ovms_mp.front.methods import Method
    from ovms_mp.front.metrics.page import MetricsPage
    from ovms_mp.front.openapi.description import Description
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
        gate: Lets in what a streaming call carries, message by message.
    """

    service: Service
    lease: Callable[[Arrival, int], Lease]
    release: Callable[[Lease], None]
    memory: memoryview
    unpacked_limit: Callable[[int], int]
    has_typed_outputs: bool = False
    gate: Gate = OPEN_GATE


class HasService(Protocol):
    """A REST front. Its routes are made before it has its service, which it has when the first request comes."""

    @property
    def service(self) -> Service:
        """Answers."""

    @property
    def metrics(self) -> MetricsPage:
        """What is told of the whole server."""

    @property
    def page(self) -> PageFeed:
        """What open pages are told."""


class ServedProtocol(Protocol):
    """A protocol's folder as the transports see it."""

    @property
    def name(self) -> str:
        """The folder's name, for settings, logs and counters."""

    def methods(self, parts: MessageParts) -> Sequence[Method]:
        """Its gRPC methods."""

    def routes(self, front: HasService) -> Sequence[Route]:
        """Its REST paths."""

    def description(self) -> Description:
        """What they mean."""
