# SPDX-License-Identifier: Apache-2.0
"""Builds models that take some milliseconds, with what OpenVINO itself answers; a process of its own.

images: ``x`` f32 [1,3,96,96] -> ``y`` f32 [1,16], convolutions.
open: the same for images of any height, [1,3,-1,96].
Beside each ``answers.npz``: some inputs, and the answers of one compiled model with the hint LATENCY.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import openvino as ov
import openvino.opset13 as ops

_INPUTS = 16


def main() -> None:
    """Build everything below the directory of the first argument."""
    root = Path(sys.argv[1])
    for name, height in (("images", 96), ("open", -1)):
        directory = root / name / "1"
        directory.mkdir(parents=True)
        model = _model(name, height)
        ov.save_model(model, directory / "model.xml", compress_to_fp16=False)
        compiled = ov.Core().compile_model(model, "CPU", {"PERFORMANCE_HINT": "LATENCY"})
        random = np.random.default_rng(4)
        inputs = [random.standard_normal((1, 3, 96, 96), np.float32) for _ in range(_INPUTS)]
        answers = [compiled(x)[0] for x in inputs]
        np.savez(root / f"{name}.npz", inputs=np.stack(inputs), answers=np.stack(answers))


def _model(name: str, height: int) -> ov.Model:
    random = np.random.default_rng(3)
    x = ops.parameter(ov.PartialShape([1, 3, height, 96]), ov.Type.f32, name="x")
    x.output(0).set_names({"x"})
    node, channels = x, 3
    for filters in (32, 64, 64, 16):
        weights = random.normal(0.0, np.sqrt(2 / (9 * channels)), (filters, channels, 3, 3))
        node = ops.relu(ops.convolution(node, weights.astype(np.float32), [1, 1], [1, 1], [1, 1], [1, 1]))
        channels = filters
    result = ops.result(ops.reduce_mean(node, np.array([2, 3]), False))
    result.output(0).set_names({"y"})
    return ov.Model([result], [x], name)


if __name__ == "__main__":
    main()
