# SPDX-License-Identifier: Apache-2.0
"""A client's side of an HTTP/1.1 connection, without a socket (RFC 9112). One request at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.client.errors import ClientError, Failed, error_of, unreadable
from ovms_mp.client.exchange import not_sent
from ovms_mp.codes import Code

if TYPE_CHECKING:
    from ovms_mp.client.exchange import Exchange, Octets

_LONGEST_HEAD = 64 << 10
_LONGEST_LINE = 4096
_LONGEST_LENGTH = 18
_MOST_INTERIM = 100
_WITHOUT_BODY = (204, 304)
_BEGIN = b"HTTP"
_BREAKS = ("\r", "\n", "\0")
_HEX = frozenset(b"0123456789abcdefABCDEF")


class Http1Connection:
    """Connection of a client; everything that it wants sent is in :meth:`take_outgoing`.

    Attributes:
        is_usable: Whether another exchange may begin when this one has ended.
        most_streams: One.
    """

    most_streams = 1

    def __init__(self, authority: str, headers: tuple[tuple[str, str], ...]) -> None:
        """Begin.

        Args:
            authority: Of the server.
            headers: That every request has.
        """
        self.is_usable = True
        self._common = "".join(_line(name, value) for name, value in (("host", authority), *headers))
        self._outgoing: list[Octets] = []
        self._exchange: Exchange | None = None
        self._buffer = bytearray()
        self._left = 0
        """Octets of the body, or of the chunk, that are to come; -1: until the end of the connection."""
        self._has_head = False
        self._is_chunked = False
        self._is_trailer = False
        self._is_behind_chunk = False
        self._interim = 0
        self._has_answered = False

    @property
    def has_room(self) -> bool:
        """Whether an exchange may begin now."""
        return self.is_usable and self._exchange is None

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way."""
        return self._exchange is None

    def take_outgoing(self) -> list[Octets]:
        """What is to be sent; it counts as sent."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def begin(self, exchange: Exchange, *, is_whole: bool = True) -> int:
        """Send a request.

        Args:
            exchange: With all of its body.
            is_whole: Always true.

        Raises:
            InvalidRequest: A header cannot be sent; nothing has begun.
        """
        request = exchange.request
        head = f"{request.verb} {request.path} HTTP/1.1\r\n{self._common}"
        head += "".join(_line(name, value) for name, value in request.headers)
        if request.body or request.verb == "POST":
            head += f"content-length: {sum(map(len, request.body))}\r\n"
        octets = head.encode("latin-1") + b"\r\n"
        self._exchange = exchange
        self._has_head = self._is_chunked = self._is_trailer = self._is_behind_chunk = False
        self._left = self._interim = 0
        self._outgoing += [octets, *request.body]
        return 1

    def cancel(self, stream_id: int) -> None:
        """Give the request up, which ends the connection."""
        self._exchange = None
        self.is_usable = False

    def close(self, failure: ClientError, *, is_clean: bool = False) -> None:
        """Take note that the connection is gone.

        Args:
            failure: Why.
            is_clean: Whether the server has closed it, which ends a body that says no length. A connection that is cut
                off does not.
        """
        self.is_usable = False
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        if self._has_head and self._left == -1 and is_clean:
            exchange.end()
        elif self._has_answered and not self._has_head and not self._buffer:
            # The server has closed it for being idle, while the request was on its way (RFC 9110, 9.2.2).
            exchange.fail(not_sent(failure.message) if isinstance(failure, ConnectionError) else failure)
        else:
            exchange.fail(failure)

    def receive(self, octets: Octets) -> None:
        """Take what has come.

        Raises:
            Failed: It is no answer; the connection is of no use any more.
        """
        exchange = self._exchange
        if exchange is None:
            self.is_usable = False  # Nobody has asked.
            return
        if self._has_head and self._left and not self._buffer and len(octets) <= self._left:
            self._take_body(exchange, octets)  # Most of a long body comes this way, and is not copied again.
            if self._left or self._is_chunked:
                return
        else:
            self._buffer += octets
        while self._exchange is exchange and self._advance(exchange):
            pass

    def _advance(self, exchange: Exchange) -> bool:
        """Take the next part of what is in the buffer; false if more has to come first."""
        if not self._has_head:
            return self._take_head(exchange)
        if self._left:
            if not self._buffer:
                return False
            size = len(self._buffer) if self._left < 0 else min(self._left, len(self._buffer))
            piece = bytes(self._buffer[:size])
            del self._buffer[:size]
            self._take_body(exchange, piece)
            return True
        if self._is_chunked:
            return self._take_chunk_line(exchange)
        self._finish(exchange)
        return False

    def _take_body(self, exchange: Exchange, octets: Octets) -> None:
        if self._left > 0:
            self._left -= len(octets)
        try:
            exchange.take_data(bytes(octets))
        except ClientError as error:
            self.cancel(1)
            exchange.fail(error)

    def _take_head(self, exchange: Exchange) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > _LONGEST_HEAD:
                raise _broken("a head that does not end")
            if not self._buffer.startswith(_BEGIN[: len(self._buffer)]):
                raise _stranger(self._buffer)
            return False
        lines = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        version, _, rest = lines[0].partition(" ")
        status_text = rest[:3]
        if version not in ("HTTP/1.1", "HTTP/1.0") or len(status_text) < 3 or not status_text.isdigit():
            raise _broken("no status line")
        status = int(status_text)
        if status < 200:
            self._interim += 1
            if status == 101 or self._interim > _MOST_INTERIM:
                raise _broken(f"the status {status}")
            return True
        headers: dict[str, str] = {}
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not colon or name != name.strip():
                raise _broken("a header without a name")
            name, value = name.lower(), value.strip(" \t")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        options = headers.get("connection", "").lower()
        if "close" in options or (version == "HTTP/1.0" and "keep-alive" not in options):
            self.is_usable = False
        self._has_head = self._has_answered = True
        self._frame_body(exchange, status, headers)
        exchange.take_head(status, headers)
        return True

    def _frame_body(self, exchange: Exchange, status: int, headers: dict[str, str]) -> None:
        """Find out how long the body is (RFC 9112, 6.3)."""
        coding, length = headers.get("transfer-encoding"), headers.get("content-length")
        if status in _WITHOUT_BODY or exchange.request.verb == "HEAD":
            return
        if coding is not None:
            if coding.lower() != "chunked" or length is not None:
                raise _broken(f"the transfer coding {coding[:40]!r}")
            self._is_chunked = True
        elif length is None:
            self._left, self.is_usable = -1, False
        else:
            values = {value.strip() for value in length.split(",")}
            length = values.pop()
            if values or not length.isascii() or not length.isdigit() or len(length) > _LONGEST_LENGTH:
                raise _broken(f"the content length {length[:40]!r}")
            self._left = int(length)

    def _take_chunk_line(self, exchange: Exchange) -> bool:
        """Take a line that is about chunks: a size, the end of one, or a trailer, which means nothing to us."""
        end = self._buffer.find(b"\r\n")
        if end < 0:
            if len(self._buffer) > _LONGEST_LINE:
                raise _broken("a chunk that does not begin")
            return False
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        if self._is_trailer:
            if not line:
                self._finish(exchange)
                return False
            self._interim += 1
            if self._interim > _MOST_INTERIM:
                raise _broken("trailers that do not end")
            return True
        if self._is_behind_chunk:
            if line:
                raise _broken("a chunk that is longer than it says")
            self._is_behind_chunk = False
            return True
        size = line.partition(b";")[0].strip()
        if not size or len(size) > _LONGEST_LENGTH or not _HEX.issuperset(size):
            raise _broken("a chunk without a size")
        self._left = int(size, 16)
        self._is_trailer = not self._left
        self._is_behind_chunk = not self._is_trailer
        return True

    def _finish(self, exchange: Exchange) -> None:
        self._exchange = None
        if self._buffer:
            self.is_usable = False
        exchange.end()


def _line(name: str, value: str) -> str:
    if any(character in name or character in value for character in _BREAKS):
        raise error_of(Code.INVALID_ARGUMENT, f"the header {name!r} has a line break")
    return f"{name}: {value}\r\n"


def _stranger(octets: bytearray) -> Failed:
    """The failure of a connection whose peer does not speak HTTP/1.1 at all."""
    if octets.startswith(b"\x15\x03"):
        return unreadable("it speaks TLS; give https:// instead of http://")
    if octets[3:5] == b"\4\0":  # The settings that HTTP/2 begins with.
        return unreadable("it speaks HTTP/2, as for gRPC; give grpc:// instead of http://")
    return _broken("no status line")


def _broken(what: str) -> Failed:
    return unreadable(f"{what}, which HTTP/1.1 does not allow")
