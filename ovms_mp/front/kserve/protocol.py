# SPDX-License-Identifier: Apache-2.0
"""KServe v2 as transports see it; see :mod:`ovms_mp.front.served_protocol`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.front.endpoints import Route
    from ovms_mp.front.methods import Method
    from ovms_mp.front.openapi.description import Description
    from ovms_mp.front.served_protocol import HasService, MessageParts


class KServe:
    """GRPCInferenceService over gRPC, ``/v2/...`` over REST."""

    name = "kserve"

    def methods(self, parts: MessageParts) -> Sequence[Method]:
        """The service's methods."""
        from ovms_mp.front.kserve.methods import methods

        return methods(parts)

    def routes(self, front: HasService) -> Sequence[Route]:
        """The paths below ``/v2``."""
        from ovms_mp.front.kserve.rest import routes

        return routes(front)

    def description(self) -> Description:
        """What the paths mean."""
        from ovms_mp.front.kserve.openapi import DESCRIPTION

        return DESCRIPTION
