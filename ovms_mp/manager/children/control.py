# SPDX-License-Identifier: Apache-2.0
"""The manager's end of the control channel: the one way to send a message to a child."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.wire.codec import encode

if TYPE_CHECKING:
    from ovms_mp.manager.children.child import Child
    from ovms_mp.wire.channels import Router
    from ovms_mp.wire.messages import ToChild


class ControlChannel:
    """Addresses children by their ids. What is sent to one that is gone is dropped."""

    def __init__(self, router: Router) -> None:
        self._router = router

    def send(self, child: Child, message: ToChild) -> None:
        """Send a message."""
        self.send_payload(child, encode(message))

    def send_payload(self, child: Child, payload: bytes) -> None:
        """Send a message that was encoded once for several children."""
        self._router.send(child.child_id.encode(), payload)

    def receive(self) -> tuple[str, bytes] | None:
        """The next message that has come, with its sender's id; None when there is none now."""
        received = self._router.receive()
        return None if received is None else (received[0].decode(errors="replace"), received[1])
