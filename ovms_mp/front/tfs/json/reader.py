# SPDX-License-Identifier: Apache-2.0
"""The reader that decides what a JSON predict request says, from Python objects; it words every error.

The scan in :mod:`~ovms_mp.front.tfs.json.decode` handles what most clients send; see
:mod:`ovms_mp.front.json.scanner`. Runs in the fronts.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ovms_mp.errors import MalformedPayload
from ovms_mp.front.infer.text_inputs import takes_strings
from ovms_mp.front.infer.validation import missing_text
from ovms_mp.front.json.reader import described, invalid, quoted, strings_of, tensor_of
from ovms_mp.front.tensors import BytesTensor, NumberTensor
from ovms_mp.model.dtypes import DType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.model.tensors import TensorSpec


JsonTensor: TypeAlias = NumberTensor | BytesTensor
"""What values become."""


class JsonFormat(enum.Enum):
    """The two forms of a predict request; the answer has the same form. The value is the answer's key."""

    ROW = "predictions"
    """``instances``: a list of what belongs to one element of the batch."""
    COLUMN = "outputs"
    """``inputs``: whole tensors."""


def read_predict(document: object, inputs: Sequence[TensorSpec]) -> tuple[JsonFormat, dict[str, JsonTensor]]:
    """Read a predict request from Python objects.

    Raises:
        MalformedPayload: See :func:`ovms_mp.front.tfs.json.decode.decode_predict`.
    """
    if type(document) is not dict:
        raise MalformedPayload(
            f"Invalid JSON in request body: expected an object with 'instances' (row format) or 'inputs' "
            f"(column format), found {described(document)}"
        )
    has_rows, has_columns = "instances" in document, "inputs" in document
    if has_rows == has_columns:
        keys = [quoted(key) for key in list(document)[:10]]
        found = "it has both" if has_rows else f"its keys are {keys}"
        missing = "" if has_rows else _missing(inputs)
        raise invalid(
            f"{missing}exactly one of 'instances' (row format) and 'inputs' (column format) is expected, {found}"
        )
    if has_rows:
        return JsonFormat.ROW, _read_rows(document["instances"], inputs)
    return JsonFormat.COLUMN, _read_columns(document["inputs"], inputs)


def _read_rows(rows: object, inputs: Sequence[TensorSpec]) -> dict[str, JsonTensor]:
    if type(rows) is not list or not rows:
        missing = "" if rows else _missing(inputs)
        raise invalid(f"{missing}'instances' must be a non-empty list, found {described(rows)}")
    if type(rows[0]) is not dict or _is_binary(rows[0], inputs):
        spec = _only_input(inputs, "'instances' must be a list of objects with these keys")
        return {spec.name: _tensor(rows, spec, "instances")}
    names = {spec.name for spec in inputs}
    for index, row in enumerate(rows):
        if type(row) is not dict:
            raise invalid(f"instances[0] is an object, but instances[{index}] is {described(row)}")
        if row.keys() != names:
            lacking = [spec for spec in inputs if spec.name not in row]
            raise invalid(
                f"{_missing(lacking)}instances[{index}] must have exactly the model's inputs {_names(inputs)} as keys, "
                f"found {[quoted(key) for key in list(row)[:10]]}"
            )
    return {
        spec.name: _tensor([row[spec.name] for row in rows], spec, "instances", f"[{spec.name!r}]")
        for spec in inputs
    }


def _read_columns(columns: object, inputs: Sequence[TensorSpec]) -> dict[str, JsonTensor]:
    if type(columns) is not dict or _is_binary(columns, inputs):
        if columns is None or columns == []:
            raise invalid(
                f"{_missing(inputs)}'inputs' must be a tensor or an object with the model's inputs, found "
                f"{described(columns)}"
            )
        spec = _only_input(inputs, "'inputs' must be an object with these keys")
        return {spec.name: _tensor(columns, spec, "inputs")}
    if not columns:
        raise invalid(
            f"{_missing(inputs)}'inputs' is an empty object, expected one with the model's inputs {_names(inputs)} as "
            f"keys"
        )
    specs = {spec.name: spec for spec in inputs}
    given: dict[str, JsonTensor] = {}
    for name, value in columns.items():
        spec_or_none = specs.get(name)
        if spec_or_none is None:
            # The service refuses the name, whatever the value: without a dtype nothing can be said of it.
            given[name] = NumberTensor(DType.FP64, (0,), np.empty(0, np.float64))
        else:
            given[name] = _tensor(value, spec_or_none, f"inputs[{name!r}]")
    return given


def _tensor(value: object, spec: TensorSpec, place: str, after_index: str = "") -> JsonTensor:
    """A tensor of strings where the model takes nothing else, or takes them and the first element is one."""
    first = value
    while type(first) is list and first:
        first = first[0]
    if spec.dtype is DType.BYTES or (type(first) in (str, dict) and takes_strings(spec)):
        return strings_of(value, spec, place, after_index)
    return tensor_of(value, spec, place, after_index)


def _only_input(inputs: Sequence[TensorSpec], remedy: str) -> TensorSpec:
    if len(inputs) != 1:
        raise invalid(
            f"values without a name are accepted for models of one input only; the model has "
            f"{_names(inputs)}, so {remedy}"
        )
    return inputs[0]


def _is_binary(value: dict[str, object], inputs: Sequence[TensorSpec]) -> bool:
    """Whether an object is TensorFlow Serving's form of a binary string and not a row of inputs."""
    return value.keys() == {"b64"} and all(spec.name != "b64" for spec in inputs)


def _missing(inputs: Sequence[TensorSpec]) -> str:
    """That these are missing, ahead of what was found instead; empty for none."""
    return f"{missing_text(_names(inputs))}; " if inputs else ""


def _names(inputs: Sequence[TensorSpec]) -> list[str]:
    return [spec.name for spec in inputs]
