# SPDX-License-Identifier: Apache-2.0
"""Long strings in JSON, read in pieces: other clients have their turn in between.

A parser holds the interpreter's lock until it has read all of a string, and so does each step after it: 1.2 s for one
of 100 MB. So long strings are cut out of the text, with a name in place of each that no client can know, and read
piece by piece; then they take the places of their names among the tensors' strings. What is left of the text is
read as ever.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import orjson

from ovms_mp.errors import MalformedPayload
from ovms_mp.front.json.lists import count_of
from ovms_mp.front.json.reader import quoted
from ovms_mp.front.json.scanner import MOST_VALUES
from ovms_mp.front.json.white_space import LONGEST_LEFT_BYTES, squeezed
from ovms_mp.front.strings import STEP_ELEMENTS, Strings
from ovms_mp.front.tensors import BytesTensor, bytes_tensor
from ovms_mp.wire.strings import MOST_OCTETS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

    from ovms_mp.front.budget import BodyShare

FoundT = TypeVar("FoundT")

_LONGEST_LEFT_BYTES = 256 << 10
"""Longest string that stays in the text. PERF: reading one at one go takes 12 ns a byte."""
_MUCH_BYTES = 1 << 20
"""Of a text in which many shorter ones would take as much. PERF: cutting one takes 10 us."""
_MOST_QUOTES = 2 * MOST_VALUES
"""Texts with more are read in another way, or refused before they are read."""
_DIGITS, _NAME_BYTES, _NAME_OCTETS = 5, 32, 24
"""Of the name in place of a string, and of what it stands for as base64."""
_PLACE_BYTES = 200
"""Memory that a place takes."""
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
    """A text whose long strings have been cut out; it lives as long as a request is read.

    Attributes:
        text: What is left, with a name in place of each of them.
    """

    def __init__(self, body: bytes | bytearray, text: bytes, places: Sequence[_Place], secret: bytes) -> None:
        """Take what has been cut.

        Args:
            body: The whole text.
            text: What is left of it.
            places: Where the strings are in the whole.
            secret: What all names begin with; their numbers follow.
        """
        self._body = body
        self.text = text
        self._places = places
        self._secret = secret
        self._used: set[int] = set()
        self._unturned_bytes = 0
        """So much has been read since others had their turn."""

    def worded(self, error: MalformedPayload) -> MalformedPayload:
        """The refusal of what is left, with the beginnings of strings in place of their names."""

        def beginning(name: re.Match[str]) -> str:
            place = self._places[int(name[1], 16)]
            return quoted(
                self._body[place.start : min(place.end, place.start + _QUOTED_BYTES)].decode(errors="replace")
            )

        return MalformedPayload(
            re.sub(f"'{self._secret.decode()}([0-9a-f]{{{_DIGITS}}})'", beginning, error.message)
        )

    def _number(self, name: bytes) -> int:
        """Which string a name stands for; -1 if it is none."""
        return int(name[-_DIGITS:], 16) if name.startswith(self._secret) else -1

    async def restored(self, tensor: BytesTensor) -> BytesTensor:
        """The tensor with its long strings.

        Raises:
            MalformedPayload: One is no text, or not base64 where that is meant.
        """
        strings = tensor.strings
        if strings is None or not np.isin(strings.sizes, (_NAME_BYTES, _NAME_OCTETS)).any():
            return tensor
        whole = bytearray()
        bounds = [0]
        for index, string in enumerate(strings):
            if len(string) == _NAME_BYTES and (number := self._number(string.tobytes())) >= 0:
                await self._read(number, whole)
            elif len(string) == _NAME_OCTETS and (number := self._number(base64.b64encode(string))) >= 0:
                text = bytearray()
                await self._read(number, text)
                await self._read_base64(text, number, whole)
            else:
                whole += string
            bounds.append(len(whole))
            if not index % STEP_ELEMENTS:
                await asyncio.sleep(0)
        if len(whole) > MOST_OCTETS:
            raise MalformedPayload(f"strings of {len(whole)} bytes in all; the limit is {MOST_OCTETS}")
        places = np.array(bounds, np.int32)
        return bytes_tensor(tensor.shape, Strings(memoryview(whole), places[:-1], np.diff(places)))

    def unused(self) -> Sequence[_Place]:
        """Those that are no strings of a tensor.

        Raises:
            MalformedPayload: They are long: one is a key, an id or the like.
        """
        unused = [place for number, place in enumerate(self._places) if number not in self._used]
        longest = max(unused, key=lambda place: place.end - place.start, default=_Place(0, 0))
        if sum(place.end - place.start for place in unused) > _LONGEST_LEFT_BYTES:
            raise MalformedPayload(
                f"Invalid JSON: the string at byte {longest.start} has {longest.end - longest.start} bytes; more than "
                f"{_LONGEST_LEFT_BYTES} are taken only as an element of an input of strings"
            )
        return unused

    async def _read(self, number: int, target: bytearray) -> None:
        """Append a long string as UTF-8."""
        self._used.add(number)
        place = self._places[number]
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
            await self._turn(cut - at)
            at = cut

    async def _read_base64(self, text: bytearray, number: int, target: bytearray) -> None:
        """Append what base64 stands for, as :func:`~ovms_mp.front.json.reader.strings_of` reads it."""
        for at in range(0, len(text), _PIECE_BYTES):
            piece = text[at : at + _PIECE_BYTES].translate(_URL_SAFE)
            is_last = at + _PIECE_BYTES >= len(text)
            try:
                if not is_last and b"=" in piece:
                    raise binascii.Error("Discontinuous padding")
                target += binascii.a2b_base64(piece + b"=" * (-len(piece) % 4), strict_mode=True)
            except ValueError as error:
                raise MalformedPayload(
                    f"Invalid inputs in request body: the string at byte {self._places[number].start} is 'b64', but "
                    f"not base64: {error}"
                ) from None
            await self._turn(len(piece))

    async def _turn(self, nbytes: int) -> None:
        """So much more has been read: others have their turn now and then."""
        self._unturned_bytes += nbytes
        if 2 * self._unturned_bytes > _PIECE_BYTES:
            self._unturned_bytes = 0
            await asyncio.sleep(0)


async def read_with_long_strings(
    body: bytes | bytearray,
    share: BodyShare,
    read: Callable[[bytes | bytearray], Awaitable[FoundT]],
    restore: Callable[[FoundT, CutText], Awaitable[FoundT]],
) -> FoundT:
    """Read a long text whose strings may be long.

    Args:
        body: UTF-8 text.
        share: Grows by what reading the strings takes.
        read: Reads a text without them.
        restore: Gives what was found its long strings back.

    Raises:
        MalformedPayload: The text is malformed.
        OvmsError: There is no memory to read it.
    """
    left: Sequence[_Place] = ()
    is_much = len(body) > _MUCH_BYTES and count_of(body, _QUOTE) <= _MOST_QUOTES
    while True:
        cut = await _cut(body, share, is_much, {place.start for place in left})
        text = body if cut is None else cut.text
        if is_much and not left:
            text = await squeezed(text)
        if cut is None:
            return await read(text)
        try:
            found = await read(text)
        except MalformedPayload as error:
            raise cut.worded(error) from None
        found = await restore(found, cut)
        left = cut.unused()
        if not left:
            return found
        # An id, a key or the like, which has to stay where it is.


async def _cut(
    body: bytes | bytearray, share: BodyShare, is_much: bool, left: Collection[int]
) -> CutText | None:
    """Cut the long strings out of a text; None where there are none.

    Args:
        body: The text.
        share: Grows by what reading the strings takes.
        is_much: Whether shorter ones are long, too.
        left: Where those begin that stay.

    Raises:
        MalformedPayload: One has no end.
        OvmsError: There is no memory to read them.
    """
    most_bytes = min(_LONGEST_LEFT_BYTES, LONGEST_LEFT_BYTES) if is_much else _LONGEST_LEFT_BYTES
    if not is_much and not _may_have_long(body):
        return None
    secret = secrets.token_hex(14)[: _NAME_BYTES - _DIGITS].encode()
    places: list[_Place] = []
    parts: list[bytes | bytearray] = []
    at = strings = copied = 0
    while (start := body.find(_QUOTE, at) + 1) != 0:
        end = body.find(_QUOTE, start)
        if end > start and body[end - 1 : end] == _BACKSLASH:
            end = await _end_of(body, start)
        if end == -1:
            if len(body) - start <= _LONGEST_LEFT_BYTES:
                break
            raise MalformedPayload(f"Invalid JSON: the string at byte {start} does not end")
        if end - start > most_bytes and start not in left:
            parts += [body[copied:start], b"%b%0*x" % (secret, _DIGITS, len(places))]
            places.append(_Place(start, end))
            copied = end
        at = end + 1
        strings += 1
        if not strings % _STRINGS_A_TURN:
            await asyncio.sleep(0)
    if not places:
        return None
    # As text, and as the octets that base64 stands for.
    share.grow(sum(2 * (place.end - place.start) + _PLACE_BYTES for place in places))
    return CutText(body, b"".join([*parts, body[copied:]]), places, secret)


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
