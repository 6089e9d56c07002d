# SPDX-License-Identifier: Apache-2.0
"""What a frame for a stream that is not open means (RFC 9113, 5.1 and 6.8)."""

from __future__ import annotations

import pytest

from ovms_mp.front.grpc.http2.faults import ErrorCode, Fault
from ovms_mp.front.grpc.http2.streams import Streams

OURS, THEIRS, SKIPPED, NEW, EVEN, LATER_EVEN = 1, 3, 5, 9, 2, 10


@pytest.fixture
def streams() -> Streams:
    """Stream 1 was ended by us, 3 by the peer, 5 was skipped, 7 is the last one."""
    table = Streams()
    table.last_id = 7
    table.forget(OURS, is_ours=True)
    table.forget(THEIRS, is_ours=False)
    return table


@pytest.mark.parametrize(
    ("stream_id", "code"),
    [
        (THEIRS, ErrorCode.STREAM_CLOSED),
        (SKIPPED, ErrorCode.PROTOCOL_ERROR),
        (NEW, ErrorCode.PROTOCOL_ERROR),
        (EVEN, ErrorCode.PROTOCOL_ERROR),
        (LATER_EVEN, ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_data_for_a_stream_that_we_did_not_end_is_a_fault(
    streams: Streams, stream_id: int, code: ErrorCode
) -> None:
    with pytest.raises(Fault) as raised:
        streams.check_ended(stream_id)

    assert raised.value.code == code


def test_data_may_be_late_for_a_stream_that_we_ended(streams: Streams) -> None:
    streams.check_ended(OURS)


@pytest.mark.parametrize("stream_id", [OURS, THEIRS, SKIPPED])
def test_a_reset_may_be_late_for_any_stream_below_the_last(streams: Streams, stream_id: int) -> None:
    streams.check_known(stream_id)


@pytest.mark.parametrize("stream_id", [NEW, EVEN, LATER_EVEN])
def test_a_reset_of_a_stream_that_never_was_is_a_fault(streams: Streams, stream_id: int) -> None:
    with pytest.raises(Fault):
        streams.check_known(stream_id)


def test_later_streams_are_ignored_when_the_last_one_was_named(streams: Streams) -> None:
    streams.are_final = True

    streams.check_ended(NEW)
    streams.check_known(NEW)

    for check in (streams.check_ended, streams.check_known):
        with pytest.raises(Fault):
            check(LATER_EVEN)


def test_a_reset_of_an_idle_stream_does_not_open_it(streams: Streams) -> None:
    """A wrong PRIORITY is answered by RST_STREAM, also where no stream ever was."""
    streams.forget(NEW, is_ours=True)

    with pytest.raises(Fault):
        streams.check_ended(NEW)
    assert streams.is_new(NEW)


@pytest.mark.parametrize(("stream_id", "is_new"), [(NEW, True), (7, False), (LATER_EVEN, False), (0, False)])
def test_a_client_opens_odd_streams_above_the_last(streams: Streams, stream_id: int, is_new: bool) -> None:
    assert streams.is_new(stream_id) is is_new
