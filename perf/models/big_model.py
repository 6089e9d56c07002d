# SPDX-License-Identifier: Apache-2.0
"""Program that writes a large ONNX model: a row of matrix products, whose weights are nearly all of its size.

The weights are in the file itself, as most converters leave them below 2 GB, so that whoever loads it has to go through
all of it. Every layer has numbers of its own: an engine that notices equal weights would load less.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

WIDTH = 4096
"""Inputs and outputs of each layer; its FP32 weights take 64 MiB."""
_LAYER_MB = WIDTH * WIDTH * 4 // 1_000_000
_MOST_MB = 2000
"""A protobuf message ends at 2 GiB."""
_SEED = 20261127


def write(path: Path, size_mb: int) -> None:
    """Write a model of about this size.

    Args:
        path: Where to.
        size_mb: In millions of bytes; at least one layer is made.
    """
    layers = max(1, size_mb // _LAYER_MB)
    random = np.random.default_rng(_SEED)
    nodes, weights = [], []
    value = "x"
    for layer in range(layers):
        # Scaled so that values neither grow nor fade from layer to layer.
        drawn = random.standard_normal((WIDTH, WIDTH), dtype=np.float32) * np.float32(WIDTH**-0.5)
        weights.append(
            helper.make_tensor(f"w{layer}", TensorProto.FLOAT, drawn.shape, drawn.tobytes(), raw=True)
        )
        result = "y" if layer == layers - 1 else f"h{layer}"
        nodes.append(helper.make_node("MatMul", [value, f"w{layer}"], [result]))
        value = result
    graph = helper.make_graph(
        nodes,
        "big",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, WIDTH))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, WIDTH))],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(model.SerializeToString())


def main() -> None:
    """Write the model that the command line asks for."""
    parser = argparse.ArgumentParser(description="Write a large ONNX model.")
    parser.add_argument("path", type=Path)
    parser.add_argument("--size_mb", type=int, default=1900)
    arguments = parser.parse_args()
    if not 1 <= arguments.size_mb <= _MOST_MB:
        parser.error(f"--size_mb {arguments.size_mb}: must be 1 to {_MOST_MB}, as ONNX embeds no more")
    write(arguments.path, arguments.size_mb)


if __name__ == "__main__":
    main()
