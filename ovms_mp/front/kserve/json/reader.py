# SPDX-License-Identifier: Apache-2.0
"""The reader that decides what the JSON of an inference request says, from Python objects; it words every error.

Keys that it does not know are ignored, and ``null`` is as good as no key. See :mod:`ovms_mp.front.json.scanner`.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from ovms_mp.errors import MalformedPayload
from ovms_mp.front.json.reader import MAX_DEPTH, described, quoted, tensor_of
from ovms_mp.front.kserve.datatypes import dtype_named
from ovms_mp.front.kserve.infer_request import NO_PARAMETERS, RequestedOutput
from ovms_mp.front.kserve.json.request import JsonInput, JsonRequest
from ovms_mp.front.strings import Strings
from ovms_mp.front.tensors import GivenTensor, bytes_tensor
from ovms_mp.model.dtypes import DType
from ovms_mp.model.tensors import TensorSpec

if TYPE_CHECKING:
    from ovms_mp.front.kserve.infer_request import Parameter, Parameters

ADVICE = "send numbers as plain lists, or tensors in binary form (Inference-Header-Content-Length)"
_LEAST, _GREATEST = -(1 << 63), (1 << 64) - 1
"""Of an integer as a parameter."""


def read_infer(document: object) -> JsonRequest:
    """Read an inference request from Python objects.

    Raises:
        MalformedPayload: It is none.
    """
    if type(document) is not dict:
        raise MalformedPayload(
            f"Invalid JSON in request body: expected an object with 'inputs', found {described(document)}"
        )
    inputs = document.get("inputs")
    if inputs is None or inputs == []:
        raise MalformedPayload(
            f"Invalid JSON structure, missing inputs: the keys are {[quoted(key) for key in list(document)[:10]]}, and "
            f"'inputs' must be a list of at least one input"
        )
    outputs = document.get("outputs")
    return JsonRequest(
        _id(document.get("id")),
        _parameters(document.get("parameters"), "the request"),
        [_input(item, f"inputs[{index}]") for index, item in enumerate(_list(inputs, "inputs"))],
        [
            _output(item, f"outputs[{index}]")
            for index, item in enumerate(_list([] if outputs is None else outputs, "outputs"))
        ],
    )


def _id(value: object) -> str:
    """The request's id; a number is taken for its text."""
    if value is None:
        return ""
    if type(value) is int:
        return str(value)
    if not isinstance(value, str):
        raise MalformedPayload(f"'id' must be a string, found {described(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise MalformedPayload(f"'id' is no text: {quoted(value)} holds half a surrogate pair") from None
    return value


def _list(value: object, key: str) -> list[object]:
    if type(value) is not list:
        what = "input" if key == "inputs" else "output"
        raise MalformedPayload(
            f"Could not parse {what} content. {key!r} must be a list, found {described(value)}"
        )
    return value


def _input(item: object, place: str) -> JsonInput:
    if type(item) is not dict:
        raise _no_input(f"{place} must be an object, found {described(item)}")
    name, datatype = item.get("name"), item.get("datatype")
    if not isinstance(name, str):
        raise _no_input(f"{place} must have a string as 'name', found {described(name)}")
    if not isinstance(datatype, str):
        raise _no_input(f"input {quoted(name)} must have a string as 'datatype', found {described(datatype)}")
    dtype = dtype_named(datatype, name)
    shape = _shape(item.get("shape"), name)
    parameters = _parameters(item.get("parameters"), f"input {quoted(name)}")
    return JsonInput(name, dtype, shape, parameters, _data(item.get("data"), dtype, name))


def _shape(value: object, name: str) -> tuple[int, ...]:
    if type(value) is not list:
        raise _no_input(
            f"input {quoted(name)} must have a list of numbers as 'shape', found {described(value)}"
        )
    if len(value) > MAX_DEPTH:
        raise _no_input(f"input {quoted(name)}: 'shape' has {len(value)} dimensions, more than {MAX_DEPTH}")
    for index, size in enumerate(value):
        if type(size) is not int or size < 0:
            raise _no_input(
                f"input {quoted(name)}: shape[{index}] is {described(size)}, expected a whole number that is not "
                f"negative"
            )
    return tuple(value)


def _data(value: object, dtype: DType, name: str) -> GivenTensor | None:
    if value is None:
        return None
    if type(value) is not list:
        raise _no_input(f"input {quoted(name)}: 'data' must be a list, found {described(value)}")
    if dtype is DType.BYTES:
        return _strings(value, name)
    return tensor_of(value, TensorSpec.of(name, dtype, ()), "data")


def _strings(value: list[object], name: str) -> GivenTensor:
    """The strings of nested lists, as UTF-8."""
    level: list[object] = [value]
    shape: list[int] = []
    while level and type(level[0]) is list:
        lists = [item for item in level if type(item) is list]
        size = len(lists[0])
        if len(lists) != len(level) or any(len(item) != size for item in lists) or len(shape) >= MAX_DEPTH:
            raise _no_input(f"input {quoted(name)} (BYTES): 'data' is neither flat nor nested regularly")
        shape.append(size)
        level = list(chain.from_iterable(lists))
    texts: list[bytes] = []
    for index, text in enumerate(level):
        if not isinstance(text, str):
            raise _no_input(
                f"input {quoted(name)} (BYTES): element {index} of data is {described(text)}, expected a string; "
                f"octets that are no text can be sent in binary form (binary_data_size)"
            )
        try:
            texts.append(text.encode())
        except UnicodeEncodeError:
            raise _no_input(
                f"input {quoted(name)} (BYTES): element {index} of data holds half a surrogate pair, which is no text"
            ) from None
    return bytes_tensor(tuple(shape), Strings.of(texts))


def _output(item: object, place: str) -> RequestedOutput:
    if type(item) is not dict:
        raise MalformedPayload(
            f"Could not parse output content. {place} must be an object, found {described(item)}"
        )
    name = item.get("name")
    if not isinstance(name, str):
        raise MalformedPayload(
            f"Could not parse output content. {place} must have a string as 'name', found {described(name)}"
        )
    return RequestedOutput(name, _parameters(item.get("parameters"), f"output {quoted(name)}"))


def _parameters(value: object, owner: str) -> Parameters:
    if value is None:
        return NO_PARAMETERS
    if type(value) is not dict:
        raise MalformedPayload(
            f"Could not parse request parameters: those of {owner} must be an object, found {described(value)}"
        )
    parameters: dict[str, Parameter] = {}
    for key, parameter in value.items():
        if not isinstance(parameter, (str, bool, int, float)):
            raise MalformedPayload(
                f"Could not parse request parameters: {quoted(key)} of {owner} is {described(parameter)}, expected a "
                f"string, a number or a boolean"
            )
        if isinstance(parameter, int) and not _LEAST <= parameter <= _GREATEST:
            raise MalformedPayload(
                f"Could not parse request parameters: {quoted(key)} of {owner} is {described(parameter)}, which has "
                f"more than 64 bits"
            )
        parameters[key] = parameter
    return parameters


def _no_input(reason: str) -> MalformedPayload:
    """The refusal of an input; all begin with the words of the OVMS."""
    return MalformedPayload(f"Could not parse input content. {reason}")
