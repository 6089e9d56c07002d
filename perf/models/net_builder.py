# SPDX-License-Identifier: Apache-2.0
"""Program that builds the models whose shapes or size are the point, with reference inputs and outputs.

Run in a process of its own. ``convnet`` is a classifier that takes images of any size, stored with one size: three
convolutions, a mean over the image, a matrix. ``binarynet`` has a binary convolution before the mean, which OpenVINO's
CPU plugin compiles for known shapes only. ``sizes`` is for any size what ``tiny`` is: add one, to rows of any length.
``ballast`` is a model of 100 MB: a row times four square matrices.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

import numpy as np

from perf.models.declared import Float32Array, ModelFiles
from perf.models.nets import BALLAST_WIDTH, NETS, Net

# NOTE: OpenVINO ships no types; taken this way it is Any under every mypy configuration.
ov: Any = importlib.import_module("openvino")
ops: Any = importlib.import_module("openvino.opset13")

_SEED = 20260101
_FILTERS = ((3, 32, 1), (32, 64, 2), (64, 64, 1))
"""Channels, filters and stride of convnet's convolutions."""
_BALLAST_LAYERS = 4


def _normal(random: np.random.Generator, shape: tuple[int, ...], fan_in: int) -> Float32Array:
    return random.normal(0.0, np.sqrt(2.0 / fan_in), shape).astype(np.float32)


def build_convnet(x: Any) -> Any:
    """Some 0.3 to 0.7 GFLOP a run, by the image's size."""
    return _classified(_convolved(x))


def build_binarynet(x: Any) -> Any:
    """The same and 64 binary filters of 3 x 3."""
    width = _FILTERS[-1][1]
    bits = np.random.default_rng(_SEED).integers(0, 2, width * width * 9, dtype=np.uint8)
    weights = ov.op.Constant(ov.Type.u1, ov.Shape([width, width, 3, 3]), bits.tolist())
    ones = [1, 1]
    # Minus one, as relu's outputs are all positive bits otherwise.
    x = ops.subtract(_convolved(x), np.float32(1.0)).output(0)
    return _classified(
        ops.binary_convolution(x, weights, ones, ones, ones, ones, "xnor-popcount", 0.0).output(0)
    )


def _convolved(x: Any) -> Any:
    random = np.random.default_rng(_SEED)
    for channels, filters, stride in _FILTERS:
        weights = _normal(random, (filters, channels, 3, 3), channels * 9)
        x = ops.relu(ops.convolution(x, weights, [stride] * 2, [1, 1], [1, 1], [1, 1])).output(0)
    return x


def _classified(x: Any) -> Any:
    width = _FILTERS[-1][1]
    x = ops.reduce_mean(x, np.array([2, 3], dtype=np.int64), keep_dims=False)
    return ops.matmul(x, _normal(np.random.default_rng(_SEED + 1), (width, 16), width), False, False)


def build_sizes(x: Any) -> Any:
    """Add one."""
    return ops.add(x, np.float32(1.0))


def build_ballast(x: Any) -> Any:
    """Four times 26 MB of weights."""
    random = np.random.default_rng(_SEED)
    for _ in range(_BALLAST_LAYERS):
        x = ops.relu(
            ops.matmul(x, _normal(random, (BALLAST_WIDTH,) * 2, BALLAST_WIDTH), False, False)
        ).output(0)
    return ops.reduce_mean(x, np.array([1], dtype=np.int64), keep_dims=True)


_BUILDERS = {
    "convnet": build_convnet,
    "binarynet": build_binarynet,
    "sizes": build_sizes,
    "ballast": build_ballast,
}


def build(net: Net) -> Any:
    """The model with the first of the net's shapes."""
    x = ops.parameter(list(net.shapes[0]), np.float32, name="x")
    x.output(0).get_tensor().set_names({"x"})
    result = _BUILDERS[net.name](x)
    result.output(0).get_tensor().set_names({"y"})
    return ov.Model([result], [x], net.name)


def references(net: Net, model: Any) -> dict[str, Any]:
    """``inputs_N`` and ``expected_N`` for each shape, by a model that is compiled for that shape alone."""
    random = np.random.default_rng(_SEED)
    found: dict[str, Any] = {}
    for index, shape in enumerate(net.shapes):
        image = random.random(shape, dtype=np.float32)
        copy = model.clone()
        copy.reshape(list(shape))
        output = ov.Core().compile_model(copy, "CPU").create_infer_request().infer([image])[0]
        found |= {f"inputs_{index}": image, f"expected_{index}": np.array(output, dtype=np.float32)}
    return found


def main() -> None:
    """Build the named nets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("names", nargs="+", choices=sorted(NETS))
    arguments = parser.parse_args()
    for name in arguments.names:
        files, net = ModelFiles(arguments.root, name), NETS[name]
        model = build(net)
        files.version_path.mkdir(parents=True)
        files.reference_path.parent.mkdir(parents=True, exist_ok=True)
        ov.save_model(model, str(files.version_path / "model.xml"), compress_to_fp16=False)
        np.savez(files.reference_path, **references(net, model))


if __name__ == "__main__":
    main()
