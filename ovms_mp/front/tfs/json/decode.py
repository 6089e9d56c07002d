# SPDX-License-Identifier: Apache-2.0
"""JSON bodies of TensorFlow Serving's REST predict: bytes to tensors, tensors to bytes. Runs in the fronts.

Two readers, one truth. The scanner in this module parses with simdjson and takes the numbers out of it
without a Python object each; it knows the plain forms only. At anything else it gives up without an opinion,
and the reader in :mod:`~ovms_mp.front.tfs.json.reader` reads the same bytes from the start. So that one
alone decides what is malformed and words every error, and the scanner only has to be right about what it
accepts; tests hold the two together.

Three traps of pysimdjson 7 shape the scanner: ``as_buffer`` flattens ragged arrays without a word, so
regularity is proved apart; looking up a duplicate key finds the first one, where JSON readers take the last;
and lengths saturate at 0xFFFFFF, which ``as_list`` does not notice before it writes past its list.

PERF: [1, 10] floats in 4.7 us; 150,528 floats as [1, 3, 224, 224] in 2.7 ms (1.6 MB) and 3.7 ms (3.0 MB),
where simdjson alone takes 2.5 ms and 3.4 ms, orjson with NumPy 7.4 ms and 8.0 ms; as [150528, 1] (3.3 MB)
6.6 ms, where those take 4.4 ms and 39 ms (CPython 3.11, pysimdjson 7.0, orjson 3.13, AMD EPYC, 2 cores).

Format: https://github.com/tensorflow/serving/blob/master/tensorflow_serving/g3doc/api_rest.md
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import simdjson

from ovms_mp.errors import MalformedPayload
from ovms_mp.front.tensors import NumberTensor
from ovms_mp.front.tfs.json.encode import encode_predict
from ovms_mp.front.tfs.json.reader import (
    EXACT_FLOAT,
    MAX_DEPTH,
    JsonFormat,
    load_json,
    read_predict,
    tensor_of,
)
from ovms_mp.model.dtypes import DType, Kind, element_count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ovms_mp.front.tfs.json.reader import JsonTensor
    from ovms_mp.model.dtypes import AnyArray
    from ovms_mp.model.tensors import TensorSpec

__all__ = ["JsonFormat", "decode_predict", "encode_predict", "scan_plain"]

_KEPT_PARSER_BYTES = 4 << 20
"""Longest document after which a parser is used again. It keeps pages of 3 times its longest document where
numbers have 20 digits, and of 13 times where they have one, so this bounds what an idle front holds.

PERF: a parser made anew for 3 MB costs up to 5 ms of page faults, where parsing takes 3.3 ms.
"""
_SATURATED_LENGTH = 0xFFFFFF
"""What simdjson says of every array that is as long or longer."""
_LEAST_ROW_BYTES = 1024
"""Average text below which a named row's Python objects cost less than its simdjson proxies."""
_WALK_BYTES = 128
"""Text a nested array below which looking at each array costs more than looking at the text."""
_NOT_STRUCTURE = b"0123456789.eE+-truefals \t\r\n"
"""Characters of numbers, booleans and white space."""
_OPENING = ord("[")
_INTEGERS: Final[tuple[tuple[Literal["i", "u"], DType], ...]] = (("i", DType.INT64), ("u", DType.UINT64))

_MOST_VALUES = 100_000
"""What the other reader may be given: some ten milliseconds of reading, or of looking for the fault."""
_WORDS: Final = {
    b"-Infinity": (b"-4e-323", -4e-323, -np.inf),
    b"Infinity": (b"4e-323", 4e-323, np.inf),
    b"NaN": (b"3e-323", 3e-323, np.nan),
}
"""Numbers that stand for words which simdjson does not read: text, value, and what they mean."""

_idle_parsers: list[simdjson.Parser] = []


class _NotPlain(Exception):
    """The scanner met something that it leaves to the other reader."""


