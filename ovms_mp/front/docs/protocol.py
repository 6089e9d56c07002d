# SPDX-License-Identifier: Apache-2.0
"""The served documentation as transports see it; see :mod:`ovms_mp.front.served_protocol`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.front.endpoints import Route
    from ovms_mp.front.methods import Method
    from ovms_mp.front.openapi.description import Description
    from ovms_mp.front.served_protocol import HasService, MessageParts


class Documentation:
    """``/docs/``; ``--ui off`` leaves it out."""

    name = "docs"

    def methods(self, parts: MessageParts) -> Sequence[Method]:
        """None."""
        return ()

    def routes(self, front: HasService) -> Sequence[Route]:
        """All of them."""
        from ovms_mp.front.docs.rest import routes

        return routes(front)

    def description(self) -> Description:
        """What the paths mean."""
        from ovms_mp.front.docs.openapi import DESCRIPTION

        return DESCRIPTION
