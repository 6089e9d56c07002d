# SPDX-License-Identifier: Apache-2.0
"""How many connections a gRPC front may hold: fewer than descriptors are left, so that it can always answer."""

from __future__ import annotations

import os
import resource

_RESERVED_PART = 4
_MOST_RESERVED = 128
"""Descriptors for connections that are told to go while others come, for workers that start, and for files."""
_LEAST_CONNECTIONS = 8


def most_connections(limit: int) -> int:
    """The number of connections that a front may have at once, if it shall have no more than ``limit``.

    Counts what the process has open now, so call it when all else is there.
    """
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if allowed == resource.RLIM_INFINITY:
        return limit
    left = allowed - len(os.listdir("/proc/self/fd"))
    return max(_LEAST_CONNECTIONS, min(limit, left - min(_MOST_RESERVED, left // _RESERVED_PART)))
