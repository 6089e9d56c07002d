# SPDX-License-Identifier: Apache-2.0
"""Statistics over gRPC."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.front.kserve._proto import kserve_pb2 as kserve
from ovms_mp.front.kserve.small_method import small_method
from ovms_mp.front.kserve.statistics.calls import STATISTICS, statistics
from ovms_mp.front.protobuf.parts import small_request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.methods import Method, Octets
    from ovms_mp.front.served_protocol import MessageParts


def methods(parts: MessageParts) -> Sequence[Method]:
    """The methods of this room."""

    async def model_statistics(request: Octets, context: CallContext) -> bytes:
        """ModelStatisticsRequest to ModelStatisticsResponse."""
        message = small_request(request, kserve.ModelStatisticsRequest)
        found = await statistics(parts.service, message.name, message.version)
        response = kserve.ModelStatisticsResponse(model_stats=found)
        return response.SerializeToString()

    return (small_method(STATISTICS, model_statistics),)
