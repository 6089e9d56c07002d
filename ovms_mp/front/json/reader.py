# SPDX-License-Identifier: Apache-2.0
"""The reader that decides what values in JSON say, from Python objects; it words every error.

The scanner in :mod:`~ovms_mp.front.json.scanner` handles what most clients send. What gets here is malformed or rarer:
``NaN``, many small rows, integers of more than 53 bits among floats.

A tensor is read level by level with C loops (``map``, ``set``, ``chain``), about 0.2 us a number; only when
that finds a fault the elements are visited one by one, to tell the client the place. Runs in the fronts.
"""

from __future__ import annotations

import binascii
import json
import math
from itertools import chain
from typing import TYPE_CHECKING, Final

import numpy as np
import orjson

from ovms_mp.errors import MalformedPayload
from ovms_mp.front.strings import Strings
from ovms_mp.front.tensors import BytesTensor, NumberTensor, bytes_tensor
from ovms_mp.model.dtypes import DType, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from ovms_mp.model.dtypes import AnyArray
    from ovms_mp.model.tensors import TensorSpec

MAX_DEPTH: Final = 100
"""Deepest nesting of a tensor's lists; OVMS has the same limit."""
EXACT_FLOAT: Final = 2.0**53
"""Least size of a float64 that may stand for an integer other than itself."""
_QUOTED_CHARACTERS = 40
_LONGEST_INTEGER = 4000
"""Digits. Python refuses to read longer ones in words that mean nothing to a client."""


