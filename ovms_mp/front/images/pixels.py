# SPDX-License-Identifier: Apache-2.0
"""One encoded image to pixels, by OpenCV. Runs in threads: the library is imported by the first that needs it.

What is decoded, converted and resized is what OVMS decodes, converts and resizes, in the same order and by the same
library, so that answers are the same: channels in the order blue, green, red; an alpha channel stays; 16 bits stay 16
bits; an orientation in the image's metadata is not followed. Pixels are converted to the model's dtype first, which
saturates, and resized then.

PERF: what is done here besides decoding takes 2 % of a JPEG of 640x480 (OpenCV 5.0, AMD EPYC).
"""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ovms_mp.errors import MalformedPayload, UnsupportedOperation
from ovms_mp.front.images.freed_memory import keep_freed_memory
from ovms_mp.front.images.quiet import quiet
from ovms_mp.model.dtypes import DType, Kind

if TYPE_CHECKING:
    from ovms_mp.front.images.headers import Size
    from ovms_mp.model.dtypes import AnyArray

_RESIZABLE: Final = frozenset({DType.UINT8, DType.UINT16, DType.INT16, DType.FP32, DType.FP64})
"""What OpenCV resizes; others are resized as floats and rounded then."""


@functools.cache
def library() -> Any:
    """OpenCV, set up for many threads of ours: it starts none of its own, keeps its memory, and prints nothing.

    Raises:
        UnsupportedOperation: It is not installed.
    """
    try:
        cv2 = importlib.import_module("cv2")
    except ImportError:
        raise UnsupportedOperation(
            "this server cannot decode images: OpenCV is not installed; its administrator can add it by "
            "pip install 'ovms_mp[images]'"
        ) from None
    keep_freed_memory()
    cv2.setNumThreads(1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2


def decoded(octets: memoryview, size: Size) -> AnyArray:
    """The pixels of an image: height, width, channels; as many bits each as the image has.

    Args:
        octets: The whole image.
        size: What its header says.

    Raises:
        MalformedPayload: It cannot be decoded.
        UnsupportedOperation: The library is missing.
    """
    cv2 = library()
    try:
        with quiet():
            pixels = cv2.imdecode(np.frombuffer(octets, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise MalformedPayload(f"Image parsing failed: {str(error.err)[:200]}") from None
    if pixels is None:
        raise MalformedPayload(
            "Image parsing failed: it is broken, cut off, or of a kind that is not decoded"
        )
    if pixels.shape[:2] != (size.height, size.width):
        raise MalformedPayload(
            f"Image parsing failed: it has {pixels.shape[1]}x{pixels.shape[0]} pixels, and its header says "
            f"{size.width}x{size.height}"
        )
    found: AnyArray = pixels.reshape(*pixels.shape[:2], -1)
    return found


def write_pixels(pixels: AnyArray, dtype: DType, place: AnyArray) -> None:
    """Write an image's pixels as the model takes them.

    Args:
        pixels: Height, width, channels.
        dtype: Of the model's input.
        place: Of the tensor's height and width and as many channels, in its dtype; contiguous.
    """
    if pixels.shape == place.shape:
        np.copyto(place, _converted(pixels, dtype), casting="unsafe")
        return
    cv2 = library()
    height, width, _ = place.shape
    if dtype in _RESIZABLE:
        target = place.reshape(height, width) if place.shape[2] == 1 else place
        found = cv2.resize(_converted(pixels, dtype), (width, height), dst=target)
        if not np.shares_memory(found, target):
            np.copyto(target, found)
        return
    wide = pixels.astype(np.float32 if dtype.kind is Kind.FLOAT else np.float64)
    resized = cv2.resize(wide, (width, height)).reshape(place.shape)
    np.copyto(place, _converted(resized, dtype), casting="unsafe")


def _converted(pixels: AnyArray, dtype: DType) -> AnyArray:
    """Pixels as another dtype: what is beyond its range becomes its least or greatest value."""
    if pixels.dtype == dtype.numpy:
        return pixels
    if dtype.kind is Kind.FLOAT:
        return pixels.astype(dtype.numpy)
    if pixels.dtype.kind == "f":
        pixels = np.rint(np.nan_to_num(pixels))
    limits = np.iinfo(dtype.numpy.name)
    given = np.iinfo(pixels.dtype.name) if pixels.dtype.kind in "iu" else None
    if given is None or given.min < limits.min or given.max > limits.max:
        pixels = pixels.clip(limits.min, limits.max)
    return pixels.astype(dtype.numpy)
