# SPDX-License-Identifier: Apache-2.0
"""The protocol of the socket over which clients hand over memory: frames of JSON, some with a descriptor.

``ovms_mp/docs/SHARED_MEMORY.md`` says what they mean. A frame is read in two steps, its length and the rest, and never
beyond its end: so a descriptor that comes with what was read belongs to this frame.

Source: unix(7), SCM_RIGHTS.
"""

from __future__ import annotations

import array
import socket
import struct
from typing import TYPE_CHECKING, Annotated, TypeAlias

import msgspec

from ovms_mp.errors import MalformedPayload, OvmsError
from ovms_mp.wire.changes import LONGEST_REGION_NAME

if TYPE_CHECKING:
    from ovms_mp.wire.closing import StrangersDescriptors

PROTOCOL_VERSION = 1
LONGEST_CALL = 4096
_LENGTH = struct.Struct(">I")
_MOST_DESCRIPTORS = 4
"""What is more is closed by the kernel."""
_DESCRIPTOR_BYTES = array.array("i").itemsize
_MOST_ANCILLARY = socket.CMSG_SPACE(_MOST_DESCRIPTORS * _DESCRIPTOR_BYTES)

_Name: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_REGION_NAME)]


class Call(msgspec.Struct, frozen=True, tag_field="call"):
    """Base of what a client asks for. Keys that are not known mean nothing."""

    version: int


class Register(Call, frozen=True, tag="register"):
    """Take the memory whose descriptor comes with this."""

    name: _Name


class Unregister(Call, frozen=True, tag="unregister"):
    """Forget a region of this connection."""

    name: _Name


class ListRegions(Call, frozen=True, tag="list"):
    """Tell this connection's regions."""


AnyCall: TypeAlias = Register | Unregister | ListRegions
_CALL: msgspec.json.Decoder[AnyCall] = msgspec.json.Decoder(AnyCall)


class ConnectionEnded(Exception):
    """The other end has closed, or sends what is no frame; nothing more can be read."""


class FrameReader:
    """Reads a connection's frames, however they are cut; never waits."""

    def __init__(self, connection: socket.socket, strangers: StrangersDescriptors) -> None:
        """Read nothing yet.

        Args:
            connection: Does not block; the caller's.
            strangers: Descriptors are taken while it can close some.
        """
        self._connection = connection
        self._strangers = strangers
        self._octets = bytearray()
        self._wanted = _LENGTH.size
        self._has_length = False
        self.descriptors: list[int] = []
        """Those that came with the frame; the caller's from the moment that it is complete, or the connection ends."""
        self.has_lost_descriptors = False
        """Whether more came than are taken."""

    @property
    def has_begun(self) -> bool:
        """Whether a part of a frame has been read."""
        return self._has_length or bool(self._octets)

    def read(self) -> bytes | None:
        """What is there of the current frame; its content when it is complete.

        Raises:
            ConnectionEnded: There will be none.
            MalformedPayload: It is too long; nothing after it can be read.
        """
        while True:
            try:
                octets, ancillary, flags, _ = self._connection.recvmsg(
                    self._wanted - len(self._octets),
                    # One lot for each frame, as each octet of it could bring more, and the process has few.
                    _MOST_ANCILLARY if self._strangers.has_room and not self.descriptors else 0,
                    socket.MSG_CMSG_CLOEXEC,
                )
            except BlockingIOError:
                return None
            except OSError:
                raise ConnectionEnded from None
            self._take_descriptors(ancillary)
            self.has_lost_descriptors |= bool(flags & socket.MSG_CTRUNC)
            if not octets:
                raise ConnectionEnded
            self._octets += octets
            if len(self._octets) < self._wanted:
                continue
            content, self._octets = bytes(self._octets), bytearray()
            if self._has_length:
                self._has_length, self._wanted = False, _LENGTH.size
                return content
            (length,) = _LENGTH.unpack(content)
            if not 0 < length <= LONGEST_CALL:
                raise MalformedPayload(f"a call of {length} bytes; it has 1 to {LONGEST_CALL}")
            self._has_length, self._wanted = True, length

    def take_descriptors(self) -> tuple[list[int], bool]:
        """The descriptors of the frame that is complete, and whether there were more; the reader forgets both."""
        found = self.descriptors, self.has_lost_descriptors
        self.descriptors, self.has_lost_descriptors = [], False
        return found

    def _take_descriptors(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                found = array.array("i")
                found.frombytes(data[: len(data) - len(data) % _DESCRIPTOR_BYTES])
                self.descriptors += found


def decode_call(content: bytes) -> AnyCall:
    """The call in a frame.

    Raises:
        MalformedPayload: It is none, or of another version.
    """
    try:
        call = _CALL.decode(content)
        if isinstance(call, Register | Unregister):
            call.name.encode()
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise MalformedPayload(
            f"a call is a JSON object with 'version' ({PROTOCOL_VERSION}), 'call' (register, unregister or list) and, "
            f"but for list, 'name' (1 to {LONGEST_REGION_NAME} characters): {error}"
        ) from None
    if call.version != PROTOCOL_VERSION:
        raise MalformedPayload(
            f"version {call.version} of the protocol; this server speaks {PROTOCOL_VERSION}"
        )
    return call


def encode_answer(**content: object) -> bytes:
    """A frame with an answer."""
    return _frame({"version": PROTOCOL_VERSION, **content})


def encode_error(error: OvmsError) -> bytes:
    """A frame that says why a call is refused."""
    return encode_answer(error={"code": error.code.name, "message": error.message})


def _frame(content: dict[str, object]) -> bytes:
    payload = msgspec.json.encode(content)
    return _LENGTH.pack(len(payload)) + payload
