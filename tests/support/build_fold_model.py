# SPDX-License-Identifier: Apache-2.0
"""Builds ``fold``: ``x`` f32 [1] -> ``y`` = x + 2.5e8. 3 KB on disk; compiling it folds constants of 1 GB."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import openvino as ov
import openvino.opset13 as ops

_COUNT = 250_000_000


def main() -> None:
    """Build it below the directory of the first argument."""
    x = ops.parameter([1], np.float32, name="x")
    x.output(0).set_names({"x"})
    ones = ops.broadcast(ops.constant(np.float32(1)), np.array([_COUNT]))
    result = ops.result(ops.add(x, ops.reduce_sum(ones, np.array([0]), True)))
    result.output(0).set_names({"y"})
    directory = Path(sys.argv[1]) / "fold" / "1"
    directory.mkdir(parents=True)
    ov.save_model(ov.Model([result], [x], "fold"), directory / "model.xml", compress_to_fp16=False)


if __name__ == "__main__":
    main()
