# SPDX-License-Identifier: Apache-2.0
"""Start and end of a REST front, as ASGI lifespan events: falcon calls them inside the worker's event loop."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING

from ovms_mp.child.control import ControlLink
from ovms_mp.errors import OvmsError
from ovms_mp.front.budget import BodyBudget
from ovms_mp.front.live.opening import open_page
from ovms_mp.front.protocols import all_routes
from ovms_mp.front.rest.answering import Answering
from ovms_mp.front.rest.connections import Connections
from ovms_mp.front.rest.direct import DIRECT, Direct
from ovms_mp.front.rest.origins import Origins
from ovms_mp.front.rest.secure import HANDSHAKES, rest_handshakes
from ovms_mp.front.session import FrontSession
from ovms_mp.front.tls.handshakes import handshakes_among
from ovms_mp.wire.process_counters import REFUSALS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from ovms_mp.child.specs import RestSpec
    from ovms_mp.front.access.proxies import TrustedProxies
    from ovms_mp.front.gate import Gate
    from ovms_mp.front.live.feed import PageFeed
    from ovms_mp.front.metrics.page import MetricsPage
    from ovms_mp.front.service import Service

_log = logging.getLogger(__name__)


class Lifespan:
    """Falcon middleware that owns the session of this process."""

    def __init__(self, spec: RestSpec) -> None:
        self.spec = spec
        self.bodies = BodyBudget(spec.limits.max_body_memory_bytes)
        self.routes = all_routes(self, without=() if spec.page is not None else ("page", "docs"))
        self.origins = Origins(spec.origins, has_admin_keys=spec.access.needs_admin_key)
        self.answering = Answering(self, self.origins)
        self.session: FrontSession
        self.page: PageFeed

    @property
    def service(self) -> Service:
        """What answers, once the session has been opened."""
        return self.session.service

    @property
    def metrics(self) -> MetricsPage:
        """What is told of the whole server."""
        return self.session.metrics

    @property
    def gate(self) -> Gate:
        """Lets calls in."""
        return self.session.gate

    @property
    def proxies(self) -> TrustedProxies:
        """Who may say for whom they speak."""
        return self.session.proxies

    def direct(self) -> Direct:
        """What takes requests with tensors past the application."""
        return Direct(self.routes, self.spec, self.answering, self.origins, self.bodies)

    async def process_startup(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        """Open the session; connections wait in the backlog until it is there."""
        control = ControlLink(self.spec, f"rest-{os.getpid()}")
        try:
            session = await FrontSession.open(self.spec, control)
            connections = Connections(self.bodies, self.spec.client_timeout_s)
            if self.spec.tls is not None:
                most = handshakes_among(connections.limit)
                connections.limit -= most
                handshakes = scope["state"][HANDSHAKES] = await rest_handshakes(self.spec.tls, most)
                handshakes.report_on(asyncio.get_running_loop())
        except OvmsError as error:
            _log.error("event=boot_failed error=%s", error)
            control.report_boot_failure(error)
            raise
        self.session = session
        if self.spec.page is not None:
            self.page = open_page(session, self.spec, self.spec.page)
            connections.at_stop.append(self.page.stop)
        connections.sweep_on(asyncio.get_running_loop())
        scope["state"]["connections"] = connections
        scope["state"][DIRECT] = self.direct()
        session.stages.watch(REFUSALS, connections.numbered_counts)
        session.report_ready()

    async def process_shutdown(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        """Close the session, after uvicorn has finished all requests."""
        await self.session.finish()
