# SPDX-License-Identifier: Apache-2.0
"""Long strings in JSON, read in pieces: other clients have their turn in between.

A parser holds the interpreter's lock until it has read all of a string, and so does each step after it: 1.2 s for one
of 100 MB. So long strings are cut out of the text, with a short one in place of each that no client can know, and read
piece by piece; then they take the places of their stand-ins among the tensors' strings. What is left of the text is
read as ever.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import orjson

from ovms_mp.errors import MalformedPayload
from ovms_mp.front.json.reader import quoted
from ovms_mp.front.strings import STEP_ELEMENTS, Strings
from ovms_mp.front.tensors import BytesTensor, bytes_tensor
from ovms_mp.wire.strings import MOST_OCTETS

if TYPE_CHECKING:
    from ovms_mp.front.budget import BodyShare

_LONGEST_LEFT_BYTES = 256 << 10
"""Longest string that stays in the text. PERF: reading one at one go takes 12 ns a byte."""
_PIECE_BYTES = 128 << 10
"""PERF: 0.1 to 2 ms of reading."""
_STRINGS_A_TURN = 2000
_QUOTED_BYTES = 200
_QUOTE, _BACKSLASH = b'"', b"\\"
_UNESCAPED_QUOTE = re.compile(rb'(?<!\\)"')
_INSIDE = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_WHOLE_ESCAPES = re.compile(
    rb"(?:[^\\]++|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u(?![dD][89abAB])[0-9a-fA-F]{4}|\\[^u])*+"
)
"""Ends before an escape, or half a surrogate pair, whose rest is not there."""
_URL_SAFE = bytes.maketrans(b"-_", b"+/")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a long string is in the text, without its quotes."""

    start: int
    end: int


