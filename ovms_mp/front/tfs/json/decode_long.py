# SPDX-License-Identifier: Apache-2.0
"""Long JSON bodies: what reading one will take is known before it is read, and rows with names are read in pieces.

A parser keeps the front's only thread until it returns, and each object in a list of rows becomes Python objects. So
such a list is cut between its rows, each piece is read like a body of its own, and other clients have their turn in
between. Lists of plain numbers are cut, too: :mod:`ovms_mp.front.json.lists`.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import numpy as np

from ovms_mp.errors import MalformedPayload
from ovms_mp.front.infer.text_inputs import takes_strings
from ovms_mp.front.json.lists import LIST_BYTES, VALUE_BYTES, count_of, count_values
from ovms_mp.front.json.long_strings import read_with_long_strings
from ovms_mp.front.json.scanner import refuse_many
from ovms_mp.front.strings import Strings
from ovms_mp.front.tensors import BytesTensor, NumberTensor, bytes_tensor
from ovms_mp.front.tfs.json.decode import READING, decode_predict
from ovms_mp.front.tfs.json.lists import read_predict_list
from ovms_mp.front.tfs.json.reader import JsonFormat
from ovms_mp.model.dtypes import DType, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ovms_mp.front.budget import BodyShare
    from ovms_mp.front.json.long_strings import CutText
    from ovms_mp.front.tfs.json.decode import Found
    from ovms_mp.front.tfs.json.reader import JsonTensor
    from ovms_mp.model.dtypes import AnyArray
    from ovms_mp.model.tensors import TensorSpec

_PIECE_BYTES = 64 << 10

_HEAD = re.compile(
    rb'\s*\{\s*(?:"signature_name"\s*:\s*"[^"\\]{0,999}"\s*,\s*)?"instances"\s*:\s*\[\s*(?=\{)'
)
_TAIL = re.compile(rb'\s*\]\s*(?:,\s*"signature_name"\s*:\s*"[^"\\]{0,999}"\s*)?\}\s*\Z')
_BETWEEN = re.compile(rb"\s*,\s*(?=\{)")
_ROW_INDEX = re.compile(r"instances\[(\d+)\]")
_BEYOND_INT64 = 1 << 63
_LONGEST_TAIL = 1100
_MARKS = frozenset('{}[]"\\')


async def decode_long(
    body: bytes | bytearray, inputs: Sequence[TensorSpec], share: BodyShare
) -> tuple[JsonFormat, Mapping[str, JsonTensor]]:
    """Read a body of ``LONG_BYTES`` or more; see :func:`~ovms_mp.front.tfs.json.decode.decode_predict`.

    Args:
        body: UTF-8 text.
        inputs: The model's.
        share: Grows by what reading takes.

    Raises:
        MalformedPayload: The body is not the JSON of a predict request.
        OvmsError: There is no memory to read it.
    """

    async def read(part: bytes | bytearray) -> Found:
        return await _decode(part, inputs, share)

    return await read_with_long_strings(body, share, read, _restored)


async def _restored(found: Found, cut: CutText) -> Found:
    form, given = found
    return form, {
        name: await cut.restored(tensor) if isinstance(tensor, BytesTensor) else tensor
        for name, tensor in given.items()
    }


async def _decode(
    body: bytes | bytearray, inputs: Sequence[TensorSpec], share: BodyShare
) -> tuple[JsonFormat, Mapping[str, JsonTensor]]:
    """Read a body without long strings."""
    count = count_values(body)
    share.grow(VALUE_BYTES * count)
    if any(map(takes_strings, inputs)):
        # As text, and as the octets that base64 stands for.
        share.grow(2 * len(body))
    head, tail = _HEAD.match(body), _TAIL.search(body, len(body) - _LONGEST_TAIL)
    if not head or not tail or any(_MARKS & set(spec.name) for spec in inputs):
        if len(body) >= LIST_BYTES:
            found = await read_predict_list(body, inputs, count + 1)
            if found is not None:
                return found
            if any(spec.dtype is DType.BYTES for spec in inputs):
                # Such a body is for the other reader; this saves looking whether it is not.
                refuse_many(count_of(body, b'"') // 2, READING.advice)
        return decode_predict(body, inputs)
    parts: dict[str, list[JsonTensor]] = {spec.name: [] for spec in inputs}
    rows = 0
    for piece in _pieces(body, head.end(), tail.start()):
        given = _rows_of(piece, rows, inputs)
        for spec in inputs:
            parts[spec.name].append(given[spec.name])
        rows += given[inputs[0].name].shape[0]
        await asyncio.sleep(0)
    return JsonFormat.ROW, {spec.name: _joined(parts[spec.name], spec) for spec in inputs}


def _pieces(body: bytes | bytearray, start: int, end: int) -> Iterator[bytes | bytearray]:
    """The text of some rows at a time. A ``}`` ends a row: nothing that a request may hold has one inside.

    Each piece is complete JSON or is refused, and nothing but a comma and white space is between two of them.
    """
    while cut := body.find(b"}", start + _PIECE_BYTES, end) + 1:
        between = _BETWEEN.match(body, cut)
        if between is None:
            break
        yield body[start:cut]
        start = between.end()
    yield body[start:end]


def _rows_of(
    piece: bytes | bytearray, first_row: int, inputs: Sequence[TensorSpec]
) -> Mapping[str, JsonTensor]:
    """Read some rows, and word what is wrong with them as of the whole list."""
    try:
        return decode_predict(b"".join((b'{"instances": [', piece, b"]}")), inputs)[1]
    except MalformedPayload as error:
        text = _ROW_INDEX.sub(lambda found: f"instances[{int(found[1]) + first_row}]", error.message)
        raise MalformedPayload(text) from None


def _joined(tensors: list[JsonTensor], spec: TensorSpec) -> JsonTensor:
    """One tensor of all rows.

    Raises:
        MalformedPayload: The rows have different shapes, or integers and floats that no array holds exactly.
    """
    rows, shape = 0, tensors[0].shape[1:]
    for tensor in tensors:
        if tensor.shape[1:] != shape:
            raise MalformedPayload(
                f"Invalid inputs in request body: input {spec.name!r}: instances[{rows}] has the shape "
                f"{list(tensor.shape[1:])}, expected {list(shape)} as the elements before it tell"
            )
        rows += tensor.shape[0]
    dtypes = {tensor.dtype for tensor in tensors}
    if DType.BYTES in dtypes:
        if len(dtypes) > 1:
            raise MalformedPayload(
                f"Invalid inputs in request body: input {spec.name!r}: 'instances' has strings and numbers"
            )
        strings = [tensor.known_strings for tensor in tensors if isinstance(tensor, BytesTensor)]
        return bytes_tensor((rows, *shape), Strings.of([string for part in strings for string in part]))
    arrays = [tensor.values for tensor in tensors if isinstance(tensor, NumberTensor)]
    if len(dtypes) == 1:
        dtype = tensors[0].dtype
    elif spec.dtype.kind is Kind.FLOAT or not all(map(_is_whole, arrays)):
        # Rounded where the model rounds anyway, or where a fraction will be refused.
        dtype = DType.FP64
    elif not any(np.greater_equal(array, _BEYOND_INT64).any() for array in arrays):
        dtype = DType.INT64
    elif not any(np.less(array, 0).any() for array in arrays):
        dtype = DType.UINT64
    else:
        raise MalformedPayload(
            f"Invalid inputs in request body: input {spec.name!r} ({spec.dtype.name}): 'instances' has negative "
            f"numbers and others beyond {_BEYOND_INT64 - 1}, which is out of range"
        )
    values = np.concatenate([array.astype(dtype.numpy, copy=False) for array in arrays])
    return NumberTensor(dtype, (rows, *shape), values)


def _is_whole(values: AnyArray) -> bool:
    """Whether an integer array holds the values exactly; floats of such a model that do are below 2**53."""
    return values.dtype.kind != "f" or bool((np.trunc(values) == values).all())
