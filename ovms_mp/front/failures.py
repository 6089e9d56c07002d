# SPDX-License-Identifier: Apache-2.0
"""What a client is told of an exception: the one place where that is decided, for all transports."""

from __future__ import annotations

import logging

from ovms_mp.errors import INTERNAL_ERROR_TEXT, OvmsError

_log = logging.getLogger(__name__)


def failure_of(error: Exception, path: str, user_agent: str) -> OvmsError:
    """The failure that a client hears of.

    An exception that is meant for nobody is logged with its traceback; the client gets a fixed text.

    Args:
        error: Whatever a call raised.
        path: The call's, for the log.
        user_agent: What the client says it is, for the log.
    """
    if isinstance(error, OvmsError):
        return error
    _log.error("event=call_raised method=%s user_agent=%s", path, user_agent, exc_info=error)
    return OvmsError(INTERNAL_ERROR_TEXT)
