# SPDX-License-Identifier: Apache-2.0
"""What a client is told of an exception: the one place where that is decided, for all transports."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ovms_mp.errors import INTERNAL_ERROR_TEXT, InferenceFailed, OvmsError, WorkerLost, shortened
from ovms_mp.front.call_context import request_id_of
from ovms_mp.front.log_rate import AtMost
from ovms_mp.front.trace_context import values_of

if TYPE_CHECKING:
    from ovms_mp.front.call_context import CallContext

_log = logging.getLogger(__name__)
_log.addFilter(AtMost())

_FAULTS = (InferenceFailed, WorkerLost)
"""No client's fault. Who looks for what became of a request finds it in the log by its id."""
_LONGEST_SHOWN = 256


def failure_of(error: Exception, path: str, context: CallContext | None) -> OvmsError:
    """The failure that a client hears of.

    An exception that is meant for nobody is logged with its traceback; the client gets a fixed text.

    Args:
        error: Whatever a call raised.
        path: The call's, for the log.
        context: What is known of the call, for the log; None for one that has none yet.
    """
    ours = error if isinstance(error, OvmsError) else None
    level = logging.ERROR if ours is None else logging.WARNING if isinstance(ours, _FAULTS) else logging.DEBUG
    if _log.isEnabledFor(level):
        agent, request_id, message_id = ("", "", "") if context is None else _words_of(context)
        _log.log(
            level,
            "event=%s method=%s user_agent=%r request_id=%r message_id=%r error=%s",
            "call_failed" if ours else "call_raised",
            path,
            agent,
            request_id,
            message_id,
            shortened(f"{type(error).__name__}: {error}", _LONGEST_SHOWN),
            exc_info=None if ours else error,
        )
    return ours or OvmsError(INTERNAL_ERROR_TEXT)


def _words_of(context: CallContext) -> tuple[str, str, str]:
    agents = values_of(context.metadata, "user-agent")
    return (
        shortened(agents[0], _LONGEST_SHOWN) if agents else "",
        request_id_of(context),
        shortened(context.message_id, _LONGEST_SHOWN),
    )
