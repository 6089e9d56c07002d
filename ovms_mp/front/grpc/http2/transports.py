# SPDX-License-Identifier: Apache-2.0
"""What differs between a plain socket and TLS. Nothing else here knows which of them a transport is.

PERF: uvloop and asyncio write at once if nothing waits. So with the lowest high-water mark, 'not paused' means that
all is in the kernel (or encrypted), and that is when memory behind replies is released.
"""

from __future__ import annotations

import asyncio

NO_H2 = "this port speaks HTTP/2 only, and the client has not offered h2 by ALPN"


def speaks_h2(transport: asyncio.Transport) -> bool:
    """Whether a client may begin with HTTP/2: over TLS if it chose ``h2`` by ALPN (RFC 9113, 3.2), else as it knows."""
    tls = transport.get_extra_info("ssl_object")
    return tls is None or tls.selected_alpn_protocol() == "h2"


def pause_at_once(transport: asyncio.Transport) -> None:
    """Have ``pause_writing`` called as soon as anything waits for the socket.

    NOTE: TLS transports pause at the mark, plain ones above it; behind a handshake this may pause us at once.
    """
    is_plain = transport.get_extra_info("ssl_object") is None
    transport.set_write_buffer_limits(high=0 if is_plain else 1)


def end_writing(transport: asyncio.Transport) -> None:
    """Let what was written reach the peer, then tell it that no more comes. TLS cannot be closed in one direction."""
    if transport.can_write_eof() and not transport.is_closing():
        transport.write_eof()
    else:
        transport.close()


def peer_name(transport: asyncio.Transport) -> object:
    """The peer's address, for the log."""
    return transport.get_extra_info("peername")
