# SPDX-License-Identifier: Apache-2.0
"""Which process serves which device now, where it takes tasks, and the deadline of what it loads."""

from __future__ import annotations

import logging
import signal
from typing import TYPE_CHECKING, Protocol

from ovms_mp.manager.children import Child, ChildState
from ovms_mp.wire.messages import LoadModel, UnloadModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovms_mp.manager.specs import SpecMaker
    from ovms_mp.manager.timers import Timers
    from ovms_mp.wire.messages import ToChild
    from ovms_mp.wire.specs import WorkerSpec

_log = logging.getLogger(__name__)


class LoadWatch(Protocol):
    """Who knows whether a load is still going on."""

    def is_loading(self, handle: int) -> bool:
        """Whether this load has neither succeeded nor failed."""


class WorkerPool:
    """The READY worker of each device; the catalogue's gate to them."""

    def __init__(
        self,
        devices: tuple[str, ...],
        send: Callable[[Child, ToChild], None],
        timers: Timers,
        load_timeout_s: float,
    ) -> None:
        """Prepare for these device strings.

        Args:
            devices: One worker each.
            send: Sends a message to a child.
            timers: The manager's.
            load_timeout_s: A worker that takes longer to load a version is killed.
        """
        self._devices = devices
        self._send = send
        self._timers = timers
        self._load_timeout_s = load_timeout_s
        self._ready: dict[str, Child] = {}
        self._endpoints: dict[str, str] = {}
        self.watch: LoadWatch | None = None

    def role_name(self, device: str) -> str:
        """The name of the role that serves a device."""
        return f"worker-{self._devices.index(device)}"

    def device_of(self, child: Child) -> str:
        """The device that a worker serves."""
        return self._devices[int(child.name.rpartition("-")[2])]

    def make_spec(self, specs: SpecMaker, child_id: str, device: str) -> WorkerSpec:
        """The command line of a new process, whose endpoint is remembered."""
        spec = specs.worker(child_id, device)
        self._endpoints[child_id] = spec.data_endpoint
        return spec

    def became_ready(self, child: Child) -> None:
        """From now on this process serves its device."""
        self._ready[self.device_of(child)] = child

    def exited(self, child: Child) -> None:
        """The process is gone."""
        self._endpoints.pop(child.child_id, None)
        device = self.device_of(child)
        if self._ready.get(device) is child:
            del self._ready[device]

    def are_all_ready(self) -> bool:
        """Whether every device has its worker."""
        return len(self._ready) == len(self._devices)

    def endpoints(self) -> tuple[str, ...]:
        """Where the READY workers take tasks."""
        return tuple(self._endpoints[child.child_id] for child in self._ready.values())

    def endpoint(self, device: str) -> str:
        """Where the device's worker takes tasks; empty while none is READY."""
        child = self._ready.get(device)
        return self._endpoints[child.child_id] if child else ""

    def send(self, device: str, message: LoadModel | UnloadModel) -> None:
        """Send a message to the device's worker; without one there is nothing to load on or unload from."""
        child = self._ready.get(device)
        if child is None:
            return
        self._send(child, message)
        if isinstance(message, LoadModel):
            self._timers.call_after(self._load_timeout_s, lambda: self._check_load(child, message))

    def _check_load(self, child: Child, message: LoadModel) -> None:
        is_loading = self.watch is not None and self.watch.is_loading(message.handle)
        if is_loading and child.state is ChildState.READY:
            _log.error(
                "event=load_hangs model=%s version=%d not loaded within %g s (--load_timeout_s); killing %s",
                message.name,
                message.version,
                self._load_timeout_s,
                child.child_id,
            )
            child.signal(signal.SIGKILL)
