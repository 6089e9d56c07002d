# SPDX-License-Identifier: Apache-2.0
"""Slow senders lose their arena memory to others when there is no more, and nobody else does."""

from __future__ import annotations

import gc

import pytest

from ovms_mp.errors import NoFreeSlot
from ovms_mp.front.infer.leases import Lease, Leases
from ovms_mp.front.sinks import wanted
from ovms_mp.front.tfs.protobuf.predict_sink import PredictSink
from tests.unit.front.infer.test_leases import MIB, arena_leases


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> int:
        return int(self.now_s * 1e9)


class Sender:
    """A message that arrives."""

    def __init__(self, desk: Leases) -> None:
        self.received_bytes = 0
        self.leases: list[Lease] = []
        self.is_given_up = False
        self._desk = desk

    def give_up(self) -> None:
        self.is_given_up = True
        for lease in self.leases:
            self._desk.release(lease)


def test_the_latest_is_given_up_for_others_as_far_as_needed() -> None:
    clock = Clock()
    with arena_leases(clock_ns=clock) as desk:
        senders = [Sender(desk) for _ in range(4)]
        for sender in senders:
            sender.leases.append(desk.lease_arriving(sender, MIB // 4))
            clock.now_s += 0.1
        senders[0].received_bytes = 100 << 20

        desk.lease(MIB // 2)

        assert [sender.is_given_up for sender in senders] == [False, True, True, False]


def test_who_is_on_the_way_is_not_given_up() -> None:
    clock = Clock()
    with arena_leases(clock_ns=clock) as desk:
        young, quick = Sender(desk), Sender(desk)
        quick.leases.append(desk.lease_arriving(quick, MIB // 2))
        clock.now_s += 1.0
        quick.received_bytes = 17 << 20
        young.leases.append(desk.lease_arriving(young, MIB // 2))

        with pytest.raises(NoFreeSlot):
            desk.lease(64)
        assert not young.is_given_up
        assert not quick.is_given_up


def test_nobody_is_given_up_for_itself_and_its_age_stays() -> None:
    clock = Clock()
    with arena_leases(clock_ns=clock) as desk:
        slow = Sender(desk)
        slow.leases.append(desk.lease_arriving(slow, MIB // 2))
        clock.now_s += 10.0
        with pytest.raises(NoFreeSlot):
            desk.lease_arriving(slow, MIB)
        assert not slow.is_given_up

        second = Sender(desk)
        second.leases.append(desk.lease_arriving(second, 64))
        second.leases.append(desk.lease_arriving(second, 64))
        clock.now_s += 0.06
        desk.lease(MIB // 2)
        assert second.is_given_up


def test_who_is_forgotten_elsewhere_is_forgotten_here() -> None:
    clock = Clock()
    with arena_leases(clock_ns=clock) as desk:
        gone = Sender(desk)
        lease = desk.lease_arriving(gone, MIB)
        del gone
        gc.collect()
        clock.now_s += 10.0

        with pytest.raises(NoFreeSlot):
            desk.lease(64)
        desk.release(lease)
        desk.release(desk.lease(64))


def test_a_sink_that_was_given_up_wants_nothing_and_refuses_the_rest() -> None:
    clock = Clock()
    with arena_leases(clock_ns=clock) as desk:
        # inputs { key: "x", value { tensor_content: ... } } with a length of 40,000.
        nbytes = 40_000
        content = b"\x22" + bytes((nbytes & 0x7F | 0x80, nbytes >> 7 & 0x7F | 0x80, nbytes >> 14))
        value_size = len(content) + nbytes
        value = b"\x12" + bytes((value_size & 0x7F | 0x80, value_size >> 7 & 0x7F | 0x80, value_size >> 14))
        entry_size = 3 + len(value) + value_size
        head = b"\x12" + bytes((entry_size & 0x7F | 0x80, entry_size >> 7 & 0x7F | 0x80, entry_size >> 14))
        octets = head + b"\x0a\x01x" + value + content
        sink = PredictSink(len(octets) + nbytes, desk.lease_arriving, desk.release, desk.memory)
        sink.feed(memoryview(octets))
        place = wanted(sink)
        assert place is not None
        place[:10] = b"0123456789"
        sink.advance(10)
        assert sink.received_bytes == len(octets) + 10
        clock.now_s += 1.0

        desk.lease(MIB - 64)

        assert wanted(sink) is None
        with pytest.raises(NoFreeSlot, match="arena_size_mb"):
            sink.feed(memoryview(b"more"))
        with pytest.raises(NoFreeSlot, match="slowly"):
            sink.finish()
        sink.abort()
        assert desk.statistics().leases == 1
