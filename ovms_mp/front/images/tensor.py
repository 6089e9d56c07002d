# SPDX-License-Identifier: Apache-2.0
"""A batch of encoded images as an input: what it becomes by the model's dimensions. The rules are OVMS's.

======================  =======================================================================
dimensions of the model  images
======================  =======================================================================
all bounded             resized to height and width; where those are ranges, to what of the range is
                        nearest to the first image
one or more unbounded   never resized; all of the size of the first one
======================  =======================================================================
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from ovms_mp.errors import MalformedPayload, ShapeMismatch
from ovms_mp.front.strings import NO_STRINGS, Strings
from ovms_mp.front.tensors import GivenTensor

if TYPE_CHECKING:
    from ovms_mp.front.images.headers import Size
    from ovms_mp.model.tensors import TensorSpec


@dataclass(slots=True)
class ImagesTensor(GivenTensor):
    """Encoded images. Until its size is settled, the shape is the least that the model takes, but for the batch.

    Attributes:
        encoded: One string for each image.
        place: Where the pixels go, once that is known.
        most_pixels: Of the largest image, once their headers have been looked at.
    """

    is_aside: ClassVar[bool] = True

    encoded: Strings = NO_STRINGS
    place: memoryview = field(default_factory=lambda: memoryview(b""))
    most_pixels: int = 0

    @classmethod
    def of(cls, encoded: Strings, count: int, spec: TensorSpec) -> ImagesTensor:
        """So many images for an input of height, width and channels last."""
        return cls(spec.dtype, (count, *(max(low, 1) for low, _ in spec.bounds[1:])), encoded)

    def settle(self, spec: TensorSpec, size: Size, channels: int) -> None:
        """Take the shape that the first image and the model make.

        Args:
            spec: The model's input.
            size: Of the first image.
            channels: The model's, or of the first image where the model takes any.

        Raises:
            ShapeMismatch: The model takes no images of this size, and they cannot be resized.
        """
        height, width = _nearest(size.height, spec.bounds[-3]), _nearest(size.width, spec.bounds[-2])
        if (height, width) != (size.height, size.width) and not is_resized(spec):
            raise ShapeMismatch(
                f"The input data is incorrect. Obtained an image of {size.width}x{size.height} pixels, required shape "
                f"{spec.shape_text()} (input {spec.name!r}); images are resized only where no dimension is -1, so "
                f"bound them by shape or batch_size, e.g. 1:64"
            )
        self.shape = (*self.shape[:-3], height, width, channels)

    def write(self, spec: TensorSpec, place: memoryview) -> None:
        """Note where the pixels go; threads write them there."""
        self.place = place

    def takes_long(self, nbytes: int) -> bool:
        """See :meth:`~ovms_mp.front.tensors.GivenTensor.takes_long`: others write it."""
        return False

    def refuse_inflated(self, spec: TensorSpec, nbytes: int, max_unpacked_bytes: int) -> None:
        """See :meth:`~ovms_mp.front.tensors.GivenTensor.refuse_inflated`: images are bounded by their pixels."""


def is_resized(spec: TensorSpec) -> bool:
    """Whether images become what the model takes; not where any dimension is unbounded."""
    return all(high != -1 for _, high in spec.bounds)


def fixed_channels(spec: TensorSpec) -> int | None:
    """How many channels the model takes; None where the first image says that."""
    low, high = spec.bounds[-1]
    return low if low == high else None


def check_channels(spec: TensorSpec, found: int, wanted: int, index: int) -> None:
    """Hold an image's channels against the tensor's.

    Raises:
        MalformedPayload: They differ.
    """
    if found != wanted:
        raise MalformedPayload(
            f"Invalid number of channels in binary input: image {index} has {found}, input {spec.name!r} takes {wanted}"
        )


def _nearest(size: int, bounds: tuple[int, int]) -> int:
    low, high = bounds
    return max(low, size if high == -1 else min(size, high))
