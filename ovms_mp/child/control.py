# SPDX-License-Identifier: Apache-2.0
"""A child's end of the control channel."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ovms_mp.errors import BootError, OvmsError, ProtocolError
from ovms_mp.wire.channels import Dealer
from ovms_mp.wire.codec import decode_to_child, encode
from ovms_mp.wire.messages import BootFailed, Hello, Welcome
from ovms_mp.wire.records import ErrorRecord

if TYPE_CHECKING:
    from ovms_mp.child.specs import ChildSpec
    from ovms_mp.wire.messages import ToChild, ToManager

_FAREWELL_LINGER_MS = 500
_WELCOME_WITHIN_S = 3600.0
"""Not ``--boot_timeout_s``, by which the manager judges the start: a front may have to wait until a long inference lets
go of a dead front's arena. A manager that dies takes this process with it, so this only bounds the wait for one that
hangs."""


class ControlLink:
    """Talks to the manager. Belongs to one thread."""

    def __init__(self, spec: ChildSpec, child_id: str) -> None:
        self._spec = spec
        self.child_id = child_id
        self.dealer = Dealer(spec.common.control_endpoint, child_id.encode())

    def say_hello(self) -> Welcome:
        """Send Hello and wait for the manager's Welcome.

        Raises:
            BootError: No answer within an hour; the manager hangs.
            ProtocolError: The answer is another message.
        """
        self.send(Hello(self.child_id, self._spec.kind, os.getpid()))
        payload = self.dealer.wait(_WELCOME_WITHIN_S)
        if payload is None:
            raise BootError(f"the manager did not answer within {_WELCOME_WITHIN_S:g} s")
        answer = decode_to_child(payload)
        if not isinstance(answer, Welcome):
            raise ProtocolError(f"expected Welcome, got {type(answer).__name__}")
        return answer

    def send(self, message: ToManager) -> None:
        """Queue a message; never blocks."""
        self.dealer.send(encode(message))

    def receive(self) -> ToChild | None:
        """The next message, or None when there is none now."""
        payload = self.dealer.receive()
        return None if payload is None else decode_to_child(payload)

    def wait(self, timeout_s: float) -> ToChild | None:
        """The next message, or None after the timeout."""
        payload = self.dealer.wait(timeout_s)
        return None if payload is None else decode_to_child(payload)

    def report_boot_failure(self, error: OvmsError) -> None:
        """Report to the manager why this process cannot start, and flush the message."""
        self.send(BootFailed(ErrorRecord.of(error)))
        self.close()

    def close(self) -> None:
        """Close once queued messages are sent, at most half a second later."""
        self.dealer.close(_FAREWELL_LINGER_MS)
