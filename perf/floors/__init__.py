# SPDX-License-Identifier: Apache-2.0
"""What a request costs without the server: each module is a program of its own, started by the harness."""

from types import MappingProxyType

READY_TEXTS = MappingProxyType(
    {"grpc_echo": "grpc_echo is ready", "falcon_echo": "falcon_echo is ready"},
)
"""What each echo server writes to stdout once it answers."""
