# SPDX-License-Identifier: Apache-2.0
"""Arrays in memory that client and server share: registered once, and never copied by the client."""

from __future__ import annotations

import threading
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np

from ovms_mp.client.errors import ClientError, error_of
from ovms_mp.client.places import Place
from ovms_mp.client_regions import RegionConnection, RegionError, SharedRegion
from ovms_mp.codes import Code

if TYPE_CHECKING:
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
    """The regions of one client. For any number of threads."""

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

    def array(self, shape: tuple[int, ...], dtype: DTypeLike) -> AnyArray:
        """An array of zeros in a region of its own.

        Raises:
            ClientError: The server refuses it.
        """
        kind = np.dtype(dtype)
        nbytes = max(1, int(np.prod(shape, dtype=np.int64)) * kind.itemsize)
        region = SharedRegion(nbytes)
        entry = _Region(f"client-{uuid.uuid4().hex}", region, region.array((nbytes,), np.uint8))
        array: AnyArray = region.array(shape, kind)
        with self._lock:
            self._register(entry)
            self._regions[entry.name] = entry
        return array

    def release(self, array: AnyArray) -> None:
        """Have the server forget the region that an array is in; the array itself stays."""
        place = self.place_of(array)
        if place is None:
            return
        with self._lock:
            entry = self._regions.pop(place.region)
            if self._connection is not None:
                _answered(self._connection.unregister, place.region)
            entry.region.close()

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

    def register_again(self) -> None:
        """Hand over everything once more, to a server that has been started anew.

        Raises:
            ClientError: It refuses.
        """
        with self._lock:
            self._disconnect()
            for entry in self._regions.values():
                self._register(entry)

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

    def _register(self, entry: _Region) -> None:
        if self._connection is None:
            self._connection = _answered(RegionConnection, self._path, self._timeout_s)
        _answered(self._connection.register, entry.name, entry.region)


def address_of(array: AnyArray) -> int:
    """Where an array's first element is."""
    return int(array.__array_interface__["data"][0])


def _answered(call: Any, *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except RegionError as error:
        code = Code[error.code] if error.code in Code.__members__ else Code.UNKNOWN
        raise error_of(code, error.message) from None
