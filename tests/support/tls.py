# SPDX-License-Identifier: Apache-2.0
"""Both ends of TLS as tests need them."""

from __future__ import annotations

import http.client
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from ovms_mp.front.grpc.native import plain_answer
from ovms_mp.front.tls.handshake import alerting
from ovms_mp.front.tls.handshakes import Handshakes

if TYPE_CHECKING:
    from pathlib import Path

_MOST = 64


@dataclass(frozen=True)
class ClientTls:
    """What a client trusts, and what it shows of itself.

    Attributes:
        authority: Its file.
        certificate: Files of the client's certificate and key; None for none.
    """

    authority: Path
    certificate: tuple[Path, Path] | None

    def context(self) -> ssl.SSLContext:
        """For Python's sockets."""
        context = ssl.create_default_context(cafile=str(self.authority))
        if self.certificate:
            context.load_cert_chain(*self.certificate)
        return context

    def credentials(self) -> grpc.ChannelCredentials:
        """For grpcio."""
        authority = self.authority.read_bytes()
        if self.certificate is None:
            return grpc.ssl_channel_credentials(authority)
        certificate, key = (path.read_bytes() for path in self.certificate)
        return grpc.ssl_channel_credentials(authority, key, certificate)

    def connection(self, port: int, timeout_s: float) -> http.client.HTTPSConnection:
        """To a REST port of this machine; new, and not connected yet."""
        return http.client.HTTPSConnection("127.0.0.1", port, timeout=timeout_s, context=self.context())


def handshakes(context: ssl.SSLContext | None) -> Handshakes | None:
    """Of a gRPC server that has this context for ever; None for a plain one."""
    return None if context is None else Handshakes(lambda: alerting(context), plain_answer, _MOST)
