# SPDX-License-Identifier: Apache-2.0
"""Makes the model `colours`, its labels, and two photos (well, drawings) to try it with.

It answers how much of a picture has which colour: each pixel counts for the colour that is nearest to it. That is a
classifier with fixed weights, so anybody can see whether its answer is right.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import openvino as ov
import openvino.opset15 as ops

COLOURS = {
    "black": (0, 0, 0),
    "grey": (128, 128, 128),
    "white": (255, 255, 255),
    "red": (230, 30, 30),
    "orange": (250, 140, 30),
    "yellow": (250, 230, 50),
    "green": (50, 150, 50),
    "blue": (60, 120, 220),
}
"""Red, green and blue of each. The server decodes images to blue, green and red, in the order that OpenCV has."""
BGR = np.array([colour[::-1] for colour in COLOURS.values()], np.float32)
SHARPNESS = np.float32(0.01)


def colours() -> ov.Model:
    """``image`` [1..16,64,96,3] -> ``share`` [1..16,8], and channels last, as images need them."""
    image = ops.parameter(ov.PartialShape([(1, 16), 64, 96, 3]), np.float32, name="image")
    image.output(0).set_names({"image"})
    image.set_layout(ov.Layout("NHWC"))
    pixels = ops.unsqueeze(image, np.array([3]))
    distances = ops.reduce_sum(ops.power(ops.subtract(pixels, BGR), np.float32(2)), np.array([4]))
    nearest = ops.softmax(ops.multiply(distances, -SHARPNESS), 3)
    share = ops.result(ops.reduce_mean(nearest, np.array([1, 2])))
    share.output(0).set_names({"share"})
    return ov.Model([share], [image], "colours")


def draw(file: str, sky: str, ground: str, ground_share: float, sun: str) -> None:
    """A landscape of 480x320 as JPEG."""
    bgr = dict(zip(COLOURS, BGR, strict=True))
    picture = np.empty((320, 480, 3), np.uint8)
    picture[:] = bgr[sky]
    picture[round(320 * (1 - ground_share)) :] = bgr[ground]
    cv2.circle(picture, (360, 80), 50, bgr[sun].tolist(), thickness=-1)
    cv2.imwrite(file, picture)


def main() -> None:
    """Write everything to the current directory."""
    version = Path("models/colours/1")
    version.mkdir(parents=True, exist_ok=True)
    ov.save_model(colours(), version / "model.xml", compress_to_fp16=False)
    Path("labels.txt").write_text("\n".join(COLOURS) + "\n")
    draw("meadow.jpg", sky="blue", ground="green", ground_share=0.5, sun="yellow")
    draw("sunset.jpg", sky="orange", ground="black", ground_share=0.25, sun="red")


if __name__ == "__main__":
    main()
