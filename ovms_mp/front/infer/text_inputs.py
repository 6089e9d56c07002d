# SPDX-License-Identifier: Apache-2.0
"""What a client's strings become: the model's input decides.

=========================================  ====================================================
input of the model                         what strings are
=========================================  ====================================================
strings, of any rank                       themselves
UINT8 of rank 2                            rows of a matrix, each with zeros behind it
numbers of rank 4 or 5, images' dimensions  images: JPEG, PNG and others
any other                                  an error
=========================================  ====================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ovms_mp.errors import DtypeMismatch, MalformedPayload, RequestTooLarge, ShapeMismatch
from ovms_mp.front.images.tensor import ImagesTensor
from ovms_mp.front.strings import MOST_AT_ONCE, MOST_BYTES_AT_ONCE
from ovms_mp.front.tensors import BytesTensor, GivenTensor
from ovms_mp.model.dtypes import DType, Kind

if TYPE_CHECKING:
    from ovms_mp.front.strings import Strings
    from ovms_mp.model.tensors import TensorSpec

_MOST_MATRIX_BYTES = 1 << 30
"""Of a matrix of strings. OVMS has the same limit."""
_STRING_RANK = 2
_IMAGE_RANKS = (4, 5)


def takes_strings(spec: TensorSpec) -> bool:
    """Whether strings can become this input."""
    rank = len(spec.bounds)
    return (
        spec.dtype is DType.BYTES
        or (rank == _STRING_RANK and spec.dtype is DType.UINT8)
        or (rank in _IMAGE_RANKS and spec.dtype.kind is not Kind.BOOL)
    )


def as_input(tensor: GivenTensor, spec: TensorSpec) -> GivenTensor:
    """A tensor where it or the input is of strings, as what the model takes; its shape may still not be the model's.

    Values are not needed: whoever has read no more than dtype and shape learns the same.

    Raises:
        DtypeMismatch: The model's input cannot be made of strings, or takes nothing else.
        ShapeMismatch: Strings for a matrix or images have another rank than 1, or the model takes no matrix of them.
        MalformedPayload: There are fewer strings than the shape says.
        RequestTooLarge: They would make too large a matrix.
    """
    if not isinstance(tensor, BytesTensor):
        raise DtypeMismatch(
            f"input {spec.name!r} is {spec.dtype.name}, it takes strings; the request's tensor is {tensor.dtype.name}"
        )
    if spec.dtype is DType.BYTES:
        return tensor
    rank = len(spec.bounds)
    if rank == _STRING_RANK and spec.dtype is DType.UINT8:
        return _matrix(tensor, spec)
    if rank in _IMAGE_RANKS and spec.dtype.kind is not Kind.BOOL:
        if not spec.takes_images:
            raise ShapeMismatch(
                f"Received binary image input but resource not configured to accept NHWC layout (input {spec.name!r}, "
                f"shape {spec.shape_text()}; a layout such as NHWC:NCHW makes it take images)"
            )
        _check_vector(tensor, spec)
        return ImagesTensor.of(tensor.known_strings, tensor.shape[0], spec)
    raise DtypeMismatch(
        f"input {spec.name!r} is {spec.dtype.name} of shape {spec.shape_text()}; strings are taken by inputs of "
        f"strings, by inputs of UINT8 and rank {_STRING_RANK}, and as images by inputs of rank 4"
    )


@dataclass(slots=True)
class MatrixTensor(GivenTensor):
    """Strings as the rows of a matrix of UINT8, each with zeros behind it up to the matrix's width."""

    rows: Strings

    def takes_long(self, nbytes: int) -> bool:
        """See :meth:`~ovms_mp.front.tensors.GivenTensor.takes_long`."""
        return self.shape[0] > MOST_AT_ONCE or nbytes > MOST_BYTES_AT_ONCE

    def write(self, spec: TensorSpec, place: memoryview) -> None:
        """See :meth:`~ovms_mp.front.tensors.GivenTensor.write`."""
        octets = np.frombuffer(place, np.uint8)
        octets.fill(0)
        count, width = self.shape
        self.rows.scatter(octets, np.arange(count, dtype=np.int64) * width)


def _matrix(tensor: BytesTensor, spec: TensorSpec) -> GivenTensor:
    _check_vector(tensor, spec)
    low, high = spec.bounds[1]
    if tensor.strings is None:
        # The width is not known yet; any that fits will do.
        return MatrixTensor(DType.UINT8, (*tensor.shape, max(low, 0)), tensor.known_strings)
    # OVMS has a zero behind the longest one, too. A width that the model fixes may do without.
    longest = tensor.strings.longest_bytes
    width = max(low, longest + 1)
    if high >= 0:
        width = min(width, high)
    if longest > width:
        raise ShapeMismatch(
            f"input {spec.name!r} takes strings of at most {high} bytes (its shape is {spec.shape_text()}); the "
            f"longest one has {longest}"
        )
    nbytes = tensor.shape[0] * width
    if nbytes > _MOST_MATRIX_BYTES:
        raise RequestTooLarge(
            f"Maximum 2D array after string conversion exceeded 1GB: {tensor.shape[0]} strings, the longest one of "
            f"{longest} bytes, take {nbytes} bytes (input {spec.name!r})"
        )
    return MatrixTensor(DType.UINT8, (tensor.shape[0], width), tensor.strings)


def _check_vector(tensor: BytesTensor, spec: TensorSpec) -> None:
    """Strings that are rows or images are a list, and all of them are there."""
    if len(tensor.shape) != 1:
        raise ShapeMismatch(
            f"Expected number of input shape dimensions: 1; Actual: {len(tensor.shape)}; input name: {spec.name} (its "
            f"strings become a tensor of shape {spec.shape_text()}, one of them for each element of the batch)"
        )
    if tensor.strings is not None and len(tensor.strings) != tensor.shape[0]:
        raise MalformedPayload(
            f"input {spec.name!r}: {len(tensor.strings)} strings for shape {list(tensor.shape)}"
        )
