# SPDX-License-Identifier: Apache-2.0
"""An input whose elements are in a region of the client's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.errors import ProtocolError
from ovms_mp.front.tensors import GivenTensor

if TYPE_CHECKING:
    from ovms_mp.front.infer.leases import Lease
    from ovms_mp.front.regions.ranges import SharedRange
    from ovms_mp.model.tensors import TensorSpec


@dataclass(slots=True)
class ReferredTensor(GivenTensor):
    """An input that a worker reads where the client has it, in the type of the model's input.

    Attributes:
        lease: Of that place; whoever made this tensor releases it.
    """

    lease: Lease

    def lease_for(self, spec: TensorSpec) -> Lease | None:
        """See :meth:`GivenTensor.lease_for`."""
        return self.lease

    def write(self, spec: TensorSpec, place: memoryview) -> None:
        """See :meth:`GivenTensor.write`.

        Raises:
            ProtocolError: Always, as it is read where it is.
        """
        raise ProtocolError(f"input {spec.name!r} is not to be copied")


@dataclass(slots=True)
class RegionInput(GivenTensor):
    """An input as a decoder leaves it: :class:`~.loans.Loan` reads it and puts another kind of tensor in its place.

    Attributes:
        place: Where the elements are.
    """

    place: SharedRange

    def write(self, spec: TensorSpec, place: memoryview) -> None:
        """See :meth:`GivenTensor.write`.

        Raises:
            ProtocolError: Always, as it has not been read.
        """
        raise ProtocolError(f"input {spec.name!r} was not read from region {self.place.region!r}")