class CutText:
    """A text whose long strings have been cut out; it lives as long as a request is read."""

    def __init__(self, body: bytes | bytearray, places: list[_Place]) -> None:
        self._body = body
        secret = secrets.token_hex(14)
        # Also base64, of which each has octets of its own.
        names = [f"{secret}{index:04x}" for index in range(len(places))]
        self._texts = {name.encode(): place for name, place in zip(names, places, strict=True)}
        self._octets = {base64.b64decode(name): place for name, place in zip(names, places, strict=True)}
        self._lengths = [len(secret) + 4, (len(secret) + 4) * 3 // 4]
        self._used: set[int] = set()
        parts: list[bytes | bytearray] = []
        at = 0
        for name, place in self._texts.items():
            parts += [body[at : place.start], name]
            at = place.end
        self.text = b"".join([*parts, body[at:]])
        """What is left."""

    def worded(self, error: MalformedPayload) -> MalformedPayload:
        """The refusal of what is left, with the beginnings of strings in place of their stand-ins."""
        message = error.message
        for name, place in self._texts.items():
            if name.decode() in message:
                start = self._body[place.start : place.start + _QUOTED_BYTES].decode(errors="replace")
                message = message.replace(ascii(name.decode()), quoted(start))
        return MalformedPayload(message)

    async def restored(self, tensor: BytesTensor) -> BytesTensor:
        """The tensor with its long strings.

        Raises:
            MalformedPayload: One is no text, or not base64 where that is meant.
        """
        strings = tensor.strings
        if strings is None or not np.isin(strings.sizes, self._lengths).any():
            return tensor
        whole = bytearray()
        bounds = [0]
        for index, string in enumerate(strings):
            octets = string.tobytes() if len(string) in self._lengths else b""
            if (place := self._texts.get(octets)) is not None:
                await self._read(place, whole)
            elif (place := self._octets.get(octets)) is not None:
                text = bytearray()
                await self._read(place, text)
                await _read_base64(text, place, whole)
            else:
                whole += string
            bounds.append(len(whole))
            if not index % STEP_ELEMENTS:
                await asyncio.sleep(0)
        if len(whole) > MOST_OCTETS:
            raise MalformedPayload(f"strings of {len(whole)} bytes in all; the limit is {MOST_OCTETS}")
        places = np.array(bounds, np.int32)
        return bytes_tensor(tensor.shape, Strings(memoryview(whole), places[:-1], np.diff(places)))

    def refuse_unused(self) -> None:
        """Hold against the limit what is no string of a tensor.

        Raises:
            MalformedPayload: A long string is a key, an id or the like.
        """
        for place in self._texts.values():
            if place.start not in self._used:
                raise MalformedPayload(
                    f"Invalid JSON: the string at byte {place.start} has {place.end - place.start} bytes; more than "
                    f"{_LONGEST_LEFT_BYTES} are taken only as an element of an input of strings"
                )

    async def _read(self, place: _Place, target: bytearray) -> None:
        """Append a long string as UTF-8."""
        self._used.add(place.start)
        at = place.start
        while at < place.end:
            cut = _safe_cut(self._body, at, min(at + _PIECE_BYTES, place.end), place.end)
            try:
                text: str = orjson.loads(b"".join((_QUOTE, self._body[at:cut], _QUOTE)))
            except orjson.JSONDecodeError as error:
                raise MalformedPayload(
                    f"Invalid JSON: the string at byte {place.start} is malformed between the bytes {at} and {cut}: "
                    f"{error.msg}"
                ) from None
            target += text.encode()
            at = cut
            await asyncio.sleep(0)


async def cut_long_strings(body: bytes | bytearray, share: BodyShare) -> CutText | None:
    """Cut the long strings out of a text; None where there are none.

    Args:
        body: UTF-8 text.
        share: Grows by what reading them takes.

    Raises:
        MalformedPayload: One has no end.
        OvmsError: There is no memory to read them.
    """
    if not _may_have_long(body):
        return None
    places: list[_Place] = []
    at = strings = 0
    while (start := body.find(_QUOTE, at) + 1) != 0:
        end = body.find(_QUOTE, start)
        if end > start and body[end - 1 : end] == _BACKSLASH:
            end = await _end_of(body, start)
        if end == -1:
            if len(body) - start <= _LONGEST_LEFT_BYTES:
                break
            raise MalformedPayload(f"Invalid JSON: the string at byte {start} does not end")
        if end - start > _LONGEST_LEFT_BYTES:
            places.append(_Place(start, end))
        at = end + 1
        strings += 1
        if not strings % _STRINGS_A_TURN:
            await asyncio.sleep(0)
    if not places:
        return None
    # As text, and as the octets that base64 stands for.
    share.grow(2 * sum(place.end - place.start for place in places))
    return CutText(body, places)


def _may_have_long(body: bytes | bytearray) -> bool:
    """Whether some part of the text has no quote that could end a string. PERF: 0.2 us for 128 KiB of short strings."""
    for start in range(0, len(body) - _PIECE_BYTES + 1, _PIECE_BYTES):
        end = start + _PIECE_BYTES
        first = body.find(_QUOTE, start, end)
        if first == -1:
            return True
        is_escaped = first > 0 and body[first - 1 : first] == _BACKSLASH
        if is_escaped and _UNESCAPED_QUOTE.search(body, start, end) is None:
            return True
    return False


async def _end_of(body: bytes | bytearray, at: int) -> int:
    """Where the closing quote of a string with escapes is; -1 where there is none."""
    while at < len(body):
        end = min(at + _PIECE_BYTES, len(body))
        inside = _INSIDE.match(body, at, end)
        found = inside.end() if inside else at
        if body[found : found + 1] == _QUOTE and found < end:
            return found
        if found == at:
            return -1  # Nothing but the beginning of an escape is left.
        at = found
        await asyncio.sleep(0)
    return -1


def _safe_cut(body: bytes | bytearray, start: int, cut: int, end: int) -> int:
    """The last place up to ``cut`` where no character and no escape is divided."""
    if cut == end:
        return cut
    if body.find(_BACKSLASH, start, cut) != -1:
        whole = _WHOLE_ESCAPES.match(body, start, cut)
        found = whole.end() if whole else start
        if found == start:
            return cut  # Malformed, as its reader will say.
        cut = found
    for _ in range(3):
        if body[cut] & 0xC0 != 0x80:
            break
        cut -= 1
    return max(cut, start + 1)


async def _read_base64(text: bytearray, place: _Place, target: bytearray) -> None:
    """Append the octets that base64 stands for, as :func:`~ovms_mp.front.json.reader.strings_of` reads it."""
    for at in range(0, len(text), _PIECE_BYTES):
        piece = text[at : at + _PIECE_BYTES].translate(_URL_SAFE)
        is_last = at + _PIECE_BYTES >= len(text)
        try:
            if not is_last and b"=" in piece:
                raise binascii.Error("Discontinuous padding")
            target += binascii.a2b_base64(piece + b"=" * (-len(piece) % 4), strict_mode=True)
        except ValueError as error:
            raise MalformedPayload(
                f"Invalid inputs in request body: the string at byte {place.start} is 'b64', but not base64: {error}"
            ) from None
        await asyncio.sleep(0)
