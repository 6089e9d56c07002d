# SPDX-License-Identifier: Apache-2.0
"""The demo's model directory, the digits that its training never saw, and their drawing.

The digits are the "Optical Recognition of Handwritten Digits" set that scikit-learn ships: 8 x 8 pixels with
values 0 to 16. https://archive.ics.uci.edu/dataset/80
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MODEL_NAME = "digits"
INPUT_NAME = "image"
OUTPUT_NAME = "probabilities"
IMAGE_SHAPE = (8, 8)
CLASSES = 10
FULL_INK = 16
"""Pixels count the ink in a 4 x 4 block of the scan, so 16 is a full block."""

HELD_OUT_FILE = "held_out.npz"

# From no ink to full ink.
_SHADES = " ░▒▓█"
_ASCII_SHADES = " .+#@"
# A terminal's character is about twice as high as wide.
_PIXEL_CHARACTERS = 2


def model_directory() -> Path:
    """The model's base path, as ``--model_path`` takes it: version 1 is in its subdirectory ``1``."""
    return Path(__file__).resolve().parent / "models" / MODEL_NAME


def load_held_out() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Read the digits that were kept from training.

    Returns:
        Images of shape (N, 8, 8) with pixels 0 to 16, and their labels of shape (N,), 0 to 9.
    """
    file = resources.files("ovms_mp.demo").joinpath(HELD_OUT_FILE)
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as held_out:
        return held_out["images"].astype(np.float32), held_out["labels"].astype(np.int64)


def draw(image: NDArray[np.float32], encoding: str = "utf-8") -> str:
    """Draw a digit in eight lines of sixteen characters, without a newline at the end.

    Args:
        image: Pixels 0 to 16, shape (8, 8).
        encoding: What the terminal takes; shade blocks where it has them, plain ASCII elsewhere.

    Raises:
        ValueError: The image has another shape.
    """
    if image.shape != IMAGE_SHAPE:
        raise ValueError(f"a digit has the shape {IMAGE_SHAPE}, not {image.shape}")
    shades = _SHADES if _can_encode(_SHADES, encoding) else _ASCII_SHADES
    darkest = len(shades) - 1
    levels = np.rint(np.clip(image / FULL_INK, 0, 1) * darkest).astype(int)
    return "\n".join("".join(shades[level] * _PIXEL_CHARACTERS for level in row) for row in levels)


def _can_encode(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
