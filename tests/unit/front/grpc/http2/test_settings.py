# SPDX-License-Identifier: Apache-2.0
"""SETTINGS in both directions (RFC 9113, 6.5)."""

from __future__ import annotations

import pytest

from ovms_mp.front.grpc.http2 import settings
from ovms_mp.front.grpc.http2.faults import ErrorCode, Fault
from ovms_mp.front.grpc.http2.settings import PeerSettings
from tests.unit.front.grpc.http2 import peer as wire


def payload(*pairs: tuple[int, int]) -> memoryview:
    return memoryview(wire.settings(*pairs))[9:]


def test_what_is_not_said_stays() -> None:
    before = PeerSettings(initial_window_size=7, max_frame_size=20_000)

    assert settings.parse(payload((0xBEEF, 1), (1, 0)), before) == before
    assert settings.parse(payload((4, 9)), before) == PeerSettings(9, 20_000)
    assert settings.parse(payload((5, 16_384)), before) == PeerSettings(7, 16_384)


def test_the_last_of_equal_settings_counts() -> None:
    assert settings.parse(payload((4, 5), (4, 6)), PeerSettings()).initial_window_size == 6


@pytest.mark.parametrize(
    ("pair", "code"),
    [
        ((2, 2), ErrorCode.PROTOCOL_ERROR),
        ((4, 1 << 31), ErrorCode.FLOW_CONTROL_ERROR),
        ((5, 16_383), ErrorCode.PROTOCOL_ERROR),
        ((5, 1 << 24), ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_a_value_that_may_not_be_is_a_fault(pair: tuple[int, int], code: ErrorCode) -> None:
    with pytest.raises(Fault) as raised:
        settings.parse(payload(pair), PeerSettings())

    assert raised.value.code == code


@pytest.mark.parametrize(
    ("nbytes", "is_ack", "code"),
    [
        (5, False, ErrorCode.FRAME_SIZE_ERROR),
        (6, True, ErrorCode.FRAME_SIZE_ERROR),
        (18, False, ErrorCode.ENHANCE_YOUR_CALM),
    ],
)
def test_a_length_that_may_not_be_is_a_fault(nbytes: int, is_ack: bool, code: ErrorCode) -> None:
    with pytest.raises(Fault) as raised:
        settings.check_size(nbytes, 2, is_ack=is_ack)

    assert raised.value.code == code


@pytest.mark.parametrize(("nbytes", "is_ack"), [(0, True), (0, False), (12, False)])
def test_other_lengths_are_fine(nbytes: int, is_ack: bool) -> None:
    settings.check_size(nbytes, 2, is_ack=is_ack)
