# SPDX-License-Identifier: Apache-2.0
"""A predict request held against the model's specs: names, shapes and output filter."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from ovms_mp.errors import InputNameMismatch, OutputNameMismatch, ShapeMismatch, shortened
from ovms_mp.front.infer.text_inputs import as_input
from ovms_mp.model.dtypes import DType

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ovms_mp.front.routing import VersionRoute
    from ovms_mp.front.tensors import GivenTensor
    from ovms_mp.model.tensors import TensorSpec

_BYTES = DType.BYTES
_MOST_NAMES = 20
_LONGEST_NAME = 256


def match_inputs(route: VersionRoute, given: Mapping[str, GivenTensor]) -> list[GivenTensor]:
    """The given tensors in the model's order.

    Raises:
        InputNameMismatch: One is missing, or one too many.
        DtypeMismatch: One has strings where the model can make nothing of them, or the other way round.
        ShapeMismatch: One has a shape that the model does not take.
    """
    tensors: list[GivenTensor] = []
    for spec in route.inputs:
        tensor = given.get(spec.name)
        if tensor is None or len(given) != len(route.inputs):
            raise _name_mismatch(route, given)
        if tensor.dtype is _BYTES or spec.dtype is _BYTES:
            tensor = as_input(tensor, spec)
        if tensor.shape != spec.dims and not spec.accepts(tensor.shape):
            raise _shape_mismatch(spec, tensor.shape)
        tensors.append(tensor)
    if len(given) != len(tensors):
        raise _name_mismatch(route, given)
    return tensors


def _names(given: Iterable[str]) -> list[str]:
    """Names that a client gave, for a message."""
    shown = [shortened(name, _LONGEST_NAME) for name in itertools.islice(given, _MOST_NAMES + 1)]
    return shown if len(shown) <= _MOST_NAMES else [*shown[:-1], "..."]


def _name_mismatch(route: VersionRoute, given: Mapping[str, GivenTensor]) -> InputNameMismatch:
    expected = [spec.name for spec in route.inputs]
    text = (
        f"input tensor alias not found in signature: {_names(given)}. Inputs expected to be in the set "
        f"{{{expected}}}."
    )
    missing = [name for name in expected if name not in given]
    return InputNameMismatch(f"{text} {missing_text(missing)}" if missing else text)


def missing_text(names: Sequence[str]) -> str:
    """That inputs are missing, in the same words in every protocol."""
    if len(names) == 1:
        return f"input {shortened(names[0], _LONGEST_NAME)!r} is missing"
    return f"inputs {', '.join(map(repr, _names(names)))} are missing"


def _shape_mismatch(spec: TensorSpec, shape: tuple[int, ...]) -> ShapeMismatch:
    """The legacy server's words, then which input it was."""
    if shape and spec.bounds and spec.accepts((spec.bounds[0][0], *shape[1:])):
        low, high = spec.bounds[0]
        required = str(low) if low == high else f"{low}..{high}"
        return ShapeMismatch(
            f"Input batch size is incorrect. Obtained batch size {shape[0]}, required batch size {required} "
            f"(input {spec.name!r})"
        )
    return ShapeMismatch(
        f"The input data is incorrect. Obtained shape {list(shape)}, required shape {spec.shape_text()} "
        f"(input {spec.name!r})"
    )


def match_filter(route: VersionRoute, output_filter: Sequence[str]) -> frozenset[str] | None:
    """The wanted outputs; None for all.

    Raises:
        OutputNameMismatch: The filter names an output that the model lacks.
    """
    if not output_filter:
        return None
    names = [spec.name for spec in route.outputs]
    for name in output_filter:
        if name not in names:
            raise OutputNameMismatch(
                f"output tensor alias not found in signature: {shortened(name, _LONGEST_NAME)!r}. Outputs expected to "
                f"be in the set {names}."
            )
    return frozenset(output_filter)