def decode_predict(
    body: bytes | bytearray | memoryview, inputs: Sequence[TensorSpec]
) -> tuple[JsonFormat, Mapping[str, JsonTensor]]:
    """Read the body of ``POST /v1/models/M:predict``.

    Args:
        body: UTF-8 text; ``NaN``, ``Infinity`` and ``-Infinity`` are taken as numbers, as TensorFlow Serving
            does. A ``memoryview`` has format ``B``.
        inputs: The model's. They tell which numbers to read; shapes and names are not held against them, but
            for the names of rows, which have to be the model's.

    Returns:
        The format, which the answer has to have too, and tensors of FP64, INT64, UINT64, BOOL or BYTES by
        the client's names for them. Of a name that the model lacks nothing but the name is read.

    Raises:
        MalformedPayload: The body is not JSON, or not the JSON of a predict request.
    """
    parser = _idle_parsers.pop() if _idle_parsers else simdjson.Parser()
    is_strict_json = True
    try:
        found = _scan(parser.parse(body), body, inputs)
    except (_NotPlain, MalformedPayload):
        pass
    except (ValueError, RuntimeError):
        is_strict_json = False
    else:
        # SAFETY: the proxies ended with _scan; a parser that is lent again while one lives refuses to parse.
        # After a failure a traceback may hold some, so that parser does not come back.
        if len(body) <= _KEPT_PARSER_BYTES:
            _idle_parsers.append(parser)
        return found
    del parser
    if not is_strict_json and (words := _counted_words(body)):
        found_or_none = _scan_words(body, words, inputs)
        if found_or_none is not None:
            return found_or_none
    _check_values(body)
    return read_predict(load_json(body, is_strict_json), inputs)


def _check_values(body: bytes | bytearray | memoryview) -> None:
    """Refuse what would keep the front's only thread for long: the other reader takes about 0.3 us a value.

    Raises:
        MalformedPayload: The body is for that reader, and has too many values for it.
    """
    if len(body) <= 2 * _MOST_VALUES:
        return
    text = bytes(body) if isinstance(body, memoryview) else body
    count = sum(map(text.count, (b",", b"[", b"{", b":")))
    if count > _MOST_VALUES:
        raise MalformedPayload(
            f"Invalid inputs in request body: it is not plain lists of numbers of equal lengths, and of the {count} "
            f"values that it has such a body may have {_MOST_VALUES} at most; send numbers in the column format "
            f"('inputs'), in several requests if need be"
        )


def _counted_words(body: bytes | bytearray | memoryview) -> dict[bytes, int]:
    """How often the text has each word that is a number to TensorFlow Serving, but not in JSON."""
    text = bytes(body) if isinstance(body, memoryview) else body
    counts = {b"NaN": text.count(b"NaN"), b"-Infinity": text.count(b"-Infinity")}
    counts[b"Infinity"] = text.count(b"Infinity") - counts[b"-Infinity"]
    return counts if any(counts.values()) else {}


def _scan_words(
    body: bytes | bytearray | memoryview, words: dict[bytes, int], inputs: Sequence[TensorSpec]
) -> tuple[JsonFormat, dict[str, NumberTensor]] | None:
    """Read a request that is plain but for words, with numbers in their place that nobody sends; None if it is not.

    That nobody did is proved: the values have as many of these numbers as the text had words.
    """
    text = bytes(body)
    for word, (number, _, _) in _WORDS.items():
        text = text.replace(word, number)
    found = scan_plain(text, inputs)
    if found is None:
        return None
    counts = dict.fromkeys(_WORDS, 0)
    for tensor in found[1].values():
        if tensor.dtype is not DType.FP64:
            continue
        values = np.array(tensor.values)
        for word, (_, stand_in, value) in _WORDS.items():
            if not words[word]:
                continue
            places = values == stand_in
            counts[word] += int(np.count_nonzero(places))
            values[places] = value
        tensor.values = values
    return found if counts == words else None


def scan_plain(
    body: bytes | bytearray, inputs: Sequence[TensorSpec]
) -> tuple[JsonFormat, dict[str, NumberTensor]] | None:
    """Read a plain request; None where it is anything else, or malformed."""
    parser = _idle_parsers.pop() if _idle_parsers else simdjson.Parser()
    try:
        found = _scan(parser.parse(body), body, inputs)
    except (_NotPlain, MalformedPayload, ValueError, RuntimeError):
        return None
    if len(body) <= _KEPT_PARSER_BYTES:
        _idle_parsers.append(parser)
    return found


