# SPDX-License-Identifier: Apache-2.0
"""Statistics over REST: ``GET /v2/models[/NAME[/versions/N]]/stats``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ovms_mp.front.endpoints import Answer, Endpoint, FixedRoute
from ovms_mp.front.kserve.calls import PROTOCOL
from ovms_mp.front.kserve.statistics.calls import STATISTICS, statistics
from ovms_mp.front.kserve.targets import PREFIX, target_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.endpoints import RestRequest, Route
    from ovms_mp.front.served_protocol import HasService

_WORD = "stats"


def routes(front: HasService) -> Sequence[Route]:
    """Of all models."""

    async def answer(request: RestRequest, context: CallContext) -> Answer:
        return await _answer(front, "", "")

    return (FixedRoute(f"{PREFIX}{_WORD}", {"GET": Endpoint(answer, PROTOCOL, STATISTICS)}),)


def model_endpoints(front: HasService) -> Mapping[tuple[str, str], Endpoint]:
    """Behind a model or its version."""

    async def answer(request: RestRequest, context: CallContext) -> Answer:
        target = target_of(request.raw_path)
        return await _answer(front, target.name, target.version)

    return {(_WORD, "GET"): Endpoint(answer, PROTOCOL, STATISTICS)}


async def _answer(front: HasService, name: str, version: str) -> Answer:
    found = await statistics(front.service, name, version)
    return Answer(msgspec.json.encode({"model_stats": found}))
