# SPDX-License-Identifier: Apache-2.0
"""Where in a long body a plain list of numbers is, without names or of one input; it is read in pieces."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

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


async def read_predict_list(
    body: bytes | bytearray, inputs: Sequence[TensorSpec], most_values: int
) -> tuple[JsonFormat, dict[str, NumberTensor]] | None:
    """The request, if it is one plain list of numbers for a model of one input.

    Args:
        body: UTF-8 text.
        inputs: The model's.
        most_values: So many may be in the text.
    """
    head, tail = _HEAD.match(body), _TAIL.search(body, max(0, len(body) - _LONGEST_TAIL))
    if head is None or tail is None or len(inputs) != 1 or inputs[0].dtype.kind in (Kind.BOOL, Kind.STRING):
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
