# SPDX-License-Identifier: Apache-2.0
"""Arrays in memory that client and server share: registered once, and never copied by the client."""

from __future__ import annotations

import math
import operator
import threading
import time
import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from ovms_mp.client import forks
from ovms_mp.client.checks import wrong
from ovms_mp.client.datatypes import row_of
from ovms_mp.client.errors import ClientError, NotFound, Unavailable, error_of
from ovms_mp.client.places import Place
from ovms_mp.client_regions import RegionConnection, RegionError, SharedRegion
from ovms_mp.codes import Code

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import DTypeLike

    from ovms_mp.client.datatypes import AnyArray


class _Region:
    """A region with the addresses that it has here."""

    def __init__(self, name: str, region: SharedRegion, array: AnyArray) -> None:
        self.name = name
        self.region = region
        self.array = array
        self.start = address_of(array)
        self.end = self.start + array.nbytes


class SharedArrays:
    """The regions of one client. For any number of threads.

    Attributes:
        generation: Grows each time that regions get other names, as the server did not know them any more.
    """

    def __init__(self, path: str, timeout_s: float) -> None:
        """Nothing is connected before there is an array.

        Args:
            path: Of the server's socket.
            timeout_s: Of each registration.
        """
        self._path = path
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._connection: RegionConnection | None = None
        self._regions: dict[str, _Region] = {}
        self.generation = 0
        forks.note(self)

    def start_anew(self) -> None:
        """See :class:`~ovms_mp.client.forks.Forked`. The memory is both's, and the server knows it from the parent."""
        self._lock = threading.Lock()
        self._disconnect()

    def array(self, shape: int | Sequence[int], dtype: DTypeLike) -> AnyArray:
        """An array of zeros in a region of its own.

        Raises:
            ClientError: There cannot be such an array, or the server refuses it.
        """
        sizes, kind = _checked(shape, dtype)
        nbytes = math.prod(sizes) * kind.itemsize
        if not nbytes:
            return np.zeros(sizes, kind)
        try:
            region = SharedRegion(nbytes)
        except (OSError, OverflowError, ValueError) as error:
            raise error_of(
                Code.RESOURCE_EXHAUSTED, f"there is no shared memory of {nbytes} bytes: {error}"
            ) from None
        entry = _Region(_new_name(), region, region.array((nbytes,), np.uint8))
        array: AnyArray = region.array(sizes, kind)
        try:
            with self._lock:
                self._register_first(entry)
                self._regions[entry.name] = entry
        except ClientError:
            region.close()
            raise
        return array

    def _register_first(self, entry: _Region) -> None:
        was_connected = self._connection is not None
        try:
            self._register(entry, self._timeout_s)
        except Unavailable:
            if not was_connected:
                raise
            # The server was started anew, or has closed the connection for another reason.
            self._start_over(time.monotonic() + self._timeout_s)
            self._register(entry, self._timeout_s)

    def release(self, array: AnyArray) -> None:
        """Have the server forget the region that an array is in; the array itself stays."""
        place = self.place_of(array)
        if place is None:
            return
        with self._lock:
            entry = self._regions.pop(place.region, None)
            if entry is None:
                return  # Somebody else has released it.
            entry.region.close()
            if self._connection is not None:
                try:
                    _answered(self._connection.unregister, place.region)
                except (Unavailable, NotFound):
                    pass  # It has forgotten it already.

    def place_of(self, array: AnyArray) -> Place | None:
        """Where an array lies in a region; None if it lies elsewhere."""
        if not array.flags.c_contiguous or not array.nbytes or array.dtype.hasobject:
            return None
        start = address_of(array)
        for entry in tuple(self._regions.values()):
            if entry.start <= start and start + array.nbytes <= entry.end:
                return Place(entry.name, start - entry.start, array.nbytes, array)
        return None

    def has_lost(self, error: ClientError) -> bool:
        """Whether a failure says that the server does not know a region, as it has been started anew."""
        return (
            bool(self._regions) and error.code is Code.NOT_FOUND and "shared memory region" in error.message
        )

    def register_again(self, generation: int, deadline: float) -> None:
        """Hand over everything once more, to a server that has been started anew, by other names.

        Args:
            generation: Of the names that it did not know; nothing is done if somebody else has done this meanwhile.
            deadline: Monotonic.

        Raises:
            ClientError: It refuses.
        """
        with self._lock:
            if self.generation == generation:
                self._start_over(deadline)

    def _start_over(self, deadline: float) -> None:
        self._disconnect()
        # New names, as the server may not have noticed yet that the old ones are nobody's any more.
        renamed = {entry.name: entry for entry in map(_renamed, self._regions.values())}
        for entry in renamed.values():
            self._register(entry, max(0.001, deadline - time.monotonic()))
        # Not before: whoever sends a name that is still to be registered takes the server for one that has forgotten
        # it, and has all names changed once more under those who have just sent theirs.
        self._regions = renamed
        self.generation += 1

    def close(self) -> None:
        """Have the server forget all regions; arrays stay."""
        with self._lock:
            self._disconnect()
            for entry in self._regions.values():
                entry.region.close()
            self._regions.clear()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _register(self, entry: _Region, timeout_s: float) -> None:
        if self._connection is None:
            self._connection = _answered(RegionConnection, self._path, timeout_s)
        _answered(self._connection.register, entry.name, entry.region)


def _checked(shape: int | Sequence[int], dtype: DTypeLike) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """The sizes and the elements of an array that can be shared.

    Raises:
        InvalidRequest: There is none.
    """
    try:
        kind = np.dtype(dtype)
        sizes = tuple(map(operator.index, shape)) if isinstance(shape, Iterable) else (operator.index(shape),)
    except TypeError as error:
        raise wrong(f"there is no array of the shape {shape!r} and the dtype {dtype!r}: {error}") from None
    if any(size < 0 for size in sizes):
        raise wrong(f"an array of the shape {sizes} would have a negative size")
    if kind.hasobject or not kind.isnative:
        raise wrong(
            f"elements of the dtype {kind} cannot be shared; accepted: numbers and booleans, little-endian"
        )
    row_of(kind)
    return sizes, kind


def _new_name() -> str:
    return f"client-{uuid.uuid4().hex}"


def _renamed(entry: _Region) -> _Region:
    return _Region(_new_name(), entry.region, entry.array)


def address_of(array: AnyArray) -> int:
    """Where an array's first element is."""
    return int(array.__array_interface__["data"][0])


def _answered(call: Any, *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except RegionError as error:
        code = Code[error.code] if error.code in Code.__members__ else Code.UNKNOWN
        raise error_of(code, error.message) from None
