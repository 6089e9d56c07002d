# SPDX-License-Identifier: Apache-2.0
"""Builds random small graphs and has OpenVINO answer for them directly; a process of its own.

``python -m tests.support.build_random_graphs DIRECTORY FIRST_SEED COUNT``; see :mod:`tests.support.random_graphs`.

Pass-through outputs, several results of one tensor, constants, reshapes in place and dynamic shapes are frequent, as
those are where an engine may share memory. Left out are values that the CPU device computes with fewer bits than they
have (64-bit integers beyond 32 bits, FP64 beyond FP32): whether those are served is another question.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import openvino as ov
import openvino.opset13 as ops

from ovms_mp.child.specs import CpuShare, EngineSpec
from ovms_mp.model.dtypes import NUMERIC_DTYPES, DType, Kind, dtype_of_openvino, element_count
from ovms_mp.worker.engine.engine import create_core
from ovms_mp.worker.engine.properties import compile_properties
from tests.support.random_graphs import Call, Graph, Tensor
from tests.support.worker import settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovms_mp.model.dtypes import AnyArray

Node = Any
_BATCHES = (2, 3, 2)
"""Of the calls, where the batch may vary."""
_MOST_ELEMENTS = 4096
_SPECIALS = 0.05
"""How many of the floating point values are NaN, infinite, or -0.0."""
_FEW_DTYPES = ("f32", "i64", "i32", "u8", "f16")
"""Half of the inputs are of these."""


class _Misfit(Exception):
    """An operation does not go with the tensor that was drawn for it."""


class _Sketch:
    """A graph under construction."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.story: list[str] = []
        self.is_dynamic = self.chance(0.3)
        self.may_have_found_nothing = False
        self.inputs = [self._input(index) for index in range(self.random.integers(1, 4))]
        self.tensors: list[Node] = [node.output(0) for node in self.inputs]

    def chance(self, probability: float) -> bool:
        return bool(self.random.random() < probability)

    def pick(self, things: Any) -> Any:
        return things[int(self.random.integers(len(things)))]

    def _input(self, index: int) -> Node:
        name = self.pick(_FEW_DTYPES if self.chance(0.5) else [dtype.ov_name for dtype in NUMERIC_DTYPES])
        dims = [int(self.random.integers(1, 5)) for _ in range(self.random.integers(0, 5))]
        if dims and self.chance(0.03):
            dims[-1] = 0
        if self.is_dynamic and dims:
            dims[0] = -1
        node = ops.parameter(ov.PartialShape(dims), getattr(ov.Type, name), name=f"in{index}")
        node.output(0).set_names({f"in{index}"})
        self.story.append(f"in{index} {name} {dims}")
        return node

    def grow(self) -> None:
        """Add an operation, if it fits."""
        name, make = self.pick(_OPERATIONS)
        source = self.pick(self.tensors)
        try:
            made = make(self, source)
        except (_Misfit, RuntimeError):
            return
        outputs = [made] if isinstance(made, ov.Output) else list(made.outputs())
        if any(element_count(most(port)) > _MOST_ELEMENTS for port in outputs):
            return
        self.story.append(f"{name}({source.get_element_type()} {source.get_partial_shape()})")
        self.tensors.extend(outputs)

    def model(self) -> ov.Model:
        for _ in range(self.random.integers(0, 7)):
            self.grow()
        results: list[Node] = []
        for index in range(self.random.integers(1, 5)):
            port = self.pick(self.inputs).output(0) if self.chance(0.2) else self.pick(self.tensors)
            self.story.append(f"result {port.get_node().get_friendly_name()}")
            results.append(ops.result(port))
            if not port.get_names():
                port.set_names({f"out{index}"})
        return ov.Model(results, self.inputs, "graph")

    def values(self, port: Any, batch: int) -> Tensor:
        """Values for an input; those of floating point types are of either sign, some are none."""
        dtype = dtype_of_openvino(port.get_element_type().get_type_name())
        if dtype is None:
            raise _Misfit
        shape = tuple(batch if size.is_dynamic else size.get_length() for size in port.get_partial_shape())
        with np.errstate(all="ignore"):
            content = self._drawn(dtype, element_count(shape)).astype(dtype.numpy).tobytes()
        return Tensor(dtype.ov_name, shape, content)

    def _drawn(self, dtype: DType, count: int) -> AnyArray:
        if dtype.kind is Kind.BOOL:
            return self.random.integers(0, 2, count)
        if dtype.kind is Kind.INTEGER:
            bits = min(8 * dtype.itemsize, 31) - 1
            low = 0 if dtype.name.startswith("U") else -(1 << bits)
            return self.random.integers(low, 1 << bits, count)
        drawn = self.random.standard_normal(count).astype(np.float32) * 4
        drawn[self.random.random(count) < _SPECIALS] = self.pick((np.nan, np.inf, -np.inf, -0.0))
        return drawn


