# SPDX-License-Identifier: Apache-2.0
"""The manager's end of the control channel. No socket."""

from __future__ import annotations

from collections import deque

from ovms_mp.manager.children.child import Child
from ovms_mp.manager.children.control import ControlChannel
from ovms_mp.manager.children.kinds import Kind
from ovms_mp.wire.codec import encode
from ovms_mp.wire.messages import Drain

from ..fakes import Clock, Router


class Inbox(Router):
    """A socket at which messages have come."""

    def __init__(self, *received: tuple[bytes, bytes]) -> None:
        super().__init__()
        self._received = deque(received)

    def receive(self) -> tuple[bytes, bytes] | None:
        return self._received.popleft() if self._received else None


def test_a_message_goes_to_the_childs_id_encoded_now_or_before() -> None:
    router = Inbox()
    control = ControlChannel(router)  # type: ignore[arg-type]  # only sends
    child = Child("grpc-0", "grpc-0.2", Kind.GRPC, 2**22 + 1, -1, None, Clock())
    control.send(child, Drain(7))
    control.send_payload(child, encode(Drain(8)))

    assert router.sent == [("grpc-0.2", Drain(7)), ("grpc-0.2", Drain(8))]


def test_what_comes_has_its_senders_name_whatever_bytes_that_is() -> None:
    control = ControlChannel(Inbox((b"grpc-0.1", b"a"), (b"\xff", b"b")))  # type: ignore[arg-type]  # only receives

    assert control.receive() == ("grpc-0.1", b"a")
    assert control.receive() == ("\ufffd", b"b")
    assert control.receive() is None
