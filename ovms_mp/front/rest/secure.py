# SPDX-License-Identifier: Apache-2.0
"""TLS of the REST port: what uvicorn's server, which knows of none here, makes of a new connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.front.rest import heads
from ovms_mp.front.rest.early import CERTIFICATE_NAME
from ovms_mp.front.rest.http_protocol import RestProtocol
from ovms_mp.front.tls.current import current_context
from ovms_mp.front.tls.handshakes import Handshakes
from ovms_mp.tls.names import name_of

if TYPE_CHECKING:
    import asyncio
    from typing import Any

    from ovms_mp.tls.material import TlsFiles

HANDSHAKES = "handshakes"
"""In the application's state: what begins connections; not there where ports are plain."""


async def rest_handshakes(files: TlsFiles, most: int) -> Handshakes:
    """What begins connections.

    Args:
        files: Of the certificates.
        most: Handshakes at once.

    Raises:
        ConfigError: The files cannot be used.
    """
    return Handshakes(await current_context(files, "http/1.1"), plain_answer, most)


def plain_answer(_start: bytes) -> bytes:
    """For a client that does not speak TLS."""
    return heads.answer(400, "this port speaks TLS; use https://")


def new_protocol(
    *, app_state: dict[str, Any], **named: Any
) -> asyncio.BaseProtocol:  # Any: as uvicorn passes it
    """The protocol of a new connection."""
    handshakes: Handshakes | None = app_state.get(HANDSHAKES)
    if handshakes is None:
        return RestProtocol(app_state=app_state, **named)

    def protocol_of(transport: asyncio.Transport) -> RestProtocol:
        name = name_of(transport.get_extra_info("peercert"))
        return RestProtocol(app_state={**app_state, CERTIFICATE_NAME: name} if name else app_state, **named)

    return handshakes.begin(protocol_of)
