# SPDX-License-Identifier: Apache-2.0
"""Makes the model `layers`: a perceptron with fixed random weights."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import openvino as ov
import openvino.opset15 as ops

SIZES = (64, 512, 512, 512, 10)


def layers() -> ov.Model:
    """``x`` f32 [1,64] -> ``y`` f32 [1,10], probabilities."""
    x = ops.parameter([1, SIZES[0]], np.float32, name="x")
    x.output(0).set_names({"x"})
    random = np.random.default_rng(3)
    node = x
    for before, after in pairwise(SIZES):
        weights = random.normal(0, before**-0.5, (before, after)).astype(np.float32)
        node = ops.tanh(ops.matmul(node, weights, False, False))
    y = ops.result(ops.softmax(node, 1))
    y.output(0).set_names({"y"})
    return ov.Model([y], [x], "layers")


if __name__ == "__main__":
    version = Path("models/layers/1")
    version.mkdir(parents=True, exist_ok=True)
    ov.save_model(layers(), version / "model.xml", compress_to_fp16=False)