def most(port: Any) -> list[int]:
    """A port's shape with 8 for what may vary."""
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        raise _Misfit
    return [8 if size.is_dynamic else size.get_length() for size in shape]


def _dims(port: Any) -> list[int]:
    return [-1 if size.is_dynamic else size.get_length() for size in port.get_partial_shape()]


def _constant_like(sketch: _Sketch, port: Any) -> Node:
    return ops.constant(np.array(int(sketch.random.integers(1, 4))), port.get_element_type())


def _add(sketch: _Sketch, x: Any) -> Node:
    if x.get_element_type() == ov.Type.boolean:
        raise _Misfit
    return ops.add(x, _constant_like(sketch, x))


def _multiply(sketch: _Sketch, x: Any) -> Node:
    if x.get_element_type() == ov.Type.boolean:
        raise _Misfit
    return ops.multiply(x, x if sketch.chance(0.3) else _constant_like(sketch, x))


def _relu(_sketch: _Sketch, x: Any) -> Node:
    if not x.get_element_type().is_real():
        raise _Misfit
    return ops.relu(x)


def _reshape(sketch: _Sketch, x: Any) -> Node:
    dims = _dims(x)
    if not dims or -1 in dims or sketch.chance(0.3):
        return ops.reshape(x, np.array([-1]), False)
    return ops.reshape(
        x, np.array(sketch.pick([dims[::-1], [1, *dims], [*dims, 1], [element_count(dims)]])), False
    )


def _same_reshape(_sketch: _Sketch, x: Any) -> Node:
    return ops.reshape(x, np.zeros(len(_dims(x)), np.int64), True)


def _unsqueeze(sketch: _Sketch, x: Any) -> Node:
    return ops.unsqueeze(x, np.array(int(sketch.random.integers(len(_dims(x)) + 1))))


def _squeeze(_sketch: _Sketch, x: Any) -> Node:
    if 1 not in _dims(x):
        raise _Misfit
    return ops.squeeze(x, np.array(_dims(x).index(1)))


def _transpose(sketch: _Sketch, x: Any) -> Node:
    return ops.transpose(x, sketch.random.permutation(len(_dims(x))))


def _split(sketch: _Sketch, x: Any) -> Node:
    axes = [(axis, size) for axis, size in enumerate(_dims(x)) if size > 1]
    if not axes:
        raise _Misfit
    axis, size = sketch.pick(axes)
    return ops.split(x, np.int64(axis), size if size % 2 else sketch.pick([2, size]))


def _concat(sketch: _Sketch, x: Any) -> Node:
    alike = [
        port
        for port in sketch.tensors
        if port.get_element_type() == x.get_element_type() and len(_dims(port)) == len(_dims(x))
    ]
    if not _dims(x):
        raise _Misfit
    return ops.concat([x, sketch.pick(alike)], int(sketch.random.integers(len(_dims(x)))))


def _convert(sketch: _Sketch, x: Any) -> Node:
    return ops.convert(x, sketch.pick(("f32", "i32", "i64", "f16", "u8", "boolean")))


def _constant(sketch: _Sketch, _x: Any) -> Node:
    dtype = sketch.pick((np.float32, np.int64, np.int32, np.uint8, np.float16, np.float64, np.bool_))
    shape = [int(sketch.random.integers(1, 4)) for _ in range(sketch.random.integers(0, 3))]
    return ops.constant(sketch.random.integers(0, 100, shape).astype(dtype))


def _slice(sketch: _Sketch, x: Any) -> Node:
    axes = [axis for axis, size in enumerate(_dims(x)) if size > 1]
    if not axes:
        raise _Misfit
    one = np.array([1])
    return ops.slice(x, one, np.array([100]), one, np.array([sketch.pick(axes)]))


