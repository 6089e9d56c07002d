# SPDX-License-Identifier: Apache-2.0
"""Handshakes on played transports: who is refused, how that is counted, and who makes room."""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest

from ovms_mp.front.tls.handshakes import Handshakes, handshakes_among
from ovms_mp.front.tls.reasons import Reason, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from ovms_mp.front.tls.handshake import Handshake


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test on an event loop."""

    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        asyncio.run(test(*arguments, **named))

    return run


class Played(asyncio.Transport):
    """A connection as far as a handshake looks at it."""

    def __init__(self, family: int = socket.AF_INET) -> None:
        super().__init__({"peername": ("10.0.0.1", 7), "socket": self})
        self.family = family
        self.written = b""
        self.is_aborted = self.has_ended = False
        self.protocol: asyncio.BaseProtocol | None = None

    def write(self, data: Any) -> None:
        self.written += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.has_ended = True

    def abort(self) -> None:
        self.is_aborted = True

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol


class Spoken(asyncio.Protocol):
    """What speaks behind the handshake."""


def no_context() -> ssl.SSLContext:
    raise AssertionError("no handshake begins here")


def begun(keeper: Handshakes, transport: Played) -> Handshake:
    handshake = keeper.begin(lambda _: Spoken())
    handshake.connection_made(transport)
    return handshake


@in_loop
async def test_plain_octets_are_answered_and_the_rest_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    keeper = Handshakes(no_context, lambda start: b"speak TLS, not " + start[:3], 9)
    for _ in range(3):
        transport = Played()
        handshake = begun(keeper, transport)
        handshake.data_received(b"GET / HTTP/1.1\r\n")
        handshake.data_received(b"\x16\x03 more")
        assert (transport.written, transport.has_ended) == (b"speak TLS, not GET", True)
        assert not handshake.eof_received()
        handshake.connection_lost(None)
    assert keeper.refused == {Reason.PLAINTEXT: 3}
    assert caplog.text.count("event=tls_refused peer=10.0.0.1:7 why=plaintext") == 1


@in_loop
async def test_who_says_nothing_is_a_probe() -> None:
    keeper = Handshakes(no_context, bytes, 9)
    begun(keeper, Played()).connection_lost(None)
    assert not keeper.refused


@in_loop
async def test_the_oldest_makes_room() -> None:
    keeper = Handshakes(no_context, bytes, 2)
    transports = [Played() for _ in range(4)]
    handshakes = [begun(keeper, transport) for transport in transports]
    assert [transport.is_aborted for transport in transports] == [True, True, False, False]
    for handshake in handshakes:
        handshake.connection_lost(None)
    assert keeper.refused == {Reason.CROWDED: 2}


@in_loop
async def test_unix_sockets_are_plain() -> None:
    transport = Played(socket.AF_UNIX)
    begun(Handshakes(no_context, bytes, 2), transport)
    assert isinstance(transport.protocol, Spoken)


def test_few_connections_are_handshakes() -> None:
    assert [handshakes_among(connections) for connections in (8, 64, 4096)] == [4, 8, 512]


def verification(code: int) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "x")
    error.verify_code = code
    return error


def openssl(name: str) -> ssl.SSLError:
    error = ssl.SSLError(1, "x")
    error.reason = name
    return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (verification(20), Reason.UNKNOWN_CLIENT),
        (verification(10), Reason.EXPIRED_CLIENT),
        (verification(9), Reason.EARLY_CLIENT),
        (verification(26), Reason.BAD_CLIENT_CERTIFICATE),
        (openssl("PEER_DID_NOT_RETURN_A_CERTIFICATE"), Reason.NO_CLIENT_CERTIFICATE),
        (openssl("UNSUPPORTED_PROTOCOL"), Reason.OLD_VERSION),
        (openssl("TLSV1_ALERT_UNKNOWN_CA"), Reason.NOT_TRUSTED),
        (openssl("SSLV3_ALERT_CERTIFICATE_EXPIRED"), Reason.NOT_TRUSTED),
        (openssl("TLSV1_ALERT_INTERNAL_ERROR"), Reason.OTHER),
        (openssl("NO_SHARED_CIPHER"), Reason.NO_CIPHER),
        (openssl("BAD_LENGTH"), Reason.OTHER),
        (ConnectionResetError(), Reason.LEFT),
    ],
)
def test_reasons(error: Exception, reason: Reason) -> None:
    assert reason_of(error) is reason
