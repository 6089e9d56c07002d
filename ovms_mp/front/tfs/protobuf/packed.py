# SPDX-License-Identifier: Apache-2.0
"""Repeated numbers in packed form to arrays, in steps of some milliseconds and without an object for each number.

PERF: 60 to 100 MB/s where numbers have one byte or two; the generated classes and ``np.fromiter`` take as long, but at
one go, and hold a Python integer or eight bytes of their own for each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ovms_mp.front.tfs.protobuf.records import LONGEST_VARINT_BYTES
from ovms_mp.front.tfs.protobuf.values import narrowed

if TYPE_CHECKING:
    from collections.abc import Generator

    import numpy.typing as npt

    from ovms_mp.model.dtypes import AnyArray, DType

Payload = memoryview

_STEP_BYTES = 64 << 10
_INT32_FIELDS = ("int_val", "half_val")


def count_varints(payload: Payload) -> Generator[None, None, int]:
    """How many numbers a packed field has; -1 if it does not consist of numbers. Yields now and then."""
    octets = np.frombuffer(payload, np.uint8)
    count, last_end = 0, -1
    for start in range(0, len(octets), _STEP_BYTES):
        ends = np.flatnonzero(octets[start : start + _STEP_BYTES] < 0x80) + start
        if len(ends):
            longest = max(int(ends[0]) - last_end, int(np.diff(ends).max(initial=0)))
            last_end = int(ends[-1])
        else:
            longest = min(start + _STEP_BYTES, len(octets)) - 1 - last_end
        if longest > LONGEST_VARINT_BYTES:
            return -1
        count += len(ends)
        yield
    return count if last_end == len(octets) - 1 else -1


def read_varints(
    payload: Payload, count: int, dtype: DType, name: str, field: str
) -> Generator[None, None, AnyArray]:
    """The numbers of a packed field as a one-dimensional array of a dtype. Yields now and then.

    Args:
        payload: What :func:`count_varints` has counted.
        count: Its result.
        dtype: Of the array; the field is the one that belongs to it.
        name: The input's name, for messages.
        field: The field's name.

    Raises:
        MalformedPayload: A number does not fit the dtype.
    """
    octets = np.frombuffer(payload, np.uint8)
    # Halves come as the bits that they are.
    kind = np.dtype(np.uint16) if field == "half_val" else dtype.numpy
    values: AnyArray = np.empty(count, kind)
    done = start = 0
    while start < len(octets):
        stop = min(start + _STEP_BYTES, len(octets))
        while octets[stop - 1] >= 0x80:  # At most nine times: a number is not cut.
            stop -= 1
        part = _varints(octets[start:stop])
        if field in _INT32_FIELDS:
            part_values = narrowed(name, field, part.astype(np.uint32).view(np.int32), kind, done)
        elif field == "bool_val":
            part_values = part != 0
        else:
            part_values = part.view(np.int64) if field == "int64_val" else part
        values[done : done + len(part)] = part_values.astype(kind, copy=False)
        done, start = done + len(part), stop
        yield
    return values.view(dtype.numpy)


def _varints(octets: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """Whole varints as 64-bit numbers, modulo 2^64."""
    ends = np.flatnonzero(octets < 0x80)
    if len(ends) == len(octets):
        return octets.astype(np.uint64)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    values = (octets[starts] & 0x7F).astype(np.uint64)
    for index in range(1, int(lengths.max())):
        longer = np.flatnonzero(lengths > index)
        digits = (octets[starts[longer] + index] & 0x7F).astype(np.uint64)
        values[longer] |= digits << np.uint64(7 * index)
    return values
