# SPDX-License-Identifier: Apache-2.0
"""Memory that a client shares with the server on its machine, so that tensors are not copied.

A region is an anonymous file (a memfd) of a size that its seals fix. It is handed to the server once over a Unix
socket, ``--client_shm_socket``; after that, requests of the KServe API name it as Triton's clients name system shared
memory::

    with RegionConnection("/run/ovms_mp/shm.sock") as connection:
        region = SharedRegion(4 << 20)
        connection.register("frames", region)
        image = region.array((1, 3, 224, 224), numpy.float32)
        image[:] = ...  # Before each request; none of it travels.

A request's input then has the parameters ``shared_memory_region`` ("frames"), ``shared_memory_offset`` (0) and
``shared_memory_byte_size`` (602112). The server forgets a region when its connection ends. The protocol of the socket
is in ``ovms_mp/docs/SHARED_MEMORY.md``. Needs Linux 5.1.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import socket
import struct
import time
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import DTypeLike, NDArray

PROTOCOL_VERSION = 1
ALIGNMENT_BYTES = 64
"""Tensors that begin at a multiple of this are read in place; others are copied by the server."""
_LENGTH = struct.Struct(">I")
_LONGEST_ANSWER = 1 << 20
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_F_SEAL_FUTURE_WRITE = 0x10  # Of linux/fcntl.h; the module has no name for it.


class RegionError(Exception):
    """The server refuses a call, or cannot be asked.

    Attributes:
        code: The name of a gRPC status, e.g. ``INVALID_ARGUMENT``.
        message: For people.
    """

    def __init__(self, code: str, message: str) -> None:
        """Keep both."""
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class SharedRegion:
    """Anonymous memory of a fixed size, mapped here, that can be handed to a server.

    Arrays stay valid after :meth:`close` for as long as they are referenced.
    """

    def __init__(self, nbytes: int, *, is_read_only: bool = False) -> None:
        """Make one; it is all zeros, and takes memory where it is written to.

        Args:
            nbytes: Its size, at least 1.
            is_read_only: Whether the server, and whoever else is given it, may only read it: for inputs.

        Raises:
            OSError: The system refuses it.
        """
        self.nbytes = nbytes
        with contextlib.ExitStack() as stack:
            self.descriptor = os.memfd_create("ovms_mp-client", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            stack.callback(os.close, self.descriptor)
            os.ftruncate(self.descriptor, nbytes)
            self._map = mmap.mmap(self.descriptor, nbytes)
            # After the mapping, which stays writable.
            seals = _SEALS | (_F_SEAL_FUTURE_WRITE if is_read_only else 0)
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, seals)
            stack.pop_all()

    def array(self, shape: tuple[int, ...], dtype: DTypeLike, offset: int = 0) -> NDArray[Any]:
        """A part of the region as an array that is not copied.

        Args:
            shape: Of the array.
            dtype: Of its elements, which must be plain numbers.
            offset: Bytes from the region's begin; a multiple of 64 is read in place by the server.

        Raises:
            ValueError: It is not inside the region, or the elements are objects.
        """
        kind = np.dtype(dtype)
        count = int(np.prod(shape, dtype=np.int64))
        if offset < 0 or offset + count * kind.itemsize > self.nbytes:
            raise ValueError(
                f"{count * kind.itemsize} bytes at {offset} are not inside a region of {self.nbytes} bytes"
            )
        if not count:
            return np.empty(shape, kind)
        return np.frombuffer(self._map, kind, count, offset).reshape(shape)

    def close(self) -> None:
        """Close the descriptor; what a server has been handed it keeps. May be called twice."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __enter__(self) -> Self:
        """The region."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


class RegionConnection:
    """A connection to a server's ``--client_shm_socket``. Regions are registered for as long as it is open.

    For one thread at a time. Calls block, but no longer than ``timeout_s``.
    """

    def __init__(self, path: str, timeout_s: float = 10.0) -> None:
        """Connect.

        Args:
            path: Of the socket.
            timeout_s: Of each call.

        Raises:
            RegionError: Nobody listens there, or not for this user.
        """
        self._timeout_s = timeout_s
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_s)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise RegionError("UNAVAILABLE", f"{path}: {error.strerror or error}") from None

    def register(self, name: str, region: SharedRegion) -> None:
        """Hand a region over; every process of the server knows it by this name when this returns.

        Args:
            name: Not taken by any client's region.
            region: May be closed afterwards.

        Raises:
            RegionError: The server refuses it, or does not answer.
        """
        self._call({"call": "register", "name": name}, [region.descriptor])

    def unregister(self, name: str) -> None:
        """Have a region forgotten; requests that use it already are answered.

        Raises:
            RegionError: It is none of this connection's, or the server does not answer.
        """
        self._call({"call": "unregister", "name": name})

    def regions(self) -> list[dict[str, Any]]:
        """This connection's regions: ``name``, ``byte_size`` and ``access`` (``read`` or ``read_write``) of each.

        Raises:
            RegionError: The server does not answer.
        """
        answer = self._call({"call": "list"})
        return list(answer["regions"])

    def close(self) -> None:
        """End the connection; the server forgets its regions. May be called twice."""
        self._socket.close()

    def __enter__(self) -> Self:
        """The connection."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _call(self, call: dict[str, Any], descriptors: list[int] | None = None) -> dict[str, Any]:
        payload = json.dumps({"version": PROTOCOL_VERSION, **call}).encode()
        frame = _LENGTH.pack(len(payload)) + payload
        deadline = time.monotonic() + self._timeout_s
        try:
            self._socket.settimeout(self._timeout_s)
            # Who is refused is told why before anything is sent, and the socket is closed.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                # A descriptor travels with the frame's first byte.
                sent = socket.send_fds(self._socket, [frame], descriptors or [])
                self._socket.sendall(frame[sent:])
            (length,) = _LENGTH.unpack(self._receive(_LENGTH.size, deadline))
            if length > _LONGEST_ANSWER:
                raise RegionError("INTERNAL", f"an answer of {length} bytes; no server sends that")
            answer = dict(json.loads(self._receive(length, deadline)))
            if (failure := answer.get("error")) is not None:
                failure = (failure["code"], failure["message"])
        except RegionError:
            self.close()
            raise
        except (OSError, ValueError, LookupError, TypeError) as error:
            # Whose answer came next could not be told any more.
            self.close()
            is_late = isinstance(error, TimeoutError)
            raise RegionError("DEADLINE_EXCEEDED" if is_late else "UNAVAILABLE", str(error)) from None
        if failure is not None:
            raise RegionError(*failure)
        return answer

    def _receive(self, nbytes: int, deadline: float) -> bytes:
        parts = bytearray()
        while len(parts) < nbytes:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            part = self._socket.recv(nbytes - len(parts))
            if not part:
                raise RegionError("UNAVAILABLE", "the server has closed the connection")
            parts += part
        return bytes(parts)
