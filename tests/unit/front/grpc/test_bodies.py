# SPDX-License-Identifier: Apache-2.0
"""Packed requests: how they are recognised, what may come of them, and what they hold meanwhile."""

from __future__ import annotations

import asyncio
import gzip
import zlib

import pytest

from ovms_mp.child.specs import FrontLimits
from ovms_mp.errors import BodyMemoryFull, OvmsError, RequestTooLarge
from ovms_mp.front.budget import UNPACKED_FLOOR_BYTES, BodyBudget
from ovms_mp.front.grpc.bodies import UnpackedLimits, unpacked
from ovms_mp.front.grpc.encodings import recognised_encoding
from ovms_mp.front.routing import RoutingTable
from ovms_mp.model.status import State
from ovms_mp.wire.messages import RoutingSnapshot
from ovms_mp.wire.records import ModelRecord, TensorSpecRecord, VersionRecord
from tests.support.predict_messages import request, tensor

MIB = 1 << 20
PLAIN = request(x=tensor(1, [2], bytes(8)))


def limits(max_unpacked_bytes: int = 0) -> FrontLimits:
    return FrontLimits(
        request_timeout_s=1,
        retry_window_s=1,
        max_message_bytes=100 * MIB,
        max_unpacked_bytes=max_unpacked_bytes,
        max_image_megapixels=32,
        max_body_memory_bytes=MIB,
    )


def table(epoch: int, *shapes: tuple[tuple[int, int], ...]) -> RoutingTable:
    versions = [
        VersionRecord(
            version=number,
            state=State.AVAILABLE,
            error_code=0,
            error_message="",
            handle=number,
            endpoints=(),
            nireq=1,
            detail="",
            inputs=(TensorSpecRecord("x", "FP32", shape),),
            outputs=(),
        )
        for number, shape in enumerate(shapes, start=1)
    ]
    return RoutingTable(RoutingSnapshot(epoch, False, (), (), (ModelRecord("m", 1, tuple(versions)),)))


def test_the_largest_input_of_all_models_counts() -> None:
    """The model is known only behind the unpacking; a new table may have another one."""
    now = table(1, ((1, 1), (10, 10)))
    limited = UnpackedLimits(lambda: now, limits())
    assert limited.of_request(1000) == UNPACKED_FLOOR_BYTES
    now = table(2, ((1, 1), (10, 10)), ((1, 1_000_000),))
    assert limited.of_request(1000) >= 64_000_000
    now = table(3, ((1, 1_000_000),), ((0, -1),))
    assert limited.of_request(1000) == UNPACKED_FLOOR_BYTES
    assert limited.of_request(10 * MIB) == 100 * MIB, "never more than a message may be"
    assert UnpackedLimits(lambda: now, limits(MIB)).of_request(1000) == MIB


@pytest.mark.parametrize(
    ("message", "encoding"),
    [
        (gzip.compress(PLAIN, mtime=0), "gzip"),
        (gzip.compress(b"", mtime=0), "gzip"),
        (zlib.compress(PLAIN), "deflate"),
        (zlib.compress(PLAIN, 1), "deflate"),
        (zlib.compress(PLAIN, 9), "deflate"),
        (PLAIN, "identity"),
        (b"", "identity"),
        (b"\x78", "identity"),
        (b"\x78\x00", "identity"),
        (b"\x1f", "identity"),
    ],
)
def test_what_is_packed_is_recognised(message: bytes, encoding: str) -> None:
    assert recognised_encoding(message) == encoding


def answered(budget: BodyBudget, message: bytes, limit_bytes: int = 10 * MIB) -> bytes | OvmsError:
    """What a method makes of a message when it echoes its request."""
    before = budget.used_bytes

    async def ask() -> bytes | OvmsError:
        try:
            with budget.share() as share:
                octets = await unpacked(message, lambda _: limit_bytes, share)
                unpacked_bytes = len(octets) if recognised_encoding(message) != "identity" else 0
                assert budget.used_bytes == before + len(message) + unpacked_bytes
                return bytes(octets)
        except OvmsError as error:
            return error

    return asyncio.run(ask())


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, bytes], ids=["gzip", "deflate", "plain"])
@pytest.mark.parametrize("repeats", [1, 50_000])
def test_a_method_gets_what_was_meant(pack: object, repeats: int) -> None:
    budget = BodyBudget(100 * MIB)
    assert callable(pack)
    assert answered(budget, pack(PLAIN * repeats)) == PLAIN * repeats
    assert budget.used_bytes == 0


@pytest.mark.parametrize(
    "message",
    [
        gzip.compress(PLAIN, mtime=0)[:-1],
        gzip.compress(PLAIN, mtime=0) + b"x",
        zlib.compress(PLAIN)[:-1],
        gzip.compress(b"", mtime=0) * 5000,
        b"\x78\x01",
    ],
)
def test_what_only_seems_to_be_packed_is_handed_on(message: bytes) -> None:
    """Field 15 with a number is what zlib begins with, and a message of a stream may be anything."""
    budget = BodyBudget(100 * MIB)

    async def ask() -> bytes:
        with budget.share() as share:
            return bytes(await unpacked(message, lambda _: MIB, share))

    assert asyncio.run(ask()) == message
    assert budget.used_bytes == 0


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (gzip.compress(bytes(11 * MIB), mtime=0), RequestTooLarge),
    ],
)
def test_what_is_refused_holds_nothing(message: bytes, kind: type[OvmsError]) -> None:
    budget = BodyBudget(100 * MIB)
    assert isinstance(answered(budget, message), kind)
    assert budget.used_bytes == 0


def test_the_budget_is_for_all() -> None:
    budget = BodyBudget(4 * MIB)
    with budget.share() as others:
        others.grow(3 * MIB)
        assert isinstance(answered(budget, gzip.compress(bytes(2 * MIB))), BodyMemoryFull)
        assert isinstance(answered(budget, PLAIN * 100_000), BodyMemoryFull)
        assert answered(budget, PLAIN) == PLAIN
    assert answered(budget, gzip.compress(bytes(2 * MIB))) == bytes(2 * MIB)
    assert budget.used_bytes == 0