def _scan(
    document: object, body: bytes | bytearray | memoryview, inputs: Sequence[TensorSpec]
) -> tuple[JsonFormat, dict[str, NumberTensor]]:
    """Read a plain request from simdjson's proxies."""
    if not isinstance(document, simdjson.Object):
        raise _NotPlain
    keys = list(document)
    is_row = "instances" in keys
    if is_row == ("inputs" in keys) or len(set(keys)) != len(keys):
        raise _NotPlain
    value: object = document["instances" if is_row else "inputs"]
    first: object = value[0] if isinstance(value, simdjson.Array) and len(value) else None
    scanner = _Scanner(body)
    if isinstance(value, simdjson.Object) and not is_row:
        given = scanner.named(value, inputs)
    elif not isinstance(value, simdjson.Array) or not len(value):
        raise _NotPlain
    elif is_row and isinstance(first, simdjson.Object):
        given = scanner.named_rows(value, inputs)
    elif len(inputs) != 1:
        raise _NotPlain
    else:
        given = {inputs[0].name: scanner.tensor(value, inputs[0])}
    scanner.prove_regular()
    return JsonFormat.ROW if is_row else JsonFormat.COLUMN, given


class _Scanner:
    """Reads the tensors of one body, and proves in the end that their arrays are what they seem."""

    def __init__(self, body: bytes | bytearray | memoryview) -> None:
        self._body = body
        self._shapes: list[tuple[int, ...]] = []
        """Of all arrays read, in the order of the text."""
        self._by_text = False
        self._has_rows = False
        """Whether the arrays are in a list of objects, whose own ``[`` precedes them all."""

    def named(self, tensors: simdjson.Object, inputs: Sequence[TensorSpec]) -> dict[str, NumberTensor]:
        """Read the column format's object of tensors."""
        specs = {spec.name: spec for spec in inputs}
        given: dict[str, NumberTensor] = {}
        for name in tensors:
            if name in given or name not in specs:
                raise _NotPlain
            given[name] = self.tensor(tensors[name], specs[name])
        if not given:
            raise _NotPlain
        return given

    def named_rows(self, rows: simdjson.Array, inputs: Sequence[TensorSpec]) -> dict[str, NumberTensor]:
        """Read the row format's objects, and stack them by input."""
        if len(rows) * _LEAST_ROW_BYTES > len(self._body):
            raise _NotPlain
        self._has_rows = True
        parts: dict[str, list[NumberTensor]] = {spec.name: [] for spec in inputs}
        for row in rows:
            if not isinstance(row, simdjson.Object):
                raise _NotPlain
            given = self.named(row, inputs)
            if len(given) != len(parts):
                raise _NotPlain
            for name, tensor in given.items():
                parts[name].append(tensor)
        return {name: _stacked(tensors) for name, tensors in parts.items()}

    def tensor(self, value: object, spec: TensorSpec) -> NumberTensor:
        """Read one value."""
        if spec.dtype.kind is Kind.STRING:
            raise _NotPlain
        if not isinstance(value, simdjson.Array):
            return _number_tensor(value, spec)
        if spec.dtype.kind is Kind.BOOL:
            # Two bytes an element at least, so no length in such a body is saturated.
            if len(self._body) > 2 * _SATURATED_LENGTH:
                raise _NotPlain
            tensor = _number_tensor(value.as_list(), spec)
            self._shapes.append(tensor.shape)
            return tensor
        shape = _first_shape(value)
        dtype, values = _numbers(value, spec.dtype.kind)
        if len(values) != element_count(shape):
            raise _NotPlain
        self._shapes.append(shape)
        if self._by_text or _array_count(shape) * _WALK_BYTES > len(self._body):
            self._by_text = True
        else:
            _walk(value, shape)
        return NumberTensor(dtype, shape, values)

    def prove_regular(self) -> None:
        """Give up unless each array read has the shape that its first elements told.

        The elements are already known to be numbers. Where arrays are few, each was visited and had the
        right length, so it is enough that the text has no further ``[``. Where they are many, the text
        without its elements has to be, from one ``[`` to the next, the text of arrays of these shapes: with
        as many of them as arrays were read, and no ``[`` besides, nothing else can stand for those. A ``[``
        in a string fails both.
        """
        if not self._by_text:
            found = np.count_nonzero(np.frombuffer(self._body, np.uint8) == _OPENING)
            if found != sum(map(_array_count, self._shapes)) + self._has_rows:
                raise _NotPlain
            return
        body = bytes(self._body) if isinstance(self._body, memoryview) else self._body
        text = body.translate(None, _NOT_STRUCTURE)
        end = text.find(b"[") + 1 if self._has_rows else 0
        for shape in self._shapes:
            start = text.find(b"[", end)
            expected = _structure(shape)
            end = start + len(expected)
            if text[start:end] != expected:
                raise _NotPlain
        if text.find(b"[", end) != -1:
            raise _NotPlain


