# SPDX-License-Identifier: Apache-2.0
"""Whether two compiled models of one version answer the same, bit by bit, on values whose sums depend on their order.

Both run in infer requests of their own, with tensors of their own, on shapes that the proof has run both on: one that
is served meanwhile is not to be given anything that it may fail on.
"""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING

import numpy as np
import openvino as ov

from ovms_mp.model.dtypes import DType, Kind, element_count
from ovms_mp.worker.load.string_tensors import run

if TYPE_CHECKING:
    from ovms_mp.model.dtypes import AnyArray
    from ovms_mp.model.tensors import TensorSpec
    from ovms_mp.worker.load.compiled import CompiledVersion

_SEED = 11
_BELOW_ONE = 0.93
"""Also when rounded to the eight bits of an FP8."""
_WIDE = 3.0
"""Beyond what activations cut off, and far from what an FP8 can hold."""
_TIMES = 4
_ENOUGH_S = 1.0
"""Whoever is served waits for these runs as for others'."""


def agree(serving: ov.CompiledModel, version: CompiledVersion) -> bool:
    """Whether a version answers as the compiled model does that serves it; also where it takes strings only."""
    if any(spec.dtype is DType.BYTES for spec in (*version.inputs, *version.outputs)):
        return True  # There is nothing to be rounded in strings; the proof has compared some.
    random, until_s = np.random.default_rng(_SEED), time.monotonic() + _ENOUGH_S
    requests = serving.create_infer_request(), version.compiled.create_infer_request()
    for _ in range(_TIMES):
        given = [
            random_input(spec, shape, random)
            for spec, shape in zip(version.inputs, version.tried_shapes, strict=True)
        ]
        try:
            if _answers(requests[0], version, given) != _answers(requests[1], version, given):
                return False
        except RuntimeError:
            return False  # A value of these is one that it cannot take.
        if time.monotonic() > until_s:
            break
    return True


def sampled_answers(version: CompiledVersion) -> tuple[bytes, ...]:
    """Digests of what a version answers to the same values; fewer of a slow one, none where it cannot take them.

    For a version that does not serve yet, so that no infer request is made beside a run.
    """
    if any(spec.dtype is DType.BYTES for spec in (*version.inputs, *version.outputs)):
        return (b"",)  # There is nothing to be rounded in strings; the proof has compared some.
    random, until_s = np.random.default_rng(_SEED), time.monotonic() + _ENOUGH_S
    request = version.compiled.create_infer_request()
    found: list[bytes] = []
    while len(found) < _TIMES and (not found or time.monotonic() < until_s):
        given = [
            random_input(spec, shape, random)
            for spec, shape in zip(version.inputs, version.tried_shapes, strict=True)
        ]
        try:
            answers = _answers(request, version, given)
        except RuntimeError:
            return ()  # A value of these is one that it cannot take.
        found.append(hashlib.blake2b(b"".join(answers), digest_size=16).digest())
    return tuple(found)


def random_input(
    spec: TensorSpec, shape: tuple[int, ...], random: np.random.Generator, *, is_wide: bool = False
) -> AnyArray:
    """Values of an input.

    No integer is above 1: it may be an index, and some operations read wherever that points. Fractions are from 0 to
    below 1, as they may become integers.

    Args:
        spec: Of the input.
        shape: Of its value.
        random: Where values come from.
        is_wide: Fractions of either sign, and beyond 1; for models in which they do not become integers.
    """
    count = element_count(shape)
    if spec.dtype.kind is Kind.FLOAT and is_wide:
        return (_WIDE * random.standard_normal(count)).astype(spec.dtype.numpy).view(np.uint8)
    if spec.dtype.kind is Kind.FLOAT:
        return (_BELOW_ONE * random.random(count)).astype(spec.dtype.numpy).view(np.uint8)
    return random.integers(0, 2, count).astype(spec.dtype.numpy).view(np.uint8)


def input_tensor(
    request: ov.InferRequest, index: int, shape: tuple[int, ...], *, is_bound: bool
) -> ov.Tensor:
    """An input of an infer request, with this shape, to be filled.

    All runs of one compiled model are on tensors that they are bound to, or all on the engine's own. Seen with OpenVINO
    2026.4 on CPU, with dynamic shapes: a run on the engine's own has its inputs copied to where those of the run before
    were, in a client's memory, or in what has been given back, which ends the process.

    Args:
        request: Not running.
        index: Of the input.
        shape: To have.
        is_bound: Whether the tensor is one of ours that the request is bound to, and not the engine's own.
    """
    tensor = request.get_input_tensor(index)
    if is_bound:
        tensor = ov.Tensor(tensor.element_type, ov.Shape(shape))
        request.set_input_tensor(index, tensor)
    elif tuple(tensor.shape) != shape:
        tensor.shape = ov.Shape(shape)
    return tensor


def _answers(request: ov.InferRequest, version: CompiledVersion, given: list[AnyArray]) -> list[bytes]:
    for index, (shape, array) in enumerate(zip(version.tried_shapes, given, strict=True)):
        tensor = input_tensor(request, index, shape, is_bound=not version.copies_inputs)
        np.asarray(tensor.data).reshape(-1).view(np.uint8)[:] = array
    if version.has_states:
        request.reset_state()
    run(request)
    return [
        np.asarray(request.get_output_tensor(index).data).tobytes() for index in range(len(version.outputs))
    ]
