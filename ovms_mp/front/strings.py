# SPDX-License-Identifier: Apache-2.0
"""Octet strings as protocols carry them: many in one piece of memory, and no object for any of them.

A request may have some ten million strings of no length at all, so what is held for each are two numbers, and what is
done with all of them is done in steps or by NumPy.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ovms_mp.errors import MalformedPayload
from ovms_mp.wire.strings import MOST_ELEMENTS, MOST_OCTETS, begin_packed, open_packed, packed_nbytes

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    import numpy.typing as npt

    Numbers: TypeAlias = npt.NDArray[np.int32]
    Octets: TypeAlias = npt.NDArray[np.uint8]

STEP_ELEMENTS = 4096
"""Strings that are looked at one by one between two turns of others. PERF: half a millisecond."""
MOST_AT_ONCE, MOST_BYTES_AT_ONCE = 16384, 4 << 20
"""Strings, and octets of all of them, that are copied on the event loop; what is more is a thread's. PERF: 2 ms."""
BYTES_AN_ELEMENT = 8
"""Memory that a string takes besides its octets."""
_FEW = 64
"""PERF: below that, copying strings one by one takes less time than making NumPy do it."""
_LONG_BYTES = 256
"""The same of strings that have so many octets on average."""
_PREFIX = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Strings:
    """A sequence of octet strings, borrowed from the memory that they came in.

    Attributes:
        octets: Format ``B``; shorter than 2 GiB.
        starts: Where each string begins there.
        sizes: How many octets each one has.
    """

    octets: memoryview
    starts: Numbers
    sizes: Numbers

    @classmethod
    def of(cls, strings: Sequence[bytes | memoryview]) -> Strings:
        """Take strings that are objects already."""
        if len(strings) == 1:
            only = memoryview(strings[0])
            return cls(only, np.zeros(1, np.int32), np.array([len(only)], np.int32))
        sizes = np.fromiter(map(len, strings), np.int64, len(strings))
        ends = np.cumsum(sizes)
        if len(ends) and ends[-1] > MOST_OCTETS:
            raise MalformedPayload(f"strings of {ends[-1]} bytes in all; the limit is {MOST_OCTETS}")
        return cls(memoryview(b"".join(strings)), (ends - sizes).astype(np.int32), sizes.astype(np.int32))

    @classmethod
    def of_packed(cls, place: memoryview, count: int) -> Strings:
        """Read a tensor as it lies in an arena (:mod:`ovms_mp.wire.strings`).

        Raises:
            ProtocolError: It is no tensor of so many strings.
        """
        if not count:
            return NO_STRINGS
        bounds, octets = open_packed(place, count)
        return cls(octets.data, bounds[:-1], np.diff(bounds))

    def __len__(self) -> int:
        """How many there are."""
        return len(self.sizes)

    def __getitem__(self, index: int) -> memoryview:
        """One of them."""
        start = int(self.starts[index])
        return self.octets[start : start + int(self.sizes[index])]

    def __iter__(self) -> Iterator[memoryview]:
        """Each of them."""
        octets = self.octets
        for first in range(0, len(self), STEP_ELEMENTS):
            part = slice(first, first + STEP_ELEMENTS)
            for start, size in zip(self.starts[part].tolist(), self.sizes[part].tolist(), strict=True):
                yield octets[start : start + size]

    @property
    def total_bytes(self) -> int:
        """How many octets all have together."""
        return int(self.sizes.sum(dtype=np.int64))

    @property
    def longest_bytes(self) -> int:
        """How many the longest one has; 0 where there is none."""
        return int(self.sizes.max(initial=0))

    @property
    def packed_nbytes(self) -> int:
        """Memory that :meth:`write_packed` fills."""
        return packed_nbytes(len(self), self.total_bytes)

    def write_packed(self, place: memoryview) -> None:
        """Write them as a tensor in an arena.

        Args:
            place: Exactly of :attr:`packed_nbytes`, which is not 0.
        """
        bounds, octets = begin_packed(place, len(self))
        np.cumsum(self.sizes, dtype=np.int32, out=bounds[1:])
        self.scatter(octets, bounds[:-1])

    def repeated_to(self, count: int) -> Strings:
        """These, and the last one again and again until there are so many; empty ones where there is none."""
        missing = count - len(self)
        if not missing:
            return self
        start, size = (self.starts[-1], self.sizes[-1]) if len(self) else (0, 0)
        starts = np.concatenate((self.starts, np.full(missing, start, np.int32)))
        return Strings(self.octets, starts, np.concatenate((self.sizes, np.full(missing, size, np.int32))))

    def scatter(self, place: Octets, targets: npt.NDArray[np.signedinteger]) -> None:
        """Copy each string to where it shall begin.

        Args:
            place: An array of bytes.
            targets: One for each string; what is written nowhere stays.
        """
        count = len(self)
        if not count:
            return
        source = np.frombuffer(self.octets, np.uint8)
        if count < _FEW or self.total_bytes > _LONG_BYTES * count:
            triples = zip(self.starts.tolist(), self.sizes.tolist(), targets.tolist(), strict=True)
            for start, size, target in triples:
                place[target : target + size] = source[start : start + size]
            return
        # What is made of each octet takes sixteen, so it is made of some at a time.
        for first in range(0, count, STEP_ELEMENTS):
            part = slice(first, first + STEP_ELEMENTS)
            sizes = self.sizes[part].astype(np.int64)
            ends = np.cumsum(sizes)
            within = np.arange(ends[-1]) - np.repeat(ends - sizes, sizes)
            place[np.repeat(targets[part], sizes) + within] = source[
                np.repeat(self.starts[part], sizes) + within
            ]


