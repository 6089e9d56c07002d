# SPDX-License-Identifier: Apache-2.0
"""What peers do wrong is told, and does not fill the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ovms_mp.front.grpc.http2.limits import Guard, Hit, Limits
from ovms_mp.front.grpc.peer_log import report_hits

if TYPE_CHECKING:
    import pytest


class Timers:
    """The part of an event loop that is used."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, Any, tuple[Any, ...]]] = []

    def call_later(self, delay_s: float, callback: Any, *arguments: Any) -> None:
        self.calls.append((delay_s, callback, arguments))

    def turn(self) -> None:
        _, callback, arguments = self.calls.pop()
        callback(*arguments)


def test_hits_are_told_once_a_second_and_once_only(caplog: pytest.LogCaptureFixture) -> None:
    guard, loop = Guard(Limits()), Timers()
    guard.counters[Hit.PINGS] = 3
    report_hits(guard, loop)  # type: ignore[arg-type]
    assert loop.calls[0][0] == 1.0
    loop.turn()
    guard.counters[Hit.PINGS] += 2
    guard.counters[Hit.SLOW_MESSAGE] += 1
    loop.turn()

    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["event=limits_hit pings=3", "event=limits_hit pings=2 slow_message=1"]
