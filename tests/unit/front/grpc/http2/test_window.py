# SPDX-License-Identifier: Apache-2.0
"""Flow-control windows (RFC 9113, 6.9)."""

from __future__ import annotations

import pytest

from ovms_mp.front.grpc.http2.faults import ErrorCode, Fault, StreamFault
from ovms_mp.front.grpc.http2.window import ReceiveWindow, Window

LARGEST = (1 << 31) - 1
both = pytest.mark.parametrize("fault", [Fault, StreamFault])


@both
def test_all_of_a_window_may_be_used_and_no_more(fault: type[Fault]) -> None:
    window = Window(10, fault)

    window.take(4)
    window.take(6)
    with pytest.raises(Fault) as raised:
        window.take(1)

    assert type(raised.value) is fault
    assert raised.value.code == ErrorCode.FLOW_CONTROL_ERROR


@both
@pytest.mark.parametrize(
    ("size", "increment", "code"),
    [
        (1, 0, ErrorCode.PROTOCOL_ERROR),
        (1, LARGEST, ErrorCode.FLOW_CONTROL_ERROR),
        (LARGEST, 1, ErrorCode.FLOW_CONTROL_ERROR),
    ],
)
def test_an_increment_that_may_not_be_changes_nothing(
    fault: type[Fault], size: int, increment: int, code: ErrorCode
) -> None:
    window = Window(size, fault)

    with pytest.raises(Fault) as raised:
        window.widen(increment)

    assert type(raised.value) is fault
    assert raised.value.code == code
    assert window.size == size


@pytest.mark.parametrize(("size", "increment"), [(0, LARGEST), (-5, LARGEST), (-5, 3)])
def test_any_other_increment_counts(size: int, increment: int) -> None:
    window = Window(size, StreamFault)

    window.widen(increment)

    assert window.size == size + increment


def test_a_receive_window_is_filled_up_when_it_is_low() -> None:
    window = ReceiveWindow(100, 50, Fault)
    looks = []

    for nbytes in (49, 1):
        window.take(nbytes)
        looks.append(window.is_low)
    increment = window.refill()
    looks.append(window.is_low)

    assert looks == [False, True, False]
    assert (increment, window.size) == (50, 100)
