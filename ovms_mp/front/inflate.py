# SPDX-License-Identifier: Apache-2.0
"""Compressed bodies and messages, unpacked within limits: linear in what was packed, and in steps.

A step is a few milliseconds of zlib, which lets other threads run meanwhile. One thread unpacks for the whole process,
so the bodies of all clients take turns and together use one core at most. A caller that is cancelled causes no further
step.
"""

from __future__ import annotations

import asyncio
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ovms_mp.errors import RequestTooLarge

if TYPE_CHECKING:
    from collections.abc import Callable

GZIP_WINDOW = 16 + zlib.MAX_WBITS
"""Tells zlib to expect gzip's header and checksum, and no other."""
MOST_MEMBERS = 1024
"""Members of one body. Each costs microseconds however little it holds; blocks of 64 KiB, as bgzip makes them, add
up to 64 MiB."""
_PIECE_BYTES = 16 << 10
"""Packed bytes that zlib is given at once. It copies those that it leaves, so they must be few."""
_SLICE_BYTES = 256 << 10
_STEP_BYTES = 1 << 20
"""Unpacked bytes in one step; PERF: 1 to 4 ms."""
_STEP_MEMBERS = 64
_INLINE_BYTES = 4 << 10
"""Packed bytes whose first step is not worth a thread: at most 1032 times as many come out of them, within a step."""
_INLINE_STEP_BYTES = 64 << 10

_unpacking = ThreadPoolExecutor(1, thread_name_prefix="unpacking")


class Unpacker:
    """Unpacks one body step by step. Several members in a row are one, as in gzip's files (RFC 1952, 2.2)."""

    def __init__(self, packed: bytes | bytearray, window_bits: int, limit_bytes: int) -> None:
        """Prepare.

        Args:
            packed: All of it.
            window_bits: zlib's name of the format.
            limit_bytes: For what comes out.
        """
        self.plain = bytearray()
        self._packed = memoryview(packed)
        self._next = 0
        self._window_bits = window_bits
        self._limit_bytes = limit_bytes
        self._members = 1
        self._member = zlib.decompressobj(window_bits)

    def step(self, most_bytes: int = _STEP_BYTES) -> bool:
        """Unpack some more; whether all is unpacked.

        Raises:
            zlib.error: It is not packed as ``window_bits`` say, or ends too early, or has too many members.
            RequestTooLarge: It becomes longer than the limit, of which no more than that is ever held.
        """
        end = len(self.plain) + most_bytes
        last_member = self._members + _STEP_MEMBERS
        while len(self.plain) < end and self._members < last_member:
            if self._member.eof:
                if self._next >= len(self._packed):
                    return True
                self._begin_member()
            self._slice()
        return False

    def _slice(self) -> None:
        """Give zlib one piece, or what it has left of the last one."""
        piece = self._packed[self._next : self._next + _PIECE_BYTES]
        room = min(_SLICE_BYTES, self._limit_bytes + 1 - len(self.plain))
        part = self._member.decompress(piece, room)
        left = len(self._member.unused_data) if self._member.eof else len(self._member.unconsumed_tail)
        self._next += len(piece) - left
        self.plain += part
        if len(self.plain) > self._limit_bytes:
            raise RequestTooLarge(
                f"Received message larger than max once it is unpacked (more than {self._limit_bytes} bytes); "
                f"--max_unpacked_mb sets it, up to --max_message_mb"
            )
        if not piece and not part and not self._member.eof:
            raise zlib.error("it ends too early")

    def _begin_member(self) -> None:
        self._members += 1
        if self._members > MOST_MEMBERS:
            raise zlib.error(f"it has more than {MOST_MEMBERS} members")
        self._member = zlib.decompressobj(self._window_bits)


async def inflate(
    packed: bytes | bytearray, window_bits: int, limit_bytes: int, grow: Callable[[int], None]
) -> bytearray:
    """What was packed.

    Args:
        packed: All of it.
        window_bits: zlib's name of the format.
        limit_bytes: For what comes out.
        grow: Told of all memory that comes to be held; what it raises ends the work. See
            :meth:`~ovms_mp.front.budget.BodyShare.grow`.

    Raises:
        zlib.error: It is not packed as ``window_bits`` say, or ends too early, or has too many members.
        RequestTooLarge: It becomes longer than the limit.
    """
    unpacker = Unpacker(packed, window_bits, limit_bytes)
    held = 0
    is_done = len(packed) <= _INLINE_BYTES and unpacker.step(_INLINE_STEP_BYTES)
    loop = asyncio.get_running_loop()
    while True:
        grow(len(unpacker.plain) - held)
        held = len(unpacker.plain)
        if is_done:
            return unpacker.plain
        is_done = await loop.run_in_executor(_unpacking, unpacker.step)
