# SPDX-License-Identifier: Apache-2.0
"""What a failure is over gRPC: a status code and a text that clients can receive. For both transports."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ovms_mp.errors import OvmsError

LONGEST_TEXT = 1000
"""Characters of a status's text. It travels as metadata, percent-encoded to up to twelve bytes a character, and clients
refuse metadata of more than 16 KiB, which would hide the error itself."""


def status_text(failure: OvmsError) -> str:
    """The text of a failure, as long as clients can receive it."""
    text = failure.message
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 3] + "..."
