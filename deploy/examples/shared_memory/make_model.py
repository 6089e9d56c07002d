# SPDX-License-Identifier: Apache-2.0
"""Makes the model `negative`: a photo in, its negative out. What counts here is the way of the pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
import openvino.opset15 as ops


def negative() -> ov.Model:
    """``photo`` u8 [1080,1920,3] -> ``negative``, the same."""
    photo = ops.parameter([1080, 1920, 3], np.uint8, name="photo")
    photo.output(0).set_names({"photo"})
    result = ops.result(ops.subtract(np.uint8(255), photo))
    result.output(0).set_names({"negative"})
    return ov.Model([result], [photo], "negative")


if __name__ == "__main__":
    version = Path("models/negative/1")
    version.mkdir(parents=True, exist_ok=True)
    ov.save_model(negative(), version / "model.xml")
