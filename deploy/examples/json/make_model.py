# SPDX-License-Identifier: Apache-2.0
"""Makes the model `rent`, a formula with inputs of three types. Where it comes from makes no difference to clients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
import openvino.opset15 as ops

BASE = 250
PER_SQUARE_METRE = 8
PER_ROOM = 60
GARDEN = 100


def rent() -> ov.Model:
    """``area`` f32 [-1], ``rooms`` i32 [-1], ``garden`` bool [-1] -> ``rent`` f32 [-1]."""
    inputs = {}
    for name, dtype in (("area", np.float32), ("rooms", np.int32), ("garden", np.bool_)):
        inputs[name] = ops.parameter([-1], dtype, name=name)
        inputs[name].output(0).set_names({name})
    parts = [
        (inputs["area"], PER_SQUARE_METRE),
        (ops.convert(inputs["rooms"], "f32"), PER_ROOM),
        (ops.convert(inputs["garden"], "f32"), GARDEN),
    ]
    total = ops.constant(np.float32(BASE))
    for value, price in parts:
        total = ops.add(total, ops.multiply(value, np.float32(price)))
    result = ops.result(total)
    result.output(0).set_names({"rent"})
    return ov.Model([result], list(inputs.values()), "rent")


if __name__ == "__main__":
    version = Path("models/rent/1")
    version.mkdir(parents=True, exist_ok=True)
    ov.save_model(rent(), version / "model.xml", compress_to_fp16=False)