def _number_tensor(value: object, spec: TensorSpec) -> NumberTensor:
    tensor = tensor_of(value, spec, "")
    if not isinstance(tensor, NumberTensor):
        raise _NotPlain
    return tensor


def _stacked(tensors: list[NumberTensor]) -> NumberTensor:
    """One tensor with a new first dimension."""
    first = tensors[0]
    shape = (len(tensors), *first.shape)
    if len(tensors) == 1:
        return NumberTensor(first.dtype, shape, first.values)
    if any(tensor.shape != first.shape or tensor.dtype is not first.dtype for tensor in tensors):
        raise _NotPlain
    values = np.concatenate([tensor.values for tensor in tensors])
    return NumberTensor(first.dtype, shape, values)


def _numbers(array: simdjson.Array, kind: Kind) -> tuple[DType, AnyArray]:
    """All numbers of an array, flat."""
    if kind is Kind.INTEGER:
        for letter, dtype in _INTEGERS:
            values = _flat(array, letter, dtype)
            if values is not None:
                return dtype, values
    values = _flat(array, "d", DType.FP64)
    if values is None:
        raise _NotPlain
    if kind is Kind.INTEGER and not (np.abs(values) < EXACT_FLOAT).all():
        # Integers among the floats may have been rounded.
        raise _NotPlain
    return DType.FP64, values


def _flat(array: simdjson.Array, letter: Literal["i", "u", "d"], dtype: DType) -> AnyArray | None:
    """All numbers of an array, or None where they are not of this type."""
    try:
        return np.frombuffer(array.as_buffer(of_type=letter), dtype.numpy)
    except (TypeError, ValueError):
        return None


def _first_shape(array: simdjson.Array) -> tuple[int, ...]:
    """The shape that an array has if all its elements are like the first ones."""
    shape = []
    value: object = array
    while isinstance(value, simdjson.Array):
        size = len(value)
        shape.append(size)
        if size >= _SATURATED_LENGTH or len(shape) > MAX_DEPTH:
            raise _NotPlain
        value = value[0] if size else None
    return tuple(shape)


def _array_count(shape: tuple[int, ...]) -> int:
    """How many arrays the text of such an array has, itself included."""
    total = count = 1
    for size in shape[:-1]:
        count *= size
        total += count
    return total


def _walk(array: simdjson.Array, shape: tuple[int, ...]) -> None:
    """Give up unless the array's lengths are these down to the arrays of numbers."""
    arrays = [array]
    for size in shape[1:]:
        inner: list[simdjson.Array] = []
        for parent in arrays:
            for child in parent:
                if not isinstance(child, simdjson.Array) or len(child) != size:
                    raise _NotPlain
                inner.append(child)
        arrays = inner


def _structure(shape: tuple[int, ...]) -> bytes:
    """The text of an array of this shape without its numbers, e.g. ``[[,],[,]]``."""
    text = b""
    for size in reversed(shape):
        text = b"[" + ((text + b",") * size)[:-1] + b"]"
    return text
