# SPDX-License-Identifier: Apache-2.0
"""Makes the model `net`: convolutions with fixed random weights, which take about a millisecond."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import openvino as ov
import openvino.opset15 as ops

CHANNELS = (3, 16, 32, 32)


def net() -> ov.Model:
    """``image`` f32 [-1,3,-1,-1] -> ``features`` f32 [-1,32]: a small one for small images, a large one for large."""
    image = ops.parameter([-1, 3, -1, -1], np.float32, name="image")
    image.output(0).set_names({"image"})
    random = np.random.default_rng(1)
    node = image
    for before, after in pairwise(CHANNELS):
        weights = random.normal(0, (9 * before) ** -0.5, (after, before, 3, 3)).astype(np.float32)
        node = ops.relu(ops.convolution(node, weights, [2, 2], [1, 1], [1, 1], [1, 1]))
    features = ops.result(ops.reduce_mean(node, np.array([2, 3])))
    features.output(0).set_names({"features"})
    return ov.Model([features], [image], "net")


if __name__ == "__main__":
    version = Path("models/net/1")
    version.mkdir(parents=True, exist_ok=True)
    ov.save_model(net(), version / "model.xml")
