# SPDX-License-Identifier: Apache-2.0
"""What a request costs without the server: each module is a program of its own, started by the harness."""

from types import MappingProxyType

READY_TEXTS = MappingProxyType(
    {name: f"{name} is ready" for name in ("grpc_echo", "native_echo", "falcon_echo")},
)
"""What each echo server writes to stdout once it answers."""
