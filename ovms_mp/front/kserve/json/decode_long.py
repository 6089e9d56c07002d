# SPDX-License-Identifier: Apache-2.0
"""Long JSON of inference requests: what reading takes is known before it is read, and long lists are read in pieces.

The lists are cut out of the text, with an index in place of each, and read one after another while other clients have
their turn (:mod:`ovms_mp.front.json.lists`). What is left is short. Where anything is not as most clients write it, the
whole text is read as if nothing had been cut.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ovms_mp.front.json.lists import LIST_BYTES, VALUE_BYTES, count_of, count_values, read_list
from ovms_mp.front.json.long_strings import read_with_long_strings
from ovms_mp.front.json.scanner import refuse_many, scan_plain
from ovms_mp.front.kserve.json.decode import READING, SPECS, decode_json
from ovms_mp.front.kserve.json.reader import ADVICE
from ovms_mp.front.tensors import BytesTensor
from ovms_mp.model.dtypes import DType, element_count

if TYPE_CHECKING:
    from ovms_mp.front.budget import BodyShare
    from ovms_mp.front.json.long_strings import CutText
    from ovms_mp.front.kserve.json.request import JsonRequest
    from ovms_mp.front.tensors import GivenTensor

_CUT_BYTES = 64 << 10
"""Shorter lists stay in the text."""
_KEY = b'"data"'
_OPENING = re.compile(rb"\s*:\s*(?=\[)")
_CLOSING = re.compile(rb"\]\s*,?\s*\Z")
_LONGEST_CLOSING = 64
_MOST_KEYS = 1000
"""So often the key is looked for: a request of more inputs is not plain."""
_CONVERTED_BYTES = 8
"""Memory that a number takes as another datatype than the model's."""


async def decode_long(text: bytes | bytearray, share: BodyShare) -> JsonRequest:
    """Read the JSON of a request that is long; see :func:`~ovms_mp.front.kserve.json.decode.decode_json`.

    Args:
        text: UTF-8.
        share: Grows by what reading takes.

    Raises:
        MalformedPayload: It is not the JSON of an inference request.
        OvmsError: There is no memory to read it.
    """

    async def read(part: bytes | bytearray) -> JsonRequest:
        return await _decode(part, share)

    return await read_with_long_strings(text, share, read, _restored)


async def _restored(request: JsonRequest, cut: CutText) -> JsonRequest:
    for item in request.inputs:
        if isinstance(item.data, BytesTensor):
            item.data = await cut.restored(item.data)
    return request


async def _decode(text: bytes | bytearray, share: BodyShare) -> JsonRequest:
    """Read a text without long strings."""
    count = count_values(text)
    share.grow((VALUE_BYTES + _CONVERTED_BYTES) * count)
    if len(text) >= LIST_BYTES:
        lists = _long_lists(text)
        if lists:
            found = await _read_cut(text, lists, count + 1)
            if found is not None:
                return found
        # No plain request has as many: this saves looking whether it is one.
        refuse_many(count_of(text, b'"') // 2, ADVICE)
    return decode_json(text)


def _long_lists(text: bytes | bytearray) -> list[tuple[int, int]]:
    """Where the lists of numbers behind the key ``data`` begin and end; a quote or brace can only be behind one."""
    found: list[tuple[int, int]] = []
    at = 0
    for _ in range(_MOST_KEYS):
        if (at := text.find(_KEY, at)) == -1:
            break
        at += len(_KEY)
        opening = _OPENING.match(text, at)
        if opening is None or text[at - len(_KEY) - 1 : at - len(_KEY)] == b"\\":
            continue
        start = opening.end()
        # PERF: the quote first, which is not beyond the next key, so that no text is looked through again for each key.
        quote = text.find(b'"', start)
        end = len(text) if quote == -1 else quote
        brace = text.find(b"}", start, end)
        end = end if brace == -1 else brace
        closing = _CLOSING.search(text, max(start, end - _LONGEST_CLOSING), max(start, end))
        if closing is not None and closing.start() - start > _CUT_BYTES:
            found.append((start, closing.start() + 1))
            at = closing.end()
    return found


async def _read_cut(
    text: bytes | bytearray, lists: list[tuple[int, int]], most_values: int
) -> JsonRequest | None:
    """Read the request with its long lists apart; None where it is not plain."""
    parts: list[bytes | bytearray] = []
    at = 0
    for index, (start, end) in enumerate(lists):
        parts += [text[at:start], str(index).encode()]
        at = end
    request = scan_plain(READING, b"".join([*parts, text[at:]]), len(lists))
    if request is None or sorted(
        [item.data for item in request.inputs if isinstance(item.data, int)]
    ) != list(range(len(lists))):
        return None
    for item in request.inputs:
        if not isinstance(item.data, int):
            continue
        count = element_count(item.shape)
        if count > most_values or item.dtype is DType.BOOL:
            return None
        tensor: GivenTensor | None = await read_list(text, *lists[item.data], SPECS[item.dtype.name], count)
        if tensor is None:
            return None
        item.data = tensor
    return request
