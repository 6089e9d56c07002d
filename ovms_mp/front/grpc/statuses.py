# SPDX-License-Identifier: Apache-2.0
"""What a failure is over gRPC: a status code and a text that clients can receive. For both transports."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ovms_mp.errors import OvmsError
    from ovms_mp.front.call_context import CallContext

LONGEST_TEXT = 1000
"""Characters of a status's text. It travels as metadata, percent-encoded to up to twelve bytes a character, and clients
refuse metadata of more than 16 KiB, which would hide the error itself."""


_PUSHBACK = "grpc-retry-pushback-ms"
"""https://github.com/grpc/proposal/blob/master/A6-client-retries.md#pushback"""


def push_back(context: CallContext, failure: OvmsError) -> None:
    """Tell the client when to try again, where that is known."""
    if failure.retry_after_s:
        context.reply_with(_PUSHBACK, str(max(1, int(1000 * failure.retry_after_s))))


def status_text(failure: OvmsError) -> str:
    """The text of a failure, as long as clients can receive it."""
    text = failure.message
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 3] + "..."