def load_json(body: bytes | bytearray | memoryview, is_strict_json: bool) -> object:
    """The body as Python objects; of equal keys the last one counts.

    Args:
        body: UTF-8 text.
        is_strict_json: Whether simdjson has taken it. Only then orjson may read it, because it turns integers
            beyond 64 bits into floats, which simdjson refuses and Python's reader keeps exact.

    Raises:
        MalformedPayload: It is not JSON, even with ``NaN`` and infinities as numbers.
    """
    if is_strict_json:
        try:
            loaded: object = orjson.loads(body)
        except orjson.JSONDecodeError:
            pass  # A byte order mark, which simdjson skips.
        else:
            return loaded
    try:
        text = str(body, "utf-8-sig")
        loaded = json.loads(text, parse_float=_finite, parse_int=_whole)
    except RecursionError:
        raise MalformedPayload(f"Invalid JSON: it is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        reason = str(error) if body else "the body is empty"
        raise MalformedPayload(f"Invalid JSON: {reason}") from None
    return loaded


def tensor_of(value: object, spec: TensorSpec, place: str, after_index: str = "") -> NumberTensor:
    """Read a tensor from nested lists or a single number.

    Args:
        value: Lists as JSON readers make them, so without cycles.
        spec: Tells the kind of numbers to read.
        place: Where the value is in the request, e.g. ``inputs['x']``; for messages.
        after_index: What follows the first index in the text of places, e.g. ``['x']`` where a column of rows
            was gathered.

    Raises:
        MalformedPayload: The lists are ragged or too deep, or an element is no number that a model of this
            kind of dtype can take.
    """
    level, shape = _flattened(value, spec, place, after_index, spec.dtype.kind)
    try:
        dtype, values = _numbers(level, set(map(type, level)), spec.dtype.kind)
    except OverflowError:
        raise _out_of_range(level, spec, place) from None
    return NumberTensor(dtype, shape, values)


def strings_of(value: object, spec: TensorSpec, place: str, after_index: str = "") -> BytesTensor:
    """Read a tensor of strings from nested lists or a single string; octets are objects of base64.

    The arguments are those of :func:`tensor_of`.

    Raises:
        MalformedPayload: The lists are ragged or too deep, or an element is no string, or no text and not base64.
    """
    level, shape = _flattened(value, spec, place, after_index, Kind.STRING)
    return bytes_tensor(shape, Strings.of([_octets(item, spec, place) for item in level]))


def _flattened(
    value: object, spec: TensorSpec, place: str, after_index: str, kind: Kind
) -> tuple[list[object], tuple[int, ...]]:
    """All elements in C order, and the shape of the lists that they are in."""
    level: list[object] = [value]
    shape: list[int] = []
    while level and type(level[0]) is list:
        size = len(level[0])
        # The types come first: a string has a length too.
        if set(map(type, level)) != {list} or set(map(len, level)) != {size}:  # type: ignore[arg-type]  # all are lists
            raise _fault(value, spec, place, after_index, kind)
        shape.append(size)
        if len(shape) > MAX_DEPTH:
            raise invalid(f"input {spec.name!r}: {place} is nested deeper than {MAX_DEPTH} levels")
        level = list(chain.from_iterable(level))  # type: ignore[arg-type]  # as above
    if not set(map(type, level)) <= _ACCEPTED[kind]:
        raise _fault(value, spec, place, after_index, kind)
    return level, tuple(shape)


_ACCEPTED: dict[Kind, AbstractSet[type]] = {
    Kind.BOOL: {bool, int, float},
    Kind.INTEGER: {int, float},
    Kind.FLOAT: {int, float},
    Kind.STRING: {str, dict},
}
_EXPECTED = {Kind.BOOL: "true, false, 0 or 1", Kind.STRING: "a string or {'b64': ...}"}
_URL_SAFE: Final = str.maketrans("-_", "+/")


def _octets(item: object, spec: TensorSpec, place: str) -> bytes:
    """A string's octets: UTF-8 of text, or what base64 stands for."""
    if isinstance(item, str):
        try:
            return item.encode()
        except UnicodeEncodeError:
            raise invalid(
                f"input {spec.name!r}: {place} has the string {quoted(item)}, which is no text: it has half of a "
                f"surrogate pair; send octets as {{'b64': ...}}"
            ) from None
    text = item.get("b64") if isinstance(item, dict) and len(item) == 1 else None
    if not isinstance(text, str):
        raise invalid(
            f"input {spec.name!r} ({spec.dtype.name}): {place} has {described(item)}, expected a string or "
            f"{{'b64': ...}}"
        )
    try:
        # Clients leave the padding out, or use the alphabet for URLs.
        return binascii.a2b_base64(text.translate(_URL_SAFE) + "=" * (-len(text) % 4), strict_mode=True)
    except ValueError as error:
        raise invalid(
            f"input {spec.name!r}: {place} has {quoted(text)} as 'b64', which is not base64: {error}"
        ) from None


def _numbers(level: list[object], types: set[type], kind: Kind) -> tuple[DType, AnyArray]:
    """The array of accepted values. Raises OverflowError where an integer does not fit."""
    if kind is Kind.BOOL and types <= {bool}:
        return DType.BOOL, np.array(level, np.bool_)
    if kind is not Kind.FLOAT and float not in types:
        return _integers(level)
    values = np.array(level, np.float64)
    if kind is Kind.INTEGER and not (np.abs(values) < EXACT_FLOAT).all():
        # Integers among the floats may have been rounded. A fraction, NaN or infinity will be refused by the
        # service, which words that well, and for that rounded neighbours do no harm.
        numbers = [value for value in level if isinstance(value, (int, float))]
        if all(isinstance(value, int) or value.is_integer() for value in numbers):
            return _integers([int(value) for value in numbers])
    return DType.FP64, values


def _integers(level: Sequence[object]) -> tuple[DType, AnyArray]:
    try:
        return DType.INT64, np.array(level, np.int64)
    except OverflowError:
        return DType.UINT64, np.array(level, np.uint64)


def invalid(reason: str) -> MalformedPayload:
    """The refusal of values; all begin with the same words."""
    return MalformedPayload(f"Invalid inputs in request body: {reason}")


def _out_of_range(level: list[object], spec: TensorSpec, place: str) -> MalformedPayload:
    """The refusal of integers, of which one at least is beyond every array that could hold them."""
    if spec.dtype.kind is Kind.FLOAT:
        low, high = -int(np.finfo(np.float64).max), int(np.finfo(np.float64).max)
    elif spec.dtype.kind is Kind.INTEGER:
        bits = 8 * spec.dtype.itemsize
        is_signed = spec.dtype.numpy.kind == "i"
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if is_signed else (0, (1 << bits) - 1)
    else:
        low, high = 0, 1
    index, value = next(
        (index, value)
        for index, value in enumerate(level)
        if isinstance(value, (int, float)) and not low <= value <= high
    )
    return invalid(
        f"input {spec.name!r} ({spec.dtype.name}): element {index} of {place} is {described(value)}, "
        f"which is out of range"
    )


def _fault(value: object, spec: TensorSpec, place: str, after_index: str, kind: Kind) -> MalformedPayload:
    """The refusal of a tensor: the first element that does not fit the shape that the first elements tell."""
    shape: list[int] = []
    first = value
    while type(first) is list and len(shape) <= MAX_DEPTH:
        shape.append(len(first))
        first = first[0] if first else None
    where, culprit, size = next(_faults(value, shape, _ACCEPTED[kind], place, after_index))
    text = f"input {spec.name!r} ({spec.dtype.name}): {where} is {described(culprit)}"
    is_string = type(culprit) is str or (type(culprit) is dict and culprit.keys() == {"b64"})
    if is_string and kind is not Kind.STRING:
        return invalid(
            f"{text}; strings are taken by inputs of strings, by inputs of UINT8 and rank 2, and as images by inputs "
            f"of rank 4"
        )
    if size is not None:
        return invalid(f"{text}, expected a list of {size} as the elements before it tell")
    return invalid(f"{text}, expected {_EXPECTED.get(kind, 'a number')}")


def _faults(
    value: object, shape: list[int], accepted: AbstractSet[type], place: str, after_index: str
) -> Iterator[tuple[str, object, int | None]]:
    """Place and value of each element that does not fit, and the length of the list expected there if any."""
    if not shape:
        if type(value) not in accepted:
            yield place + after_index, value, None
    elif type(value) is not list or len(value) != shape[0]:
        yield place, value, shape[0]
    else:
        for index, item in enumerate(value):
            yield from _faults(item, shape[1:], accepted, f"{place}[{index}]{after_index}", "")


def described(value: object) -> str:
    """A short text of a JSON value."""
    if type(value) is dict:
        if value.keys() == {"b64"}:
            return "a binary string ({'b64': ...})"
        return "an object" if value else "an empty object"
    if type(value) is list:
        return f"a list of {len(value)}" if value else "an empty list"
    if type(value) is str:
        return f"the string {quoted(value)}"
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else f"the number {str(value)[:_QUOTED_CHARACTERS]}"


def quoted(text: str) -> str:
    """The text quoted, and printable even where it holds half a surrogate pair."""
    return ascii(text) if len(text) <= _QUOTED_CHARACTERS else ascii(text[:_QUOTED_CHARACTERS]) + "..."


def _whole(text: str) -> int:
    """An integer as Python reads it, unless it is one that Python refuses to read."""
    if len(text) > _LONGEST_INTEGER:
        raise ValueError(f"the number {text[:_QUOTED_CHARACTERS]}... has {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    """A float as Python reads it, unless that is an infinity which the text does not say."""
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:_QUOTED_CHARACTERS]} is beyond the range of a 64-bit float")
    return value
