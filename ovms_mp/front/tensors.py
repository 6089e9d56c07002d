# SPDX-License-Identifier: Apache-2.0
"""Tensors between a protocol's codec and the service: as a client gave them, and as a model answered them.

A client's values come in several kinds, one class each. The service asks a tensor how much memory it takes as the
model's input, and has it write itself there; it does not know the kinds.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ovms_mp.errors import MalformedPayload, RequestTooLarge
from ovms_mp.front.budget import unpacked_limit
from ovms_mp.front.convert import copy_bytes, write_values
from ovms_mp.front.strings import (
    MOST_AT_ONCE,
    MOST_BYTES_AT_ONCE,
    NO_STRINGS,
    Strings,
    refuse_too_many,
)
from ovms_mp.model.dtypes import DType, element_count
from ovms_mp.wire.strings import MOST_OCTETS, packed_nbytes

if TYPE_CHECKING:
    from ovms_mp.front.infer.leases import Lease
    from ovms_mp.front.regions.ranges import SharedRange
    from ovms_mp.model.dtypes import AnyArray
    from ovms_mp.model.tensors import TensorSpec

LONG_BYTES = 4 << 20
"""Numbers that a thread writes. PERF: converting so many takes 3 ms, the thread 0.07; 26 million took 0.3 s."""


@dataclass(slots=True)
class GivenTensor(ABC):
    """An input tensor as the client sent it; its values are borrowed from the request's bytes.

    The methods are called with the model's input once that has accepted the shape.

    Attributes:
        dtype: What the client says the elements are.
        shape: Static, no negative dimension.
    """

    is_aside: ClassVar[bool] = False
    """Whether its values are made by threads, once its place is known."""

    dtype: DType
    shape: tuple[int, ...]

    def takes_long(self, nbytes: int) -> bool:
        """Whether writing it, as so many bytes, is nothing to do on the event loop."""
        return nbytes > LONG_BYTES

    def nbytes(self, spec: TensorSpec) -> int:
        """Arena memory that the tensor takes as this input."""
        return spec.dtype.nbytes(self.shape) if spec.static_nbytes is None else spec.static_nbytes

    def lease_for(self, spec: TensorSpec) -> Lease | None:
        """Where a worker can read the tensor without a copy; None where it has to be written."""
        return None

    def refuse_inflated(  # noqa: B027  # nothing to do for kinds in which all elements are sent
        self, spec: TensorSpec, nbytes: int, max_unpacked_bytes: int
    ) -> None:
        """Hold what the tensor becomes against what was sent, as for anything that comes packed.

        Args:
            spec: The model's input.
            nbytes: Memory that the tensor takes.
            max_unpacked_bytes: The setting; 0 where it is automatic.

        Raises:
            RequestTooLarge: A few values would fill far more memory than the client has sent.
        """

    @abstractmethod
    def write(self, spec: TensorSpec, place: memoryview) -> None:
        """Write all elements as the input's dtype, little-endian, in C order.

        Args:
            spec: The model's input.
            place: Leased arena memory of exactly the tensor's size, not empty.

        Raises:
            DtypeMismatch: A value cannot become the model's dtype.
        """


@dataclass(slots=True)
class RawTensor(GivenTensor):
    """A tensor whose elements were sent as the memory of an array.

    Attributes:
        values: Exactly all elements, little-endian and in C order; format ``B``.
    """

    values: memoryview

    def write(self, spec: TensorSpec, place: memoryview) -> None:
        """See :meth:`GivenTensor.write`; a plain copy where the dtype is the model's."""
        if self.dtype is spec.dtype and spec.dtype is not DType.BOOL:
            copy_bytes(self.values, place)
            return
        values: AnyArray = np.frombuffer(self.values, dtype=self.dtype.numpy)
        if self.dtype is DType.BOOL:
            # Any byte but 0 is true to NumPy and to C++, but the engine's kernels count on 1.
            values = values.view(np.uint8) != 0
        write_values(values, self.dtype, spec, place)


@dataclass(slots=True)
class PlacedTensor(RawTensor):
    """A raw tensor that the transport has received straight into the arena.

    Attributes:
        lease: Of exactly the memory of ``values``; whoever made this tensor releases it.
    """

    lease: Lease

    def lease_for(self, spec: TensorSpec) -> Lease | None:
        """See :meth:`GivenTensor.lease_for`; a boolean may be any byte and is made 0 or 1."""
        return self.lease if self.dtype is spec.dtype and spec.dtype is not DType.BOOL else None


@dataclass(slots=True)
class NumberTensor(GivenTensor):
    """A tensor whose elements were sent as numbers.

    Attributes:
        values: A one-dimensional array of the dtype with at most as many elements as the shape has: in TensorFlow's
            compact form the last value fills the rest, and none at all means zeros.
    """

    values: AnyArray

    def refuse_inflated(self, spec: TensorSpec, nbytes: int, max_unpacked_bytes: int) -> None:
        """See :meth:`GivenTensor.refuse_inflated`."""
        if len(self.values) == element_count(self.shape):
            return
        refuse_repeated(spec, self.shape, len(self.values), self.values.nbytes, nbytes, max_unpacked_bytes)

    def write(self, spec: TensorSpec, place: memoryview) -> None:
        """See :meth:`GivenTensor.write`."""
        write_values(self.values, self.dtype, spec, place)


