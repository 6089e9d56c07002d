# SPDX-License-Identifier: Apache-2.0
"""One client that hands over memory: its calls, one after another, and what follows from its end."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ovms_mp.errors import DeadlineExceeded, MalformedPayload, OvmsError, RegionNotFound, RegionUnusable
from ovms_mp.manager.changes.region_frames import (
    ConnectionEnded,
    FrameReader,
    Register,
    Unregister,
    decode_call,
    encode_answer,
    encode_error,
)
from ovms_mp.manager.changes.sealed_memory import inspect_memory
from ovms_mp.wire.changes import RegionRecord, RegisterRegion, UnregisterRegion

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from ovms_mp.manager.changes.changes import Changes
    from ovms_mp.manager.changes.course import Outcome
    from ovms_mp.manager.changes.region_frames import AnyCall
    from ovms_mp.manager.changes.regions import Regions
    from ovms_mp.manager.clock import Clock
    from ovms_mp.manager.timers import Timers
    from ovms_mp.wire.channels import Poller
    from ovms_mp.wire.closing import StrangersDescriptors

FRAME_WITHIN_S = 5.0
_CHANGE_WITHIN_S = 10.0
_PAUSE_S = 0.005
"""Between two calls: who calls in a loop costs the manager next to nothing."""


class RegionConnection:
    """Belongs to the manager's loop."""

    def __init__(
        self,
        connection: socket.socket,
        owner: int,
        regions: Regions,
        changes: Changes,
        strangers: StrangersDescriptors,
        poller: Poller,
        timers: Timers,
        clock: Clock,
        ended: Callable[[int], None],
    ) -> None:
        """Wait for the first call.

        Args:
            connection: Does not block; owned from now on.
            owner: Its number.
            regions: Where its regions are registered.
            changes: Tells when every front knows.
            strangers: Closes descriptors that are refused.
            poller: Watches it.
            timers: The manager's.
            clock: The manager's.
            ended: Told the number when this has closed.
        """
        self._socket = connection
        self._owner = owner
        self._regions = regions
        self._changes = changes
        self._strangers = strangers
        self._poller = poller
        self._timers = timers
        self._clock = clock
        self._ended = ended
        self._reader = FrameReader(connection, strangers)
        self._call = 0
        """Number of the call that is being read or answered."""
        self._is_watched = False
        self._is_closed = False
        self._watch()

    @property
    def is_silent(self) -> bool:
        """Whether its client has asked for nothing that is not answered."""
        return self._is_watched and not self._reader.has_begun

    def fileno(self) -> int:
        """The descriptor that the poller watches; -1 when it is closed."""
        return self._socket.fileno()

    def take(self) -> None:
        """Read what has come; answer a call that is complete, now or later."""
        had_begun = self._reader.has_begun
        try:
            content = self._reader.read()
        except ConnectionEnded:
            self.close()
            return
        except MalformedPayload as error:
            self.refuse(error)
            return
        if content is None:
            if self._reader.has_begun and not had_begun:
                self._timers.call_after(FRAME_WITHIN_S, partial(self._refuse_half, self._call))
            return
        self._unwatch()
        self._call += 1
        descriptors, has_more = self._reader.take_descriptors()
        try:
            self._follow(decode_call(content), descriptors, has_more=has_more)
        except OvmsError as error:
            self._answer(encode_error(error))
        finally:
            for descriptor in descriptors:
                self._strangers.close(descriptor)

    def refuse(self, error: OvmsError) -> None:
        """Tell why it ends, and end it."""
        self._send(encode_error(error))
        self.close()

    def close(self) -> None:
        """Forget its regions; may be called twice."""
        if self._is_closed:
            return
        self._is_closed = True
        self._unwatch()
        self._socket.close()
        for descriptor in self._reader.take_descriptors()[0]:
            self._strangers.close(descriptor)
        for record in self._regions.of(self._owner):
            self._regions.unregister(record.name)
        self._ended(self._owner)

    def _follow(self, call: AnyCall, descriptors: list[int], *, has_more: bool) -> None:
        """Do what is asked; what is left in ``descriptors`` is closed by the caller.

        Raises:
            OvmsError: It is refused.
        """
        if isinstance(call, Register):
            self._register(call.name, descriptors, has_more=has_more)
            return
        if descriptors or has_more:
            raise MalformedPayload("only a call to register has a descriptor with it")
        if isinstance(call, Unregister):
            if call.name not in {record.name for record in self._regions.of(self._owner)}:
                raise RegionNotFound(f"no region '{call.name}' is registered over this connection")
            self._change(UnregisterRegion(call.name), encode_answer(name=call.name), call.name)
            return
        records = self._regions.of(self._owner)
        self._answer(
            encode_answer(regions=[{"name": record.name, **_described(record)} for record in records])
        )

    def _register(self, name: str, descriptors: list[int], *, has_more: bool) -> None:
        if has_more and not descriptors:
            raise RegionUnusable(
                "no descriptor can be taken now: those that were refused before have not been closed by the system yet"
            )
        if len(descriptors) != 1 or has_more:
            count = f"more than {len(descriptors)}" if has_more else str(len(descriptors))
            raise MalformedPayload(
                f"one descriptor comes with a call to register, by SCM_RIGHTS; {count} came"
            )
        memory = inspect_memory(descriptors[0])
        record = RegionRecord(
            name,
            f"memfd:{memory.inode}",
            0,
            memory.nbytes,
            memory.device,
            memory.inode,
            descriptors[0],
            memory.is_writable,
        )
        self._change(RegisterRegion(record), encode_answer(name=name, **_described(record)), name)
        if any(known is record for known in self._regions.of(self._owner)):
            descriptors.clear()

    def _change(self, change: RegisterRegion | UnregisterRegion, answer: bytes, name: str) -> None:
        """Begin with a change, and answer when every front has applied it."""
        number = self._call

        def told(outcome: Outcome) -> None:
            if self._call == number and not self._is_closed and not self._is_watched:
                self._answer(answer if outcome.error is None else encode_error(outcome.error.to_error()))

        course = self._regions.course(change, self._owner)
        deadline = self._clock.monotonic() + _CHANGE_WITHIN_S
        self._changes.begin(change.title, course, deadline, told)
        self._timers.call_at(deadline, partial(self._give_up, number, name))

    def _give_up(self, number: int, name: str) -> None:
        if self._call != number or self._is_closed or self._is_watched:
            return
        if any(record.name == name for record in self._regions.of(self._owner)):
            self._regions.unregister(name)
        text = f"not every process of the server knew within {_CHANGE_WITHIN_S:g} s; the region is not registered"
        self._answer(encode_error(DeadlineExceeded(text)))

    def _refuse_half(self, number: int) -> None:
        if self._call == number and not self._is_closed:
            text = f"a call was not complete {FRAME_WITHIN_S:g} s after its first byte"
            self.refuse(DeadlineExceeded(text))

    def _answer(self, frame: bytes) -> None:
        """Answer, and wait for the next call."""
        if self._send(frame):
            self._call += 1  # Neither a late outcome nor a deadline is about what comes now.
            number = self._call
            self._timers.call_after(_PAUSE_S, partial(self._go_on, number))
        else:
            self.close()

    def _send(self, frame: bytes) -> bool:
        """Whether all of it could be sent at once, as to whoever reads its answers."""
        try:
            return self._socket.send(frame) == len(frame)
        except OSError:
            return False

    def _go_on(self, number: int) -> None:
        if self._call == number and not self._is_closed:
            self._watch()

    def _watch(self) -> None:
        self._poller.register(self._socket.fileno())
        self._is_watched = True

    def _unwatch(self) -> None:
        if self._is_watched:
            self._is_watched = False
            self._poller.unregister(self._socket.fileno())


def _described(record: RegionRecord) -> dict[str, object]:
    return {"byte_size": record.byte_size, "access": "read_write" if record.is_writable else "read"}