def _gather(sketch: _Sketch, x: Any) -> Node:
    # Of a tensor without elements it ends the process (SIGFPE; OpenVINO 2026.4 on CPU), as which a trial reports it.
    if 0 in _dims(x) or not _dims(x) or (-1 in _dims(x) and sketch.may_have_found_nothing):
        raise _Misfit
    axes = [axis for axis, size in enumerate(_dims(x)) if size > 0]
    if not axes:
        raise _Misfit
    axis = sketch.pick(axes)
    places = sketch.random.integers(0, _dims(x)[axis], 3)
    return ops.gather(x, places, np.array(axis))


def _tile(_sketch: _Sketch, x: Any) -> Node:
    if not _dims(x):
        raise _Misfit
    return ops.tile(x, np.array([2] + [1] * (len(_dims(x)) - 1)))


def _reduce(sketch: _Sketch, x: Any) -> Node:
    if x.get_element_type() != ov.Type.f32 or not _dims(x):
        raise _Misfit
    axis = int(sketch.random.integers(len(_dims(x))))
    return ops.reduce_max(x, np.array([axis]), sketch.chance(0.5))


def _softmax(_sketch: _Sketch, x: Any) -> Node:
    if x.get_element_type() != ov.Type.f32 or not _dims(x):
        raise _Misfit
    return ops.softmax(x, -1)


def _matmul(sketch: _Sketch, x: Any) -> Node:
    dims = _dims(x)
    if x.get_element_type() != ov.Type.f32 or len(dims) < 2 or dims[-1] < 1:
        raise _Misfit
    weights = sketch.random.standard_normal((dims[-1], 3)).astype(np.float32)
    return ops.matmul(x, ops.constant(weights), False, False)


def _shape_of(_sketch: _Sketch, x: Any) -> Node:
    return ops.shape_of(x, "i64")


def _non_zero(sketch: _Sketch, x: Any) -> Node:
    if x.get_element_type() not in (ov.Type.f32, ov.Type.i32):
        raise _Misfit
    sketch.may_have_found_nothing = True
    return ops.non_zero(x, "i64")


_OPERATIONS: tuple[tuple[str, Callable[[_Sketch, Any], Node]], ...] = tuple(
    (function.__name__.strip("_"), function)
    for function in (
        _add, _multiply, _relu, _reshape, _reshape, _same_reshape, _unsqueeze, _squeeze, _transpose, _split, _split,
        _concat, _convert, _constant, _slice, _gather, _tile, _reduce, _softmax, _matmul, _shape_of, _non_zero,
    )
)  # fmt: skip


def main() -> None:
    """Build what the arguments say."""
    directory, first_seed, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    core = create_core(EngineSpec())
    properties = compile_properties(core, settings(), CpuShare(), "")
    graphs = [
        graph
        for seed in range(first_seed, first_seed + count)
        if (graph := _graph(core, properties, directory / f"{seed}.xml", seed)) is not None
    ]
    (directory / "graphs.msgpack").write_bytes(msgspec.msgpack.encode(graphs))


def _graph(core: ov.Core, properties: dict[str, object], file: Path, seed: int) -> Graph | None:
    """The graph of a seed; None where the engine itself cannot compile it or run it."""
    sketch = _Sketch(seed)
    try:
        ov.save_model(sketch.model(), file, compress_to_fp16=False)
        compiled = core.compile_model(core.read_model(file), "CPU", properties)
        calls = [_call(compiled, sketch, batch) for batch in _BATCHES]
    except (_Misfit, RuntimeError):
        return None
    return Graph(seed, str(file), "; ".join(sketch.story), calls)


def _call(compiled: ov.CompiledModel, sketch: _Sketch, batch: int) -> Call:
    """Ask a fresh infer request that nothing is bound to, as a new process would."""
    request = compiled.create_infer_request()
    inputs = [sketch.values(port, batch) for port in compiled.inputs]
    for index, given in enumerate(inputs):
        tensor = request.get_input_tensor(index)
        if tuple(tensor.shape) != given.shape:
            tensor.shape = given.shape
        _bytes_of(tensor)[:] = np.frombuffer(given.content, np.uint8)
    request.infer()
    return Call(
        inputs, [_tensor_of(request.get_output_tensor(index)) for index in range(len(compiled.outputs))]
    )


def _tensor_of(tensor: ov.Tensor) -> Tensor:
    name = tensor.get_element_type().get_type_name()
    return Tensor(name, tuple(tensor.shape), _bytes_of(tensor).tobytes())


def _bytes_of(tensor: ov.Tensor) -> AnyArray:
    return np.asarray(tensor.data).reshape(-1).view(np.uint8)


if __name__ == "__main__":
    main()
