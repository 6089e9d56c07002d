# SPDX-License-Identifier: Apache-2.0
"""KServe's REST calls: paths below ``/v2``, and handlers that read, call and write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.front.kserve.repository import rest as repository
from ovms_mp.front.kserve.settings import rest as settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.front.endpoints import Route
    from ovms_mp.front.served_protocol import HasService


def routes(front: HasService) -> Sequence[Route]:
    """All paths."""
    return [route for room in (repository, settings) for route in room.routes(front)]
