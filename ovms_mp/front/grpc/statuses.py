# SPDX-License-Identifier: Apache-2.0
"""What a failure is over gRPC: a status code and a text that clients can receive. For both transports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.front.failures import failure_of

if TYPE_CHECKING:
    from ovms_mp.errors import Code

LONGEST_TEXT = 1000
"""Characters of a status's text. It travels as metadata, percent-encoded to up to twelve bytes a character, and clients
refuse metadata of more than 16 KiB, which would hide the error itself."""


def status_of(error: Exception, path: str, user_agent: str) -> tuple[Code, str]:
    """The code and text of whatever a call raised; see :func:`~ovms_mp.front.failures.failure_of`."""
    failure = failure_of(error, path, user_agent)
    text = failure.message
    return failure.code, text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 3] + "..."
