# SPDX-License-Identifier: Apache-2.0
"""What a failure says to a client, or an end to whoever started the process, in one number.

The codes are gRPC's (https://grpc.io/docs/guides/status-codes/); the HTTP column, the only one that there is, follows
TensorFlow Serving's ``http_server.cc``. Used by every process; imports nothing of the project.
"""

from __future__ import annotations

import enum


class Code(enum.Enum):
    """Canonical status codes: gRPC's name, gRPC's number, and the HTTP status that means the same."""

    CANCELLED = (1, 499)
    UNKNOWN = (2, 500)
    INVALID_ARGUMENT = (3, 400)
    DEADLINE_EXCEEDED = (4, 504)
    NOT_FOUND = (5, 404)
    ALREADY_EXISTS = (6, 409)
    PERMISSION_DENIED = (7, 403)
    RESOURCE_EXHAUSTED = (8, 429)
    FAILED_PRECONDITION = (9, 400)
    # TensorFlow Serving and the first OVMS answer 400, the OVMS of today 412 (its http_server.cpp). Calls that all of
    # them have follow the former; a reload, which only the latter has, keeps its 412: ConfigRejected.
    ABORTED = (10, 409)
    OUT_OF_RANGE = (11, 400)
    UNIMPLEMENTED = (12, 501)
    INTERNAL = (13, 500)
    UNAVAILABLE = (14, 503)
    DATA_LOSS = (15, 500)
    UNAUTHENTICATED = (16, 401)

    @property
    def number(self) -> int:
        """The code's number on the gRPC wire."""
        return self.value[0]

    @property
    def http_status(self) -> int:
        """The HTTP status that carries this code."""
        return self.value[1]


class ExitCode(enum.IntEnum):
    """What a process of ours says by its exit code."""

    CLEAN = 0
    USAGE = 2
    """The command line or the configuration is wrong; starting again changes nothing."""
    BOOT_FAILED = 3
    """The process could not start; its parent must not try again."""
    INTERNAL = 70
    """A defect of ours; the traceback is in the log."""
