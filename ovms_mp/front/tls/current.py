# SPDX-License-Identifier: Apache-2.0
"""The certificates that a front uses at this moment, replaced as a whole when their files change."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from ovms_mp.errors import ConfigError
from ovms_mp.front.tls.handshake import alerting
from ovms_mp.tls.rotation import Rotation

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from ovms_mp.tls.material import Material, TlsFiles

_SETTLED_WITHIN_S = 5.0
_AGAIN_S = 0.2


async def follow(files: TlsFiles, take: Callable[[Material], None]) -> None:
    """Take what the files hold, now and whenever they change, to the end of the process.

    A front may start while they are being replaced, so what cannot be used is read again for some seconds.

    Args:
        files: Of certificate, key and clients' CA.
        take: Called before this returns; later from a thread.

    Raises:
        ConfigError: They cannot be used.
    """
    give_up_s = time.monotonic() + _SETTLED_WITHIN_S
    while True:
        try:
            Rotation(files, take).start()
        except ConfigError:
            if time.monotonic() > give_up_s:
                raise
            await asyncio.sleep(_AGAIN_S)
        else:
            return


async def current_context(files: TlsFiles, *protocols: str) -> Callable[[], ssl.SSLContext]:
    """What gives the context for a handshake that begins now.

    Args:
        files: See :func:`follow`.
        protocols: What is spoken, by the names of ALPN.

    Raises:
        ConfigError: The files cannot be used.
    """
    contexts: list[ssl.SSLContext] = []

    def take(material: Material) -> None:
        # SAFETY: one assignment; a handshake that goes on has the former context.
        contexts[:] = [alerting(material.context(*protocols))]

    await follow(files, take)
    return lambda: contexts[0]
