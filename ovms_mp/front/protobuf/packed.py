# SPDX-License-Identifier: Apache-2.0
"""Repeated numbers in packed form to arrays, in steps of some milliseconds and without an object for each number.

PERF: 60 to 100 MB/s where numbers have one byte or two; the generated classes and ``np.fromiter`` take as long, but at
one go, and hold a Python integer or eight bytes of their own for each.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import numpy as np

from ovms_mp.errors import MalformedPayload
from ovms_mp.front.protobuf.records import LONGEST_VARINT_BYTES

if TYPE_CHECKING:
    from collections.abc import Generator

    import numpy.typing as npt

    from ovms_mp.model.dtypes import AnyArray

Payload = memoryview

_STEP_BYTES = 64 << 10


class Numbers(enum.Enum):
    """What varints stand for, by the field's type; of a longer number protobuf keeps the low bits."""

    BOOL = "bool"
    INT32 = "int32"
    UINT32 = "uint32"
    INT64 = "int64"
    UINT64 = "uint64"


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
    payload: Payload, count: int, numbers: Numbers, numpy: np.dtype[np.generic], what: str
) -> Generator[None, None, AnyArray]:
    """The numbers of a packed field as a one-dimensional array. Yields now and then.

    Args:
        payload: What :func:`count_varints` has counted.
        count: Its result.
        numbers: What they are in the field.
        numpy: Of the array; may be narrower.
        what: The field, for messages.

    Raises:
        MalformedPayload: A number does not fit.
    """
    octets = np.frombuffer(payload, np.uint8)
    values: AnyArray = np.empty(count, numpy)
    done = start = 0
    while start < len(octets):
        stop = min(start + _STEP_BYTES, len(octets))
        while octets[stop - 1] >= 0x80:  # At most nine times: a number is not cut.
            stop -= 1
        part = _meant(_varints(octets[start:stop]), numbers)
        values[done : done + len(part)] = narrowed(what, part, numpy, done)
        done, start = done + len(part), stop
        yield
    return values


def narrowed(what: str, values: AnyArray, numpy: np.dtype[np.generic], first_index: int = 0) -> AnyArray:
    """The values as a narrower integer type; ``first_index`` is the place of the first one in its field.

    Raises:
        MalformedPayload: A value does not fit.
    """
    if values.dtype == numpy:
        return values
    narrow = values.astype(numpy)
    misfits = np.flatnonzero(narrow != values)
    if misfits.size:
        first = int(misfits[0])
        raise MalformedPayload(
            f"{what}[{first_index + first}] is {values[first]}, which does not fit {numpy}"
        )
    return narrow


def _meant(varints: npt.NDArray[np.uint64], numbers: Numbers) -> AnyArray:
    match numbers:
        case Numbers.BOOL:
            return np.not_equal(varints, 0)
        case Numbers.INT32:
            return varints.astype(np.uint32).view(np.int32)
        case Numbers.UINT32:
            return varints.astype(np.uint32)
        case Numbers.INT64:
            return varints.view(np.int64)
        case Numbers.UINT64:
            return varints


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