@dataclass(slots=True)
class BytesTensor(GivenTensor):
    """A tensor of octet strings, as the client sent it. What it becomes is the model's to say.

    Written as it is where the model takes strings.

    Attributes:
        strings: All elements, in C order; None while only dtype and shape are known.
    """

    strings: Strings | None = None

    def nbytes(self, spec: TensorSpec) -> int:
        """See :meth:`GivenTensor.nbytes`.

        Raises:
            MalformedPayload: They are more than a tensor of strings can have.
        """
        count, strings = element_count(self.shape), self.known_strings
        refuse_too_many(count, f"Input {spec.name!r}")
        octets = strings.total_bytes
        if len(strings):
            octets += (count - len(strings)) * int(strings.sizes[-1])
        if octets > MOST_OCTETS:
            raise MalformedPayload(
                f"Input {spec.name!r}: {octets} bytes of strings; at most {MOST_OCTETS} are taken"
            )
        return packed_nbytes(count, octets)

    def takes_long(self, nbytes: int) -> bool:
        """See :meth:`GivenTensor.takes_long`."""
        return element_count(self.shape) > MOST_AT_ONCE or nbytes > MOST_BYTES_AT_ONCE

    def refuse_inflated(self, spec: TensorSpec, nbytes: int, max_unpacked_bytes: int) -> None:
        """See :meth:`GivenTensor.refuse_inflated`."""
        strings = self.known_strings
        if len(strings) == element_count(self.shape):
            return
        refuse_repeated(spec, self.shape, len(strings), strings.packed_nbytes, nbytes, max_unpacked_bytes)

    def write(self, spec: TensorSpec, place: memoryview) -> None:
        """See :meth:`GivenTensor.write`; the form is that of :mod:`ovms_mp.wire.strings`."""
        self.known_strings.repeated_to(element_count(self.shape)).write_packed(place)

    @property
    def known_strings(self) -> Strings:
        """The strings; at most as many as the shape has elements, as of numbers (:class:`NumberTensor`)."""
        return NO_STRINGS if self.strings is None else self.strings


def bytes_tensor(shape: tuple[int, ...], strings: Strings | None) -> BytesTensor:
    """A tensor of strings of this shape; what codecs make. Without strings where those are not known yet."""
    return BytesTensor(DType.BYTES, shape, strings)


@dataclass(slots=True)
class ResultTensor:
    """An output tensor of a finished inference.

    Attributes:
        name: The client's name for the output.
        dtype: Element type.
        shape: Static shape, e.g. (1, 1000).
        data: All elements, little-endian, C order, format ``B``; of strings see :meth:`strings`. A view of the arena
            that ends with the lease.
        lease: The lease that ``data`` lies in. An encoder that does not copy holds it for as long as it keeps the view;
            None for tensors that lie nowhere in the arena.
        shared: Where in the client's shared memory the elements are, of which ``data`` has none then; None where the
            answer carries them.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    data: memoryview
    lease: Lease | None = None
    shared: SharedRange | None = None

    def array(self) -> AnyArray:
        """The tensor as a NumPy view of ``data``, not a copy. Not for strings."""
        return np.frombuffer(self.data, dtype=self.dtype.numpy).reshape(self.shape)

    def strings(self) -> Strings:
        """The elements of a tensor of strings (``DType.BYTES``), as views of ``data``.

        Raises:
            ProtocolError: It is not one.
        """
        return Strings.of_packed(self.data, element_count(self.shape))


@dataclass(slots=True)
class RowsResult(ResultTensor):
    """A matrix of octets that is answered as strings: each row up to its first zero. ``data`` is the matrix."""

    width: int = 0

    def strings(self) -> Strings:
        """See :meth:`ResultTensor.strings`."""
        count, width = self.shape[0], self.width
        rows = np.frombuffer(self.data, np.uint8).reshape(count, width)
        ends = rows == 0
        sizes = np.where(ends.any(axis=1), ends.argmax(axis=1), width) if width else np.zeros(count)
        starts = np.arange(count, dtype=np.int64) * width
        return Strings(self.data, starts.astype(np.int32), sizes.astype(np.int32))


def rows_of(result: ResultTensor) -> RowsResult:
    """A matrix of UINT8 as strings."""
    count, width = result.shape
    return RowsResult(result.name, DType.BYTES, (count,), result.data, result.lease, width=width)


def refuse_repeated(
    spec: TensorSpec,
    shape: tuple[int, ...],
    count: int,
    packed_bytes: int,
    nbytes: int,
    max_unpacked_bytes: int,
) -> None:
    """Hold what a tensor of fewer values than elements becomes against what was sent.

    Raises:
        RequestTooLarge: It would take far more memory.
    """
    limit = unpacked_limit(packed_bytes, spec.most_nbytes, max_unpacked_bytes, sys.maxsize)
    if nbytes > limit:
        raise RequestTooLarge(
            f"input {spec.name!r}: {count} values for shape {list(shape)} would be repeated to fill {nbytes} bytes, "
            f"more than {limit}; send all values, or raise --max_unpacked_mb"
        )


def checked_shape(dimensions: list[int], what: str) -> tuple[int, ...]:
    """The shape, if it can be one.

    Raises:
        MalformedPayload: A dimension is negative.
    """
    for size in dimensions:
        if size < 0:
            raise MalformedPayload(f"{what}: shape {dimensions} has a negative dimension")
    return tuple(dimensions)
