# SPDX-License-Identifier: Apache-2.0
"""Outputs of strings to the JSON of a predict answer, in TensorFlow Serving's forms.

Text is a string. Octets are ``{"b64": ...}``: all elements of an output whose name ends with ``_bytes``, which is how
TensorFlow Serving is told so, and any element that is not UTF-8.
"""

from __future__ import annotations

import binascii
from typing import TYPE_CHECKING

import orjson

from ovms_mp.errors import AnswerTooLarge

if TYPE_CHECKING:
    from ovms_mp.front.tensors import ResultTensor

_BYTES_SUFFIX = "_bytes"
_FEWEST_CHARACTERS = 3
"""Of a string: its quotes and a comma."""


def strings_text(output: ResultTensor, max_bytes: int) -> bytes:
    """All elements as nested lists; a single string where the output is a scalar.

    Raises:
        AnswerTooLarge: The text would be longer than ``max_bytes``.
    """
    return _dumped(nested(_elements(output, max_bytes), output.shape), max_bytes)


def strings_rows(output: ResultTensor, max_bytes: int) -> list[bytes]:
    """The text of each row.

    Raises:
        AnswerTooLarge: All together would be longer than ``max_bytes``.
    """
    rows = nested(_elements(output, max_bytes), output.shape)
    return [_dumped(row, max_bytes) for row in rows] if isinstance(rows, list) else []


def nested(flat: list[object], shape: tuple[int, ...]) -> object:
    """Elements in C order as lists of a shape; the one element where that has no dimensions."""
    if not shape:
        return flat[0]
    level = flat
    for size in reversed(shape[1:]):
        count = len(level) // size if size else _rows_of_nothing(shape)
        level = [level[index * size : (index + 1) * size] for index in range(count)]
    return level


def _rows_of_nothing(shape: tuple[int, ...]) -> int:
    """How many empty lists stand for a tensor without elements; those further inside are not written."""
    count = 1
    for size in shape[:-1]:
        count *= size
        if not size:
            break
    return count


def _elements(output: ResultTensor, max_bytes: int) -> list[object]:
    strings = output.strings()
    fewest = strings.total_bytes + _FEWEST_CHARACTERS * len(strings)
    if fewest > max_bytes:
        raise _too_large(fewest, max_bytes)
    if output.name.endswith(_BYTES_SUFFIX):
        return [_base64(string) for string in strings]
    return [_text_or_base64(string) for string in strings]


def _text_or_base64(string: memoryview) -> object:
    try:
        return str(string, "utf-8")
    except UnicodeDecodeError:
        return _base64(string)


def _base64(string: memoryview) -> object:
    return {"b64": binascii.b2a_base64(string, newline=False).decode()}


def _dumped(value: object, max_bytes: int) -> bytes:
    text = orjson.dumps(value)
    if len(text) > max_bytes:
        raise _too_large(len(text), max_bytes)
    return text


def _too_large(length: int, max_bytes: int) -> AnswerTooLarge:
    return AnswerTooLarge(
        f"the answer as JSON has more than {length} bytes, the limit is {max_bytes} (--max_message_mb)"
    )
