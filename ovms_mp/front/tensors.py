# SPDX-License-Identifier: Apache-2.0
"""Tensors between a protocol's codec and the service: as a client gave them, and as a model answered them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ovms_mp.errors import MalformedPayload
from ovms_mp.model.dtypes import DType

if TYPE_CHECKING:
    from ovms_mp.front.dispatch import Lease
    from ovms_mp.model.dtypes import AnyArray


@dataclass(slots=True)
class GivenTensor:
    """An input tensor as the client sent it, not yet held against any model.

    Attributes:
        dtype: What the client says the elements are.
        shape: Static, no negative dimension.
        values: Either a ``memoryview`` of format ``B`` that holds exactly all elements, little-endian and in
            C order, or a one-dimensional array of this dtype with at most that many elements: TensorFlow's
            compact form, in which the last element fills the rest, and none at all means zeros. Borrowed from
            the request's bytes; valid while they are.
        lease: Where the transport has received the values straight into the arena: the lease of exactly that memory,
            which whoever made this tensor releases; else None.
    """

    dtype: DType
    shape: tuple[int, ...]
    values: memoryview | AnyArray
    lease: Lease | None = None

    def is_in_place_for(self, dtype: DType) -> bool:
        """Whether a worker can read the values where they are; a boolean may be any byte and is made 0 or 1."""
        return self.lease is not None and self.dtype is dtype and dtype is not DType.BOOL


@dataclass(slots=True)
class ResultTensor:
    """An output tensor of a finished inference.

    Attributes:
        name: The client's name for the output.
        dtype: Element type.
        shape: Static shape, e.g. (1, 1000).
        data: All elements, little-endian, C order, format ``B``. A view of the arena: it ends with the lease.
        lease: The lease that ``data`` lies in. An encoder that does not copy holds it for as long as it keeps the view;
            None for tensors that lie nowhere in the arena.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    data: memoryview
    lease: Lease | None = None

    def array(self) -> AnyArray:
        """The tensor as a NumPy view of ``data``, not a copy."""
        return np.frombuffer(self.data, dtype=self.dtype.numpy).reshape(self.shape)


def checked_shape(dimensions: list[int], what: str) -> tuple[int, ...]:
    """The shape, if it can be one.

    Raises:
        MalformedPayload: A dimension is negative.
    """
    for size in dimensions:
        if size < 0:
            raise MalformedPayload(f"{what}: shape {dimensions} has a negative dimension")
    return tuple(dimensions)
