# SPDX-License-Identifier: Apache-2.0
"""How long a client waits for its answer, if a header says so; over gRPC the protocol itself has that.

Whatever a request waits for then ends with its client's patience: its body, a version that is being loaded, a worker.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from ovms_mp.errors import DeadlineExceeded, MalformedPayload
from ovms_mp.front.endpoints import TIMEOUT_HEADER

if TYPE_CHECKING:
    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.endpoints import Answer, Handler
    from ovms_mp.front.rest.request import IncomingRequest

_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_QUOTED_CHARACTERS = 40


async def answer_in_time(
    handler: Handler, incoming: IncomingRequest, context: CallContext, timeout_text: str
) -> Answer:
    """What a handler answers while the client waits.

    Args:
        handler: Cancelled when the client has waited for long enough.
        incoming: The request.
        context: Its deadline becomes that of the client where that is earlier.
        timeout_text: The header.

    Raises:
        MalformedPayload: The header says no time.
        DeadlineExceeded: The time is over.
    """
    timeout_s = _seconds(timeout_text)
    deadline_ns = context.begun_ns + int(timeout_s * 1e9)
    context.deadline_ns = min(context.deadline_ns or deadline_ns, deadline_ns)
    try:
        async with asyncio.timeout(timeout_s) as patience:
            return await handler(incoming, context)
    except TimeoutError:
        if not patience.expired():
            raise
        raise DeadlineExceeded(f"no answer within {timeout_s:g} s ({TIMEOUT_HEADER})") from None


def _seconds(text: str) -> float:
    seconds = float(text) if _SECONDS.fullmatch(text) else 0.0
    if not seconds:
        raise MalformedPayload(
            f"{TIMEOUT_HEADER} is {text[:_QUOTED_CHARACTERS]!r}, expected the seconds to wait for an answer, e.g. 0.5"
        )
    return seconds
