# SPDX-License-Identifier: Apache-2.0
"""A front's life, the same for both protocols: hello, arena, snapshots, signs of life, drain."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from typing import TYPE_CHECKING

from ovms_mp.errors import BootError
from ovms_mp.front.descriptors import DescriptorWatch
from ovms_mp.front.dispatch import Dispatcher
from ovms_mp.front.reload import Reloads
from ovms_mp.front.routing import RoutingTable
from ovms_mp.front.service import Service
from ovms_mp.wire.arena import Arena
from ovms_mp.wire.control import ControlLink
from ovms_mp.wire.heartbeat import HeartbeatThread
from ovms_mp.wire.messages import ConfigReloaded, Drain, Drained, Ready, RoutingSnapshot, SnapshotApplied

if TYPE_CHECKING:
    from ovms_mp.errors import OvmsError
    from ovms_mp.wire.messages import ReloadConfig
    from ovms_mp.wire.specs import FrontSpec

_log = logging.getLogger(__name__)

_TRIM_INTERVAL_S = 10.0


class FrontSession:
    """Ties one front process to the manager and to the workers. Created inside the running event loop."""

    def __init__(self, spec: FrontSpec, child_id: str) -> None:
        self._spec = spec
        self._loop = asyncio.get_running_loop()
        self._control = ControlLink(spec, child_id)
        self._ticks = 0
        self._descriptors = DescriptorWatch()
        self._has_table = asyncio.Event()
        self._reloads = Reloads(self._send, spec.limits.request_timeout_s)
        self._heartbeat = HeartbeatThread(
            spec.common.control_endpoint,
            child_id,
            spec.common.heartbeat_interval_s,
            lambda: (self._ticks, 1, 0.0),
        )
        self.drain_deadline_ns = 0
        self.drain_requested = asyncio.Event()
        self.service: Service
        self.dispatcher: Dispatcher

    async def start(self) -> None:
        """Introduce this front, map its arena and wait for the first snapshot.

        Raises:
            BootError: The manager does not answer in time.
        """
        welcome = self._control.say_hello()
        arena = Arena(self._spec.common.arenas[welcome.arena])
        address = f"{welcome.arena}:{welcome.arena_epoch}".encode()
        self.dispatcher = Dispatcher(arena, address, self._loop)
        self.service = Service(
            self.dispatcher,
            self._spec.limits.request_timeout_s,
            self._spec.limits.retry_window_s,
            self.reload_config,
        )
        self._heartbeat.start()
        self._tick()
        self._trim()
        self._loop.add_reader(self._control.dealer.fileno(), self._take_control)
        self._take_control()
        try:
            async with asyncio.timeout(self._spec.common.boot_timeout_s):
                await self._has_table.wait()
        except TimeoutError:
            raise BootError(
                f"no routing snapshot within {self._spec.common.boot_timeout_s:g} s (--boot_timeout_s)"
            ) from None

    def report_boot_failure(self, error: OvmsError) -> None:
        """Tell the manager why this front cannot start."""
        self._control.report_boot_failure(error)

    def report_ready(self, detail: str = "") -> None:
        """Tell the manager that requests are answered from now on."""
        # PERF: what has been imported stays for ever; a collection that walks it holds all requests up for 4 ms.
        gc.freeze()
        self._send(Ready(detail))

    async def reload_config(self, deadline_ns: int = 0) -> ConfigReloaded:
        """Have the manager look at the configuration and the repositories now, and wait until that is done.

        Several may be under way; the manager answers each.

        Args:
            deadline_ns: Monotonic moment after which nobody waits; 0 for the server's own limit.

        Raises:
            Draining: The server is stopping.
            DeadlineExceeded: It was not done in time.
        """
        return await self._reloads.ask(deadline_ns)

    async def finish(self) -> None:
        """Wait until nothing is in flight, or the drain's deadline; then say goodbye and close."""
        self._reloads.end()
        await self.dispatcher.wait_idle((self.drain_deadline_ns - time.monotonic_ns()) / 1e9)
        self._send(Drained())
        self._heartbeat.stop()
        self._loop.remove_reader(self._control.dealer.fileno())
        self.dispatcher.close()
        self._control.close()

    def _send(self, message: Ready | ReloadConfig | Drained | SnapshotApplied) -> None:
        self._control.send(message)
        # SAFETY: sending can consume the edge of the edge-triggered descriptor.
        self._loop.call_soon(self._take_control)

    def _take_control(self) -> None:
        if self._control.dealer.is_closed:
            return
        while (message := self._control.receive()) is not None:
            match message:
                case RoutingSnapshot():
                    table = RoutingTable(message)
                    self.service.replace_table(table)
                    self._has_table.set()
                    self._send(SnapshotApplied(table.epoch))
                    if table.is_draining:
                        self._reloads.end()
                case ConfigReloaded():
                    self._reloads.take(message)
                case Drain(deadline_ns=deadline_ns):
                    self.drain_deadline_ns = deadline_ns
                    self._reloads.end()
                    self.drain_requested.set()
                case _:
                    _log.warning("event=unexpected_message type=%s", type(message).__name__)

    def _tick(self) -> None:
        """Progress of this front is that its loop turns."""
        self._ticks += 1
        self._descriptors.look()
        self._loop.call_later(self._spec.common.heartbeat_interval_s, self._tick)

    def _trim(self) -> None:
        self.dispatcher.trim()
        self._loop.call_later(_TRIM_INTERVAL_S, self._trim)
