# SPDX-License-Identifier: Apache-2.0
"""The inputs of one task: how much arena memory they take, which of them are there already, and writing the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.front.infer.exactness import refuse_inexact
from ovms_mp.front.infer.sizes import refuse_impossible
from ovms_mp.wire.allocator import aligned
from ovms_mp.wire.records import TensorRef

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ovms_mp.front.infer.leases import Lease
    from ovms_mp.front.tensors import GivenTensor
    from ovms_mp.model.tensors import TensorSpec


class Inputs:
    """Tensors that the model's inputs have accepted, laid out one after another in a region that is still to be leased.

    Attributes:
        nbytes: Size of the region.
        placed: Leases of tensors that are in the arena, or in a client's region, already, as the model takes them; they
            take nothing of the region that is leased.
        shapes: Of all tensors, in the model's order.
        take_long: Whether :meth:`write` is nothing to do on the event loop.
    """

    __slots__ = ("_entries", "nbytes", "placed", "shapes", "take_long")

    def __init__(
        self,
        specs: Sequence[TensorSpec],
        tensors: Iterable[GivenTensor],
        arena_nbytes: int,
        max_unpacked_bytes: int,
    ) -> None:
        """Lay the tensors out.

        Args:
            specs: The model's inputs.
            tensors: One for each, of a shape that it accepts.
            arena_nbytes: Size of this front's arena.
            max_unpacked_bytes: What a tensor in a compact form may be filled up to; 0 for what the model tells.

        Raises:
            ShapeMismatch: A shape has more elements than any tensor could have.
            RequestTooLarge: A few values would fill far more memory than the client has sent.
        """
        self.nbytes = 0
        self.placed: tuple[Lease, ...] = ()
        self.take_long = False
        self._entries: list[tuple[TensorSpec, GivenTensor, Lease | None, int, int]] = []
        for spec, tensor in zip(specs, tensors, strict=True):
            nbytes = tensor.nbytes(spec)
            lease = tensor.lease_for(spec)
            self._entries.append((spec, tensor, lease, self.nbytes, nbytes))
            if lease is not None:
                self.placed += (lease,)
                continue
            if not 0 < nbytes <= arena_nbytes:
                refuse_impossible(spec, tensor.shape, arena_nbytes)
            if spec.static_nbytes is None:
                tensor.refuse_inflated(spec, nbytes, max_unpacked_bytes)
            self.nbytes += aligned(nbytes)
            self.take_long = self.take_long or tensor.takes_long(nbytes)
        self.shapes = tuple([entry[1].shape for entry in self._entries])

    def write(self, memory: memoryview, region: Lease) -> tuple[TensorRef, ...]:
        """Write the tensors and say where each one is; the one copy in.

        Args:
            memory: The arena.
            region: Begins with :attr:`nbytes` for these tensors.

        Raises:
            DtypeMismatch: A value cannot become the model's dtype.
            ValueNotExact: The engine would take a value for another one.
        """
        refs: list[TensorRef] = []
        for spec, tensor, placed, offset, nbytes in self._entries:
            if placed is not None:
                start = placed.offset_bytes
                if placed.region is not None:
                    refs.append(TensorRef(start, nbytes, tensor.shape, placed.region.number))
                    continue
            else:
                start = region.offset_bytes + offset
                if nbytes:
                    tensor.write(spec, memory[start : start + nbytes])
            if spec.exact is not None and not tensor.is_aside:
                refuse_inexact(spec, tensor.shape, memory[start : start + nbytes])
            refs.append(TensorRef(start, nbytes, tensor.shape))
        return tuple(refs)