NO_STRINGS = Strings(memoryview(b""), np.empty(0, np.int32), np.empty(0, np.int32))


def refuse_too_many(count: int, what: str) -> None:
    """Hold a number of strings against the limit.

    Raises:
        MalformedPayload: There are more.
    """
    if count > MOST_ELEMENTS:
        raise MalformedPayload(f"{what}: {count} strings; at most {MOST_ELEMENTS} are taken")


def read_length_prefixed(octets: memoryview, count: int, what: str) -> Generator[None, None, Strings]:
    """Read KServe's raw form: each string behind its length, four bytes in little-endian order.

    Yields every half millisecond, and returns the strings; they borrow from ``octets``.

    Args:
        octets: Exactly all strings. Format ``B``.
        count: How many there must be: the product of the shape.
        what: Begins messages, e.g. ``Input 'x'``.

    Raises:
        MalformedPayload: These are not so many strings, or more than any tensor may have.
    """
    refuse_too_many(count, what)
    nbytes = len(octets)
    if nbytes > MOST_OCTETS or count * _PREFIX.size > nbytes:
        raise MalformedPayload(
            f"{what}: {nbytes} bytes of data for {count} strings; each takes {_PREFIX.size} bytes for its length, and "
            f"all together at most {MOST_OCTETS}"
        )
    starts, sizes = np.empty(count, np.int32), np.empty(count, np.int32)
    read, at = _PREFIX.unpack_from, 0
    for first in range(0, count, STEP_ELEMENTS):
        step_starts: list[int] = []
        step_sizes: list[int] = []
        for index in range(first, min(first + STEP_ELEMENTS, count)):
            start = at + 4
            if start > nbytes:
                raise MalformedPayload(
                    f"{what}: the data ends at byte {nbytes}, before string {index} of {count}"
                )
            (size,) = read(octets, at)
            at = start + size
            if at > nbytes:
                raise MalformedPayload(
                    f"{what}: string {index} is said to have {size} bytes, but {nbytes - start} follow its length"
                )
            step_starts.append(start)
            step_sizes.append(size)
        starts[first : first + len(step_starts)] = step_starts
        sizes[first : first + len(step_sizes)] = step_sizes
        yield
    if at != nbytes:
        raise MalformedPayload(f"{what}: {nbytes - at} bytes of data follow the last of {count} strings")
    return Strings(octets, starts, sizes)


def parse_length_prefixed(octets: memoryview, count: int, what: str) -> Strings:
    """:func:`read_length_prefixed` at one go, for what is known to be short."""
    steps = read_length_prefixed(octets, count, what)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            strings: Strings = end.value
            return strings


def length_prefixed_nbytes(strings: Strings) -> int:
    """How long :func:`length_prefixed` is."""
    return _PREFIX.size * len(strings) + strings.total_bytes


def length_prefixed(strings: Strings) -> bytes | bytearray:
    """Write KServe's raw form; the inverse of :func:`read_length_prefixed`."""
    if len(strings) < _FEW:
        pack = _PREFIX.pack
        return b"".join([piece for string in strings for piece in (pack(len(string)), string)])
    whole = bytearray(length_prefixed_nbytes(strings))
    place = np.frombuffer(whole, np.uint8)
    sizes = strings.sizes.astype(np.int64)
    targets = np.cumsum(sizes + _PREFIX.size) - sizes
    for index in range(_PREFIX.size):
        place[targets - _PREFIX.size + index] = sizes >> 8 * index & 0xFF
    strings.scatter(place, targets)
    return whole
