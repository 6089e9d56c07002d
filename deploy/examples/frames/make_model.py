# SPDX-License-Identifier: Apache-2.0
"""Makes the model `ball`, which says where in a frame the light is: its centre of brightness."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
import openvino.opset15 as ops

HEIGHT, WIDTH = 48, 64


def ball() -> ov.Model:
    """``frame`` u8 [48,64] -> ``place`` f32 [2], row and column; of a dark frame 0, 0."""
    frame = ops.parameter([HEIGHT, WIDTH], np.uint8, name="frame")
    frame.output(0).set_names({"frame"})
    light = ops.convert(frame, "f32")
    both = np.array([0, 1])
    total = ops.maximum(ops.reduce_sum(light, both), np.float32(1))
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    centres = [
        ops.divide(ops.reduce_sum(ops.multiply(light, positions), both), total)
        for positions in (rows, columns)
    ]
    place = ops.result(ops.concat([ops.unsqueeze(centre, np.array([0])) for centre in centres], 0))
    place.output(0).set_names({"place"})
    return ov.Model([place], [frame], "ball")


if __name__ == "__main__":
    version = Path("models/ball/1")
    version.mkdir(parents=True, exist_ok=True)
    ov.save_model(ball(), version / "model.xml", compress_to_fp16=False)
