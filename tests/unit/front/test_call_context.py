# SPDX-License-Identifier: Apache-2.0
"""What a call's context says, and that it asks the transport only when it is asked itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ovms_mp.front.call_context import CallContext, address_text, new_flow

if TYPE_CHECKING:
    from collections.abc import Sequence


class Origin:
    """Counts what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    @property
    def metadata(self) -> Sequence[tuple[str, str | bytes]]:
        self.asked.append("metadata")
        return [("x-bin", b"\0")]

    @property
    def peer(self) -> str:
        self.asked.append("peer")
        return "host:1"

    @property
    def certificate_name(self) -> str:
        self.asked.append("certificate_name")
        return "alice"


def test_what_is_dear_is_made_when_it_is_asked_for() -> None:
    origin = Origin()
    context = CallContext(77, 3, "tfs", "Predict", origin)
    assert (context.deadline_ns, context.flow, context.protocol, context.method) == (77, 3, "tfs", "Predict")
    assert origin.asked == []

    assert (context.metadata, context.peer) == ([("x-bin", b"\0")], "host:1")
    assert origin.asked == ["metadata", "peer"]


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (("127.0.0.1", 4711), "127.0.0.1:4711"),
        (["::1", 4711], "[::1]:4711"),
        (("::1", 4711, 0, 0), "[::1]:4711"),
        ("", "unix:"),
        ("/run/client.sock", "unix:/run/client.sock"),
        (None, ""),
    ],
)
def test_an_address_as_text(address: object, text: str) -> None:
    assert address_text(address) == text


def test_flows_are_new() -> None:
    first, second = new_flow(), new_flow()
    assert first > 0
    assert second > first
