# SPDX-License-Identifier: Apache-2.0
"""JSON bodies of TensorFlow Serving's REST predict to tensors. Runs in the fronts.

:mod:`~ovms_mp.front.json.scanner` says how bodies are read; here are the forms that it knows of this protocol.

Format: https://github.com/tensorflow/serving/blob/master/tensorflow_serving/g3doc/api_rest.md
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import simdjson

from ovms_mp.front.json.scanner import NotPlain, Scanner, read_body
from ovms_mp.front.tensors import NumberTensor
from ovms_mp.front.tfs.json.reader import JsonFormat, read_predict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import TypeAlias

    from ovms_mp.front.tfs.json.reader import JsonTensor
    from ovms_mp.model.tensors import TensorSpec

    Found: TypeAlias = tuple[JsonFormat, Mapping[str, JsonTensor]]

_LEAST_ROW_BYTES = 1024
"""Average text below which a named row's Python objects cost less than its simdjson proxies."""


class PredictReading:
    """How bodies are read, see :class:`~ovms_mp.front.json.scanner.Reading`, with the model's inputs known."""

    advice = "send numbers in the column format ('inputs'), in several requests if need be"

    def scan(
        self, document: object, body: bytes | bytearray | memoryview, known: Sequence[TensorSpec]
    ) -> Found:
        """Read a plain request from simdjson's proxies."""
        return _scan(document, body, known)

    def read(self, document: object, known: Sequence[TensorSpec]) -> Found:
        """Read any request from Python objects."""
        return read_predict(document, known)

    def tensors(self, found: Found) -> Iterable[JsonTensor]:
        """The tensors of a request."""
        return found[1].values()


READING = PredictReading()


def decode_predict(body: bytes | bytearray | memoryview, inputs: Sequence[TensorSpec]) -> Found:
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
    return read_body(READING, body, inputs)


def _scan(
    document: object, body: bytes | bytearray | memoryview, inputs: Sequence[TensorSpec]
) -> tuple[JsonFormat, dict[str, NumberTensor]]:
    """Read a plain request from simdjson's proxies."""
    if not isinstance(document, simdjson.Object):
        raise NotPlain
    keys = list(document)
    is_row = "instances" in keys
    if is_row == ("inputs" in keys) or len(set(keys)) != len(keys):
        raise NotPlain
    value: object = document["instances" if is_row else "inputs"]
    first: object = value[0] if isinstance(value, simdjson.Array) and len(value) else None
    scanner = Scanner(body)
    if isinstance(value, simdjson.Object) and not is_row:
        given = _named(scanner, value, inputs)
    elif not isinstance(value, simdjson.Array) or not len(value):
        raise NotPlain
    elif is_row and isinstance(first, simdjson.Object):
        given = _named_rows(scanner, value, inputs, len(body))
    elif len(inputs) != 1:
        raise NotPlain
    else:
        given = {inputs[0].name: scanner.tensor(value, inputs[0])}
    scanner.prove_regular()
    return JsonFormat.ROW if is_row else JsonFormat.COLUMN, given


def _named(
    scanner: Scanner, tensors: simdjson.Object, inputs: Sequence[TensorSpec]
) -> dict[str, NumberTensor]:
    """Read the column format's object of tensors."""
    specs = {spec.name: spec for spec in inputs}
    given: dict[str, NumberTensor] = {}
    for name in tensors:
        if name in given or name not in specs:
            raise NotPlain
        given[name] = scanner.tensor(tensors[name], specs[name])
    if not given:
        raise NotPlain
    return given


def _named_rows(
    scanner: Scanner, rows: simdjson.Array, inputs: Sequence[TensorSpec], body_length: int
) -> dict[str, NumberTensor]:
    """Read the row format's objects, and stack them by input."""
    if len(rows) * _LEAST_ROW_BYTES > body_length:
        raise NotPlain
    scanner.opened()
    parts: dict[str, list[NumberTensor]] = {spec.name: [] for spec in inputs}
    for row in rows:
        if not isinstance(row, simdjson.Object):
            raise NotPlain
        given = _named(scanner, row, inputs)
        if len(given) != len(parts):
            raise NotPlain
        for name, tensor in given.items():
            parts[name].append(tensor)
    return {name: _stacked(tensors) for name, tensors in parts.items()}


def _stacked(tensors: list[NumberTensor]) -> NumberTensor:
    """One tensor with a new first dimension."""
    first = tensors[0]
    shape = (len(tensors), *first.shape)
    if len(tensors) == 1:
        return NumberTensor(first.dtype, shape, first.values)
    if any(tensor.shape != first.shape or tensor.dtype is not first.dtype for tensor in tensors):
        raise NotPlain
    values = np.concatenate([tensor.values for tensor in tensors])
    return NumberTensor(first.dtype, shape, values)
