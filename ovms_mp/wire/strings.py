# SPDX-License-Identifier: Apache-2.0
"""How a tensor of strings lies in an arena.

::

    count: uint32 | bounds: int32, count + 1 of them | octets

Element ``i`` is ``octets[bounds[i]:bounds[i + 1]]``; the first bound is 0. Elements are octets and may hold anything,
zeros included. A tensor without elements takes nothing. The numbers are those that OpenVINO's StringTensorPack takes
and StringTensorUnpack gives, so that nobody makes an object of an element.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ovms_mp.errors import ProtocolError

if TYPE_CHECKING:
    import numpy.typing as npt

    Bounds: TypeAlias = npt.NDArray[np.int32]
    Octets: TypeAlias = npt.NDArray[np.uint8]

MOST_ELEMENTS = (1 << 30) // 32
"""Of one tensor. OVMS has the same limit."""
MOST_OCTETS = (1 << 31) - 1
"""Of one tensor: what a bound can say."""
_NUMBER_BYTES = 4


def packed_nbytes(count: int, octets: int) -> int:
    """Size of a tensor of so many elements which have so many octets together."""
    return _NUMBER_BYTES * (count + 2) + octets if count else 0


def begin_packed(place: memoryview, count: int) -> tuple[Bounds, Octets]:
    """Begin a tensor; its bounds and octets are to be filled in.

    Args:
        place: Exactly of :func:`packed_nbytes`.
        count: Number of elements, not 0.
    """
    numbers = np.frombuffer(place[: packed_nbytes(count, 0)], np.int32)
    numbers[0] = count
    numbers[1] = 0
    return numbers[1:], np.frombuffer(place[numbers.nbytes :], np.uint8)


def open_packed(place: memoryview, count: int) -> tuple[Bounds, Octets]:
    """A tensor's bounds and octets, as views.

    Args:
        place: The whole tensor.
        count: As many elements as its shape has, not 0.

    Raises:
        ProtocolError: This is no such tensor.
    """
    head = packed_nbytes(count, 0)
    if len(place) >= head:
        numbers = np.frombuffer(place[:head], np.int32)
        bounds = numbers[1:]
        octets = len(place) - head
        if numbers[0] == count and bounds[0] == 0 and bounds[-1] == octets and _is_rising(bounds):
            return bounds, np.frombuffer(place[head:], np.uint8)
    raise ProtocolError(f"{len(place)} bytes are not a tensor of {count} strings")


def _is_rising(bounds: Bounds) -> bool:
    return bool((bounds[1:] >= bounds[:-1]).all())
