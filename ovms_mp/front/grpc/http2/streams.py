# SPDX-License-Identifier: Apache-2.0
"""The streams of one connection: which are open, and what a frame for one that is not means (RFC 9113, 5.1)."""

from __future__ import annotations

from collections import OrderedDict

from ovms_mp.front.grpc.http2.faults import ErrorCode, Fault
from ovms_mp.front.grpc.http2.stream import Stream

_REMEMBERED_STREAMS = 1024


class Streams:
    """Open streams, and the last ones that have ended.

    Attributes:
        open: The open ones by identifier.
        last_id: The highest identifier of a request that was taken or refused; GOAWAY names it.
        are_final: The peer knows that there will be no others: later ones are ignored (6.8).
    """

    def __init__(self) -> None:
        self.open: dict[int, Stream] = {}
        self.last_id = 0
        self.are_final = False
        self._was_ours: OrderedDict[int, bool] = OrderedDict()
        """Of streams that have ended, whether we ended them before the peer did."""

    def is_new(self, stream_id: int) -> bool:
        """Whether a client may open this stream now: odd, and above all before it (5.1.1)."""
        return stream_id > self.last_id and stream_id & 1 == 1

    def forget(self, stream_id: int, *, is_ours: bool) -> Stream | None:
        """End a stream; it is returned if it was open.

        Args:
            stream_id: Of the stream, which may never have been open if it was refused.
            is_ours: Whether the peer may still send, as it does not know of the end yet.
        """
        self._was_ours[stream_id] = is_ours
        if len(self._was_ours) > _REMEMBERED_STREAMS:
            self._was_ours.popitem(last=False)
        stream = self.open.pop(stream_id, None)
        if stream is not None:
            stream.is_local_open = False
        return stream

    def check_ended(self, stream_id: int) -> None:
        """Judge DATA or HEADERS for a stream that is not open: it may be late for one that we have ended.

        Raises:
            Fault: The peer never opened the stream, or had ended it itself.
        """
        if self.are_final and self.is_new(stream_id):
            return
        was_ours = self._was_ours.get(stream_id)
        if was_ours is None or not self._was_opened(stream_id):
            raise _never_opened(stream_id)
        if not was_ours:
            raise Fault(ErrorCode.STREAM_CLOSED, f"a frame for stream {stream_id}, which the peer had ended")

    def check_known(self, stream_id: int) -> None:
        """Judge RST_STREAM or WINDOW_UPDATE for a stream that is not open: fine for any that ever was (5.1).

        Raises:
            Fault: The peer never opened the stream.
        """
        if self.are_final and self.is_new(stream_id):
            return
        if not self._was_opened(stream_id):
            raise _never_opened(stream_id)

    def _was_opened(self, stream_id: int) -> bool:
        return stream_id <= self.last_id and stream_id & 1 == 1


def _never_opened(stream_id: int) -> Fault:
    return Fault(ErrorCode.PROTOCOL_ERROR, f"a frame for stream {stream_id}, which was not opened")
