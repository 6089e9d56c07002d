# SPDX-License-Identifier: Apache-2.0
"""Writes a connection's output to its transport: once a loop turn, as far as the socket takes it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from ovms_mp.defects import report
from ovms_mp.front.grpc.http2.connection import Http2Connection
from ovms_mp.front.grpc.http2.stream import Hook
from ovms_mp.front.grpc.http2.transports import end_writing

_LARGE_BYTES = 64 << 10
"""Octets from which a system call of their own is cheaper than a copy."""


class Writer:
    """The writing half of a transport.

    Attributes:
        paused_ns: Since when the socket takes nothing; None while it does. Monotonic.
        ended_ns: When the last octets were written; None before.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        connection: Http2Connection,
        on_end: Callable[[], None],
        on_defect: Callable[[Exception], None],
    ) -> None:
        """Begin.

        Args:
            loop: Where all happens.
            transport: Belongs to this writer from now on, as far as writing goes.
            connection: Whose output is written.
            on_end: Called when a connection that is closed has written all that will be, before the transport is told.
            on_defect: Called with what writing raised: a part of the output may be lost.
        """
        self.paused_ns: int | None = None
        self.ended_ns: int | None = None
        self._loop = loop
        self._transport = transport
        self._connection = connection
        self._on_end = on_end
        self._on_defect = on_defect
        self._is_flush_due = False
        self._unwritten: list[Hook] = []
        """Releases of what the transport has and the socket perhaps not."""

    def wake(self) -> None:
        """Write what there is at the end of this loop turn, behind what its tasks have to say."""
        connection = self._connection
        if not self._is_flush_due and (connection.output.nbytes or connection.is_closed):
            self._is_flush_due = True
            self._loop.call_soon(self.flush)

    def pause(self) -> None:
        """Let output wait, as the transport asks for it."""
        self.paused_ns = self._connection.now_ns

    def resume(self) -> None:
        """Go on: the transport has written all."""
        self.paused_ns = None
        self.flush()

    def flush(self) -> None:
        """Write now."""
        self._is_flush_due = False
        try:
            self._write()
        except Exception as error:
            self._on_defect(error)

    def _write(self) -> None:
        connection = self._connection
        output = connection.output
        while self.paused_ns is None and self.ended_ns is None and not self._transport.is_closing():
            self._release(self._unwritten)
            if not output.nbytes:
                break
            is_small = output.nbytes < _LARGE_BYTES
            chunks, self._unwritten = output.take()
            self._transport.writelines([b"".join(chunks)] if is_small else chunks)
            output.pump()
        # Nobody reads what waits behind a fault.
        is_over = connection.is_closed and (self.paused_ns is None or connection.fault != "")
        if is_over and self.ended_ns is None:
            self.ended_ns = time.monotonic_ns()
            self._on_end()
            end_writing(self._transport)

    def lost(self) -> None:
        """Give back the memory behind all output: the transport is gone."""
        _, releases = self._connection.output.take()
        self._release(self._unwritten + releases)

    def _release(self, releases: list[Hook]) -> None:
        self._unwritten = []
        for release in releases:
            try:
                release()
            except Exception as error:
                report("grpc.release", error, "memory of an answer")
