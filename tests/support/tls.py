# SPDX-License-Identifier: Apache-2.0
"""TLS for servers that run in the process of a test."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.front.grpc.native import plain_answer
from ovms_mp.front.tls.handshake import alerting
from ovms_mp.front.tls.handshakes import Handshakes

if TYPE_CHECKING:
    import ssl

_MOST = 64


def handshakes(context: ssl.SSLContext | None) -> Handshakes | None:
    """Of a gRPC server that has this context for ever; None for a plain one."""
    return None if context is None else Handshakes(lambda: alerting(context), plain_answer, _MOST)
