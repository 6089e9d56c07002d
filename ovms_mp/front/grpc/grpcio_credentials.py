# SPDX-License-Identifier: Apache-2.0
"""Certificates of grpcio's server, which asks for them at each handshake.

ALPN, versions and ciphers are grpcio's own: it refuses clients without ``h2`` and below TLS 1.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from ovms_mp.front.tls.current import follow

if TYPE_CHECKING:
    from ovms_mp.tls.material import Material, TlsFiles


async def following_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Credentials that change with the files.

    Raises:
        ConfigError: The files cannot be used.
    """
    current: list[grpc.ServerCertificateConfiguration] = []

    def take(material: Material) -> None:
        # SAFETY: one assignment; C-core asks from its own threads.
        current[:] = [
            grpc.ssl_server_certificate_configuration(
                [(material.key, material.certificate)], material.client_ca or None
            )
        ]

    await follow(files, take)
    return grpc.dynamic_ssl_server_credentials(
        current[0], lambda: current[0], require_client_authentication=bool(files.client_ca)
    )
