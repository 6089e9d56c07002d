# SPDX-License-Identifier: Apache-2.0
"""Messages of the children, from the control socket to the part of the manager that each is for."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol

from ovms_mp.defects import contain
from ovms_mp.manager.models.mishaps import make_up_for
from ovms_mp.wire.codec import decode_to_manager
from ovms_mp.wire.messages import Heartbeat, Hello

if TYPE_CHECKING:
    from ovms_mp.manager.children.child import Child
    from ovms_mp.manager.children.control import ControlChannel
    from ovms_mp.manager.children.supervisor import Supervisor
    from ovms_mp.manager.models.deployments import Deployments
    from ovms_mp.manager.timers import Timers

_GREET_AGAIN_S = 1.0


class Listener(Protocol):
    """Handles messages of children."""

    def greet(self, hello: Hello) -> None:
        """Handle a Hello, possibly of a process that the manager did not start."""

    def beat(self, child: Child, message: Heartbeat) -> None:
        """Handle a heartbeat."""

    def take_message(self, child: Child, message: object) -> None:
        """Handle any other message."""


class Inbox:
    """Decodes messages and finds their senders; a failure with one message does not affect the others."""

    def __init__(
        self,
        control: ControlChannel,
        supervisor: Supervisor,
        deployments: Deployments,
        timers: Timers,
        listener: Listener,
    ) -> None:
        self._control = control
        self._supervisor = supervisor
        self._deployments = deployments
        self._timers = timers
        self._listener = listener

    def take(self) -> None:
        """Dispatch all messages that have been received."""
        while (received := self._control.receive()) is not None:
            name, payload = received
            contain("manager.message", name, self._take_payload, name, payload)

    def _take_payload(self, name: str, payload: bytes) -> None:
        message = decode_to_manager(payload)
        if isinstance(message, (Heartbeat, Hello)):
            name = message.child_id
        child = self._supervisor.find(name)
        listener = self._listener
        if isinstance(message, Hello):
            is_followed = contain("manager.message", name, listener.greet, message)
        elif child is None:
            return
        elif isinstance(message, Heartbeat):
            is_followed = contain("manager.message", name, listener.beat, child, message)
        else:
            is_followed = contain("manager.message", name, listener.take_message, child, message)
        if is_followed:
            return
        if child is not None:
            make_up_for(child, message, self._deployments, self._control)
        elif isinstance(message, Hello):  # Of a REST front, which its arbiter has started.
            self._timers.call_after(_GREET_AGAIN_S, partial(listener.greet, message))
