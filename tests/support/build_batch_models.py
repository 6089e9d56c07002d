# SPDX-License-Identifier: Apache-2.0
"""Builds models that can be batched, and one for each reason why a model cannot be. Inputs ``x``, outputs ``y``.

``mlp``: f32 [1, 64] to [1, 16]; ``pick``: the same beside i32 [1, 1], which must be a row of a table of 4. ``wide`` is
one whose weights take long to be read, so that batches pay whatever else the machine does.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import openvino as ov
import openvino.opset13 as ops

if TYPE_CHECKING:
    from collections.abc import Callable


def _weights(rows: int, columns: int) -> ov.Node:
    random = np.random.default_rng(rows + columns)
    return ops.constant((random.standard_normal((rows, columns)) / rows**0.5).astype(np.float32))


def _parameter(name: str, shape: list[int], kind: type) -> ov.Node:
    parameter = ops.parameter(shape, kind, name=name)
    parameter.output(0).set_names({name})
    return parameter


def _model(result: ov.Output, parameters: list[ov.Node]) -> ov.Model:
    node = ops.result(result)
    node.output(0).set_names({"y"})
    return ov.Model([node], parameters, "model")


def _layers(x: ov.Node) -> ov.Node:
    hidden = ops.relu(ops.matmul(x, _weights(64, 1024), False, False))
    return ops.matmul(hidden, _weights(1024, 16), False, False)


def mlp() -> ov.Model:
    """Rows that do not depend on each other."""
    x = _parameter("x", [1, 64], np.float32)
    return _model(_layers(x).output(0), [x])


def pick() -> ov.Model:
    """An input that makes a run fail, of whoever is in it."""
    x, row = _parameter("x", [1, 64], np.float32), _parameter("row", [1, 1], np.int32)
    chosen = ops.embedding_bag_packed_sum(ops.constant(np.eye(4, 16, dtype=np.float32)), row)
    return _model(ops.add(_layers(x), chosen).output(0), [x, row])


def wide() -> ov.Model:
    """Layers of 2048, so that a run is bound by reading them."""
    x = _parameter("x", [1, 64], np.float32)
    node = ops.matmul(x, _weights(64, 2048), False, False)
    for _ in range(3):
        node = ops.matmul(ops.relu(node), _weights(2048, 2048), False, False)
    return _model(node.output(0), [x])


def alarming() -> ov.Model:
    """One sample of a batch that is unusual changes the answers of all; others do not."""
    x = _parameter("x", [1, 64], np.float32)
    is_unusual = ops.greater(ops.reduce_max(x, ops.constant([0, 1]), True), ops.constant(np.float32(1000)))
    return _model(ops.select(is_unusual, ops.constant(np.float32(0)), _layers(x)).output(0), [x])


def causal() -> ov.Model:
    """Samples that look, a little, at those before them."""
    x = _parameter("x", [1, 64], np.float32)
    before = ops.cum_sum(x, ops.constant(0), exclusive=True)
    little = ops.multiply(ops.reduce_mean(before, ops.constant([1]), True), ops.constant(np.float32(0.001)))
    return _model(ops.add(_layers(x), little).output(0), [x])


def passing() -> ov.Model:
    """An output that is the input, beside one that is not."""
    x = _parameter("x", [-1, 64], np.float32)
    model = _model(_layers(x).output(0), [x])
    same = ops.result(x)
    same.output(0).set_names({"same"})
    model.add_results([same])
    return model


def open_batch() -> ov.Model:
    """As ``mlp``, with a batch that clients choose."""
    x = _parameter("x", [-1, 64], np.float32)
    return _model(_layers(x).output(0), [x])


def lengths() -> ov.Model:
    """As long as its input, beside that."""
    x = _parameter("x", [1, -1], np.float32)
    model = _model(ops.tanh(ops.multiply(x, ops.constant(np.float32(1.5)))).output(0), [x])
    same = ops.result(x)
    same.output(0).set_names({"same"})
    model.add_results([same])
    return model


def sixteens() -> ov.Model:
    """Rows of 16 of an input of any length, so that two of 8 would be one row."""
    x = _parameter("x", [1, -1], np.float32)
    rows = ops.reshape(x, ops.constant([-1, 16]), False)
    normal = ops.subtract(rows, ops.reduce_mean(rows, ops.constant([1]), True))
    return _model(ops.reshape(normal, ops.shape_of(x), False).output(0), [x])


def mixing() -> ov.Model:
    """Rows that look at each other, a little."""
    x = _parameter("x", [1, 64], np.float32)
    mean = ops.reduce_mean(x, ops.constant([0]), True)
    little = ops.multiply(ops.reduce_mean(mean, ops.constant([1]), True), ops.constant(np.float32(0.05)))
    return _model(ops.subtract(_layers(x), little).output(0), [x])


def summing() -> ov.Model:
    """An output that does not grow with the batch."""
    x = _parameter("x", [1, 64], np.float32)
    return _model(ops.reduce_sum(x, ops.constant([0]), True).output(0), [x])


def scalar() -> ov.Model:
    """An output without dimensions."""
    x = _parameter("x", [1, 64], np.float32)
    return _model(ops.reduce_sum(x, ops.constant([0, 1]), False).output(0), [x])


def finding() -> ov.Model:
    """An output whose shape depends on the data."""
    x = _parameter("x", [1, 64], np.float32)
    return _model(ops.non_zero(x, "i32").output(0), [x])


def uneven() -> ov.Model:
    """Inputs of different batches."""
    x, other = _parameter("x", [1, 64], np.float32), _parameter("other", [2, 64], np.float32)
    return _model(ops.add(x, other).output(0), [x, other])


MODELS: tuple[Callable[[], ov.Model], ...] = (
    *(mlp, wide, pick, open_batch, passing, lengths, sixteens),
    *(mixing, alarming, causal, summing, scalar, finding, uneven),
)


def main() -> None:
    """Build them below the directory of the first argument."""
    for make in MODELS:
        directory = Path(sys.argv[1]) / make.__name__ / "1"
        directory.mkdir(parents=True)
        ov.save_model(make(), directory / "model.xml", compress_to_fp16=False)


if __name__ == "__main__":
    main()
