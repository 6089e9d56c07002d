# SPDX-License-Identifier: Apache-2.0
"""Long plain lists of numbers without names, or of one input, read in pieces: other clients have their turn in between.

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

from ovms_mp.front.tensors import NumberTensor
from ovms_mp.front.tfs.json.decode import scan_plain
from ovms_mp.front.tfs.json.reader import JsonFormat
from ovms_mp.model.dtypes import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ovms_mp.model.tensors import TensorSpec

_PIECE_BYTES = 128 << 10
"""PERF: 0.3 ms of parsing; a turn of the loop costs a tenth of that."""
_SIGNATURE = rb'"signature_name"\s*:\s*"[^"\\]{0,999}"\s*'
_HEAD = re.compile(
    rb"\s*\{\s*(?:"
    + _SIGNATURE
    + rb',\s*)?"(instances|inputs)"\s*:\s*(?:\{\s*"([^"\\]{1,999})"\s*:\s*)?(?=\[)'
)
_TAIL = re.compile(rb"\](\s*\})?\s*(?:,\s*" + _SIGNATURE + rb")?\}\s*\Z")
_LONGEST_TAIL = 1100
_OPENING = re.compile(rb"\s*(\[*)")
_SPACE = b" \t\r\n"


async def read_list(
    body: bytes | bytearray, inputs: Sequence[TensorSpec], most_values: int
) -> tuple[JsonFormat, dict[str, NumberTensor]] | None:
    """The request, if it is one plain list of numbers for a model of one input.

    Args:
        body: UTF-8 text.
        inputs: The model's.
        most_values: So many may be in the text.
    """
    head, tail = _HEAD.match(body), _TAIL.search(body, max(0, len(body) - _LONGEST_TAIL))
    if head is None or tail is None or len(inputs) != 1 or inputs[0].dtype.kind is Kind.BOOL:
        return None
    key, name = head[1], head[2]
    if (name is not None) != (tail[1] is not None):
        return None
    if name is not None and (key == b"instances" or name.decode(errors="replace") != inputs[0].name):
        return None
    found = await _read(body, head.end(), tail.start() + 1, inputs[0], most_values)
    if found is None:
        return None
    return (JsonFormat.ROW if key == b"instances" else JsonFormat.COLUMN), {inputs[0].name: found}


async def _read(
    body: bytes | bytearray, start: int, end: int, spec: TensorSpec, most_values: int
) -> NumberTensor | None:
    """The tensor whose text is ``body[start:end]``; None where it is not plain."""
    outer, start, end, brackets = _opened(body, start, end)
    if end < 0:
        return None
    shape: tuple[int, ...] = ()
    dtype, values, filled, rows = None, np.empty(0), 0, 0
    for piece in _pieces(body, start, end, brackets):
        given = scan_plain(b"".join((b'{"inputs": [', piece, b"]}")), (spec,))
        if given is None:
            return None
        tensor = given[1][spec.name]
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
        with. The place's end is -1 where the text is no list.
    """
    outer: tuple[int, ...] = ()
    while True:
        start, end = start + 1, end - 1
        opening = _OPENING.match(body, start, end)
        brackets = len(opening[1]) if opening else 0
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
