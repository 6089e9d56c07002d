# SPDX-License-Identifier: Apache-2.0
"""Long plain lists of numbers, read in pieces: other clients have their turn in between.

simdjson holds the interpreter's lock until it has read all that it is given, 0.1 s for 15 MB on a busy machine. So the
text is cut between elements and each piece is read as a list of its own: where all pieces are lists of elements of the
same shape, the whole is one, too. As soon as a piece is anything else, there is no answer from here, and the whole text
is read as if nothing had been.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import numpy as np

from ovms_mp.front.json.reader import MAX_DEPTH
from ovms_mp.front.json.scanner import NotPlain, Scanner, scan_with_words
from ovms_mp.front.tensors import NumberTensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ovms_mp.model.tensors import TensorSpec

LONG_BYTES = 256 << 10
"""Of a body before which it is counted what reading it takes."""
LIST_BYTES = 4 << 20
"""PERF: a list of numbers is read in pieces from here on. Below it the loop is held for 10 ms at most; in pieces an
image of 3 MB takes 9.8 ms of processor time instead of 6.9."""
VALUE_BYTES = 24
"""Memory that reading a number takes at once: 16 for the parser, 8 for the array."""
_COUNTED_BYTES = 1 << 20
_PIECE_BYTES = 128 << 10
"""PERF: 0.3 ms of parsing; a turn of the loop costs a tenth of that."""
_MOST_OUTER = 8
"""Lists of one element around a list that is read in pieces. PERF: the text is looked through for each of them."""
_OPENING = re.compile(rb"\s*(\[*)")
_SPACE = b" \t\r\n"


class _ListReading:
    """How a bare list of numbers is read; see :class:`~ovms_mp.front.json.scanner.Reading`. It has no other reader."""

    advice = ""

    def scan(self, document: object, body: bytes | bytearray | memoryview, known: TensorSpec) -> NumberTensor:
        """Read a plain list."""
        scanner = Scanner(body)
        tensor = scanner.tensor(document, known)
        if not len(tensor.values):
            raise NotPlain
        scanner.prove_regular()
        return tensor

    def read(self, document: object, known: TensorSpec) -> NumberTensor:
        """Not called."""
        raise NotImplementedError

    def tensors(self, found: NumberTensor) -> Iterable[NumberTensor]:
        """Not called."""
        return (found,)


_READING = _ListReading()


def count_of(body: bytes | bytearray, character: bytes) -> int:
    """How many of a character a long text has. PERF: 0.1 ms for a MiB."""
    text = np.frombuffer(body, np.uint8)
    return sum(
        int(np.count_nonzero(text[start : start + _COUNTED_BYTES] == ord(character)))
        for start in range(0, len(text), _COUNTED_BYTES)
    )


def count_values(body: bytes | bytearray) -> int:
    """How many commas a long text has, which is about the number of its values."""
    return count_of(body, b",")


async def read_list(
    body: bytes | bytearray, start: int, end: int, spec: TensorSpec, most_values: int
) -> NumberTensor | None:
    """The tensor whose text is ``body[start:end]``; None where it is not plain.

    Args:
        body: UTF-8 text.
        start: Of the list's first bracket.
        end: Behind its last bracket.
        spec: Tells the kind of numbers to read; not that of booleans.
        most_values: So many may be in the text.
    """
    outer, start, end, brackets = _opened(body, start, end)
    if end < 0:
        return None
    shape: tuple[int, ...] = ()
    dtype, values, filled, rows = None, np.empty(0), 0, 0
    for piece in _pieces(body, start, end, brackets):
        tensor = scan_with_words(_READING, b"".join((b"[", piece, b"]")), spec)
        if tensor is None:
            return None
        if dtype is None:
            dtype, shape, values = tensor.dtype, tensor.shape[1:], np.empty(most_values, tensor.dtype.numpy)
        if tensor.dtype is not dtype or tensor.shape[1:] != shape:
            return None
        count = len(tensor.values)
        if filled + count > most_values:
            return None
        values[filled : filled + count] = tensor.values
        filled, rows = filled + count, rows + tensor.shape[0]
        await asyncio.sleep(0)
    return None if dtype is None else NumberTensor(dtype, (*outer, rows, *shape), values[:filled])


def _opened(body: bytes | bytearray, start: int, end: int) -> tuple[tuple[int, ...], int, int, int]:
    """Go into lists of one element until there is a list of more.

    Returns:
        The lists' lengths, the place of the inner list's elements, and the number of brackets that each of them begins
        with. The place's end is -1 where the text is no list, or one too deep to be read here.
    """
    outer: tuple[int, ...] = ()
    while True:
        start, end = start + 1, end - 1
        opening = _OPENING.match(body, start, end)
        brackets = len(opening[1]) if opening else 0
        if brackets > MAX_DEPTH or len(outer) > _MOST_OUTER:
            return outer, start, -1, 0
        if not brackets or body.find(b"]" * brackets + b",", start, end) != -1:
            return outer, start, end, brackets
        while end > start and body[end - 1] in _SPACE:
            end -= 1
        start = opening.start(1) if opening else start
        if end - start < 2 or body[end - 1 : end] != b"]":
            return outer, start, -1, 0
        outer = (*outer, 1)


def _pieces(body: bytes | bytearray, start: int, end: int, brackets: int) -> Iterator[bytes | bytearray]:
    """The text of some elements at a time, without the commas between them."""
    closing = b"]" * brackets + b","
    while (found := body.find(closing, start + _PIECE_BYTES, end)) != -1:
        yield body[start : found + brackets]
        start = found + brackets + 1
    yield body[start:end]
