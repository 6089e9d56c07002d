# SPDX-License-Identifier: Apache-2.0
"""Whether the server lives, and whether it and its models take requests: the answer to every protocol's probes.

*Live* says that starting the server again would not help: the manager speaks, and no device is without a worker for
good. It never waits for anything, least of all for a load. *Ready* says that requests may be sent here: what
``--ready_when`` asks for is there, and no stop was asked for. A server that was asked to stop is not ready before it
begins to refuse anything.

The manager decides what can be decided once for all fronts, and tells it with snapshots and with its beats.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ovms_mp.errors import VersionNotFound
from ovms_mp.front.routing import not_found_text
from ovms_mp.model.status import State

if TYPE_CHECKING:
    from ovms_mp.front.clock import Clock
    from ovms_mp.front.routing import RoutingTable, VersionRoute

_STOPPING = "the server is stopping"


class Readiness:
    """One front's view. All calls come from its event loop."""

    def __init__(self, table: RoutingTable, patience_s: float, clock_ns: Clock) -> None:
        """Begin with a manager that has just spoken.

        Args:
            table: The snapshot to begin with.
            patience_s: A manager that says nothing for so long does not live.
            clock_ns: Monotonic time.
        """
        self._table = table
        self._patience_s = patience_s
        self._clock_ns = clock_ns
        self._heard_ns = clock_ns()
        self._lost_devices: tuple[str, ...] = ()
        self._changed = asyncio.Event()

    def hear(self) -> None:
        """The manager has said something."""
        self._heard_ns = self._clock_ns()

    def note_lost_devices(self, devices: tuple[str, ...]) -> None:
        """Devices whose models cannot be served, as no worker for them can be started any more."""
        self._lost_devices = devices

    def replace_table(self, table: RoutingTable) -> None:
        """Take a new snapshot; whoever waits for a change looks again."""
        self._table = table
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_for_change(self) -> None:
        """Wait until readiness of the server or of a model may have changed."""
        await self._changed.wait()

    def why_not_live(self) -> str:
        """Why the server does not live; empty if it does."""
        silence_s = (self._clock_ns() - self._heard_ns) / 1e9
        if silence_s > self._patience_s:
            return f"the manager process has said nothing for {silence_s:.1f} s (--heartbeat_timeout_s)"
        if self._lost_devices:
            return f"no inference worker can be started for {', '.join(self._lost_devices)}"
        return ""

    def why_not_ready(self) -> str:
        """Why no request should be sent here; empty if they may."""
        if self._table.is_draining:
            return _STOPPING
        return self._table.unready

    @property
    def is_live(self) -> bool:
        """Whether starting the server again would not help."""
        return not self.why_not_live()

    @property
    def is_ready(self) -> bool:
        """Whether requests may be sent here."""
        return not self.why_not_ready()

    def why_model_not_ready(self, name: str, version: int) -> str:
        """Why a version takes no requests; empty if it does.

        Args:
            name: The model.
            version: Its version; 0 for the default.

        Raises:
            ModelNotFound: No such model.
            VersionNotFound: The model never had such a version.
        """
        model = self._table.model(name)
        if self._table.is_draining:
            return _STOPPING
        route = model.versions.get(version or model.default_version)
        if route is not None:
            return _why_not(route)
        if version:
            raise VersionNotFound(
                f"{not_found_text(name, version)}; known versions: {sorted(model.versions)}"
            )
        return f"model {name!r} has no version that is available"

    def is_model_ready(self, name: str, version: int) -> bool:
        """Whether a version takes requests; see :meth:`why_model_not_ready` for what it raises."""
        return not self.why_model_not_ready(name, version)


def _why_not(route: VersionRoute) -> str:
    if route.status.state is State.AVAILABLE and route.endpoints:
        return ""
    return route.unavailable().message
