# SPDX-License-Identifier: Apache-2.0
"""Compressed bodies and messages, opened within limits. May take milliseconds, in which zlib lets other threads run."""

from __future__ import annotations

import zlib

GZIP_WINDOW = 16 + zlib.MAX_WBITS
"""Tells zlib to expect gzip's header and checksum, and no other."""


def inflate(packed: bytes, window_bits: int, limit_bytes: int) -> bytes | None:
    """What was packed; None if that is longer than the limit, of which no more than that is ever held.

    Several members in a row are one, as in gzip's files (RFC 1952, 2.2).

    Raises:
        zlib.error: It is not packed as ``window_bits`` say, or ends too early.
    """
    parts: list[bytes] = []
    room = limit_bytes + 1
    while packed or not parts:
        unpacker = zlib.decompressobj(window_bits)
        part = unpacker.decompress(packed, room)
        room -= len(part)
        if not room:
            return None
        if not unpacker.eof:
            raise zlib.error("it ends too early")
        parts.append(part)
        packed = unpacker.unused_data
    return b"".join(parts)
