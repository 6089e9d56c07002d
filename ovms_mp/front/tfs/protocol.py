# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Serving as transports see it; see :mod:`ovms_mp.front.served_protocol`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.front.endpoints import Route
    from ovms_mp.front.methods import Method
    from ovms_mp.front.openapi.description import Description
    from ovms_mp.front.served_protocol import HasService, MessageParts


class TensorFlowServing:
    """PredictionService and ModelService over gRPC, ``/v1/models/...`` over REST."""

    name = "tfs"

    def methods(self, parts: MessageParts) -> Sequence[Method]:
        """The services' methods."""
        from ovms_mp.front.tfs.methods import methods

        return methods(parts)

    def routes(self, front: HasService) -> Sequence[Route]:
        """The paths of models."""
        from ovms_mp.front.tfs.rest import routes

        return routes(front)

    def description(self) -> Description:
        """What the paths mean."""
        from ovms_mp.front.tfs.openapi import DESCRIPTION

        return DESCRIPTION
