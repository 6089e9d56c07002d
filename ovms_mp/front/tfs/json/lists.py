# SPDX-License-Identifier: Apache-2.0
"""Where plain lists of numbers are in a long body, one alone or one for each input; they are read in pieces."""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING

import orjson

from ovms_mp.front.json.lists import read_list
from ovms_mp.front.tfs.json.reader import JsonFormat
from ovms_mp.model.dtypes import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.front.tensors import NumberTensor
    from ovms_mp.model.tensors import TensorSpec

_SIGNATURE = rb'"signature_name"\s*:\s*"[^"\\]{0,999}"\s*'
_HEAD = re.compile(
    rb"\s*\{\s*(?:"
    + _SIGNATURE
    + rb',\s*)?"(instances|inputs)"\s*:\s*(?:\{\s*"([^"\\]{1,999})"\s*:\s*)?(?=\[)'
)
_TAIL = re.compile(rb"\](\s*\})?\s*(?:,\s*" + _SIGNATURE + rb")?\}\s*\Z")
_LONGEST_TAIL = 1100
_OPENING = re.compile(rb"\s*:\s*(?=\[)")
_LONGEST_LEFT_BYTES = 256 << 10
_MOST_STRINGS = 1000
"""So many strings are looked at: a request of more inputs is not plain."""


async def read_predict_list(
    body: bytes | bytearray, inputs: Sequence[TensorSpec], most_values: int
) -> tuple[JsonFormat, dict[str, NumberTensor]] | None:
    """The request, if it is one plain list of numbers for a model of one input, or such columns for one of several.

    Args:
        body: UTF-8 text.
        inputs: The model's.
        most_values: So many may be in the text.
    """
    if any(spec.dtype.kind in (Kind.BOOL, Kind.STRING) for spec in inputs):
        return None
    if len(inputs) != 1:
        columns = await _read_columns(body, inputs)
        return None if columns is None else (JsonFormat.COLUMN, columns)
    head, tail = _HEAD.match(body), _TAIL.search(body, max(0, len(body) - _LONGEST_TAIL))
    if head is None or tail is None:
        return None
    key, name = head[1], head[2]
    if (name is not None) != (tail[1] is not None):
        return None
    if name is not None and (key == b"instances" or name.decode(errors="replace") != inputs[0].name):
        return None
    found = await read_list(body, head.end(), tail.start() + 1, inputs[0], most_values)
    if found is None:
        return None
    return (JsonFormat.ROW if key == b"instances" else JsonFormat.COLUMN), {inputs[0].name: found}


async def _read_columns(
    body: bytes | bytearray, inputs: Sequence[TensorSpec]
) -> dict[str, NumberTensor] | None:
    """The tensors of all inputs by name, if each is a plain list.

    The lists are cut out of the text, with a number in place of each that no client can know; what is left has to say
    which one is whose.
    """
    first = secrets.randbelow(1 << 62)
    places: list[tuple[int, int]] = []
    parts: list[bytes | bytearray] = []
    at = copied = 0
    for _ in range(_MOST_STRINGS):
        start = body.find(b'"', at)
        at = body.find(b'"', start + 1) + 1
        if start == -1 or not at:
            break
        opening = _OPENING.match(body, at)
        if opening is None:
            continue
        begin, quote = opening.end(), body.find(b'"', opening.end())
        end = body.rfind(b"]", begin, len(body) if quote == -1 else quote) + 1
        if end:
            parts += [body[copied:begin], b"%d" % (first + len(places))]
            places.append((begin, end))
            at = copied = end
    columns = _columns(b"".join([*parts, body[copied:]]), inputs)
    if columns is None or sorted(columns.values()) != list(range(first, first + len(places))):
        return None
    tensors: dict[str, NumberTensor] = {}
    for spec in inputs:
        begin, end = places[columns[spec.name] - first]
        tensor = await read_list(body, begin, end, spec, (end - begin) // 2 + 1)
        if tensor is None:
            return None
        tensors[spec.name] = tensor
    return tensors


def _columns(text: bytes, inputs: Sequence[TensorSpec]) -> dict[str, int] | None:
    """Which number is whose; None where the text is anything else."""
    if len(text) >= _LONGEST_LEFT_BYTES:
        return None
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    columns = document.get("inputs") if isinstance(document, dict) and "instances" not in document else None
    if not isinstance(columns, dict) or columns.keys() != {spec.name for spec in inputs}:
        return None
    return columns if all(type(index) is int for index in columns.values()) else None
