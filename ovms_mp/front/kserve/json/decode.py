# SPDX-License-Identifier: Apache-2.0
"""The JSON of inference requests, read from simdjson's proxies where it is plain.

:mod:`~ovms_mp.front.json.scanner` says how bodies are read; here are the forms that it knows of this protocol. What is
anything else is read by :mod:`~ovms_mp.front.kserve.json.reader`, which words every error.

PERF: a request with [1, 10] floats takes 9 us.

Format: https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import simdjson

from ovms_mp.front.json.reader import MAX_DEPTH
from ovms_mp.front.json.scanner import NotPlain, Scanner, read_body
from ovms_mp.front.kserve.infer_request import NO_PARAMETERS, RequestedOutput
from ovms_mp.front.kserve.json.reader import ADVICE, read_infer
from ovms_mp.front.kserve.json.request import JsonInput, JsonRequest
from ovms_mp.front.tensors import GivenTensor
from ovms_mp.model.dtypes import DType, Kind
from ovms_mp.model.tensors import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ovms_mp.front.kserve.infer_request import Parameter, Parameters

_MOST_TENSORS = 1000
"""Inputs or outputs that are read here, on the event loop; the other reader has a limit of its own."""

_MOST_KEYS = 100
"""Of an object that is read here: simdjson looks through all keys for each."""

_LONGEST_KNOWN_BYTES, _MOST_KNOWN = 1 << 10, 64
"""Of JSON that is remembered."""

SPECS = {dtype.name: TensorSpec.of("", dtype, ()) for dtype in DType if dtype.kind is not Kind.STRING}
"""What tells a scanner which numbers to read, by the names of datatypes."""


class InferReading:
    """How bodies are read, see :class:`~ovms_mp.front.json.scanner.Reading`.

    Known is the number of lists that were cut out of the text; an index stands for each.
    """

    advice = ADVICE

    def scan(self, document: object, body: bytes | bytearray | memoryview, known: int) -> JsonRequest:
        """Read a plain request from simdjson's proxies."""
        if not isinstance(document, simdjson.Object):
            raise NotPlain
        request = JsonRequest()
        scanner = Scanner(body)
        for key in _keys(document):
            value: object = document[key]
            if key == "inputs":
                request.inputs = [_input(scanner, item, known) for item in _items(scanner, value)]
            elif key == "outputs":
                request.outputs = [_output(item) for item in _items(scanner, value)]
            elif key == "id" and isinstance(value, str):
                request.id = value
            elif key == "parameters":
                request.parameters = _parameters(value)
            else:
                raise NotPlain
        if not request.inputs:
            raise NotPlain
        scanner.prove_regular()
        return request

    def read(self, document: object, known: int) -> JsonRequest:
        """Read any request from Python objects."""
        return read_infer(document)

    def tensors(self, found: JsonRequest) -> Iterable[GivenTensor]:
        """The tensors of a request whose values are in the text."""
        return [item.data for item in found.inputs if isinstance(item.data, GivenTensor)]


READING = InferReading()


def decode_json(text: bytes | bytearray | memoryview) -> JsonRequest:
    """Read the JSON of a request that is not long.

    Raises:
        MalformedPayload: It is not JSON, or not that of an inference request.
    """
    return read_body(READING, text, 0)


def decode_head(text: bytes) -> JsonRequest:
    """The same for JSON in front of binary tensors, which a client sends again and again; nobody may change it.

    PERF: 0.2 us for one that is known, of 9.

    Raises:
        MalformedPayload: See :func:`decode_json`.
    """
    return _known_head(text) if len(text) <= _LONGEST_KNOWN_BYTES else decode_json(text)


@lru_cache(_MOST_KNOWN)
def _known_head(text: bytes) -> JsonRequest:
    return decode_json(text)


def _keys(value: simdjson.Object) -> list[str]:
    if len(value) > _MOST_KEYS:
        raise NotPlain
    keys = list(value)
    if len(set(keys)) != len(keys):
        raise NotPlain
    return keys


def _items(scanner: Scanner, value: object) -> simdjson.Array:
    if not isinstance(value, simdjson.Array) or len(value) > _MOST_TENSORS:
        raise NotPlain
    scanner.opened()
    return value


def _input(scanner: Scanner, item: object, known: int) -> JsonInput:
    """Read an input; its lists in the order of the text."""
    if not isinstance(item, simdjson.Object):
        raise NotPlain
    keys = _keys(item)
    name, spec = _named(item, keys)
    shape: tuple[int, ...] | None = None
    parameters = NO_PARAMETERS
    data: GivenTensor | int | None = None
    for key in keys:
        if key == "shape":
            shape = _shape(scanner, item[key])
        elif key == "data":
            data = _data(scanner, item[key], spec, known)
        elif key == "parameters":
            parameters = _parameters(item[key])
        elif key not in ("name", "datatype"):
            raise NotPlain
    if shape is None:
        raise NotPlain
    return JsonInput(name, spec.dtype, shape, parameters, data)


def _named(item: simdjson.Object, keys: Sequence[str]) -> tuple[str, TensorSpec]:
    if "datatype" not in keys or "name" not in keys:
        raise NotPlain
    name: object = item["name"]
    datatype: object = item["datatype"]
    spec = SPECS.get(datatype) if isinstance(datatype, str) else None
    if spec is None or not isinstance(name, str):
        raise NotPlain
    return name, spec


def _data(scanner: Scanner, value: object, spec: TensorSpec, known: int) -> GivenTensor | int:
    if isinstance(value, simdjson.Array):
        return scanner.tensor(value, spec)
    if type(value) is int and 0 <= value < known:
        return value
    raise NotPlain


def _shape(scanner: Scanner, value: object) -> tuple[int, ...]:
    if not isinstance(value, simdjson.Array) or len(value) > MAX_DEPTH:
        raise NotPlain
    sizes = value.as_list()
    shape = tuple([size for size in sizes if type(size) is int and size >= 0])
    if len(shape) != len(sizes):
        raise NotPlain
    scanner.passed(len(shape))
    return shape


def _output(item: object) -> RequestedOutput:
    if not isinstance(item, simdjson.Object):
        raise NotPlain
    keys = _keys(item)
    name = item["name"] if "name" in keys else None
    if not isinstance(name, str):
        raise NotPlain
    if len(keys) == 1:
        return RequestedOutput(name)
    if len(keys) != 2 or "parameters" not in keys:
        raise NotPlain
    return RequestedOutput(name, _parameters(item["parameters"]))


def _parameters(value: object) -> Parameters:
    if not isinstance(value, simdjson.Object):
        raise NotPlain
    parameters: dict[str, Parameter] = {}
    for key in _keys(value):
        parameter: object = value[key]
        if not isinstance(parameter, (str, bool, int, float)):
            raise NotPlain
        parameters[key] = parameter
    return parameters
