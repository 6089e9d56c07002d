# SPDX-License-Identifier: Apache-2.0
"""What REST calls of both APIs have in common: paths, JSON, failures."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ovms_mp import __version__
from ovms_mp.client.errors import ClientError, code_of_http, error_of, unreadable
from ovms_mp.client.exchange import Operation, Request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.client.exchange import Octets, Reply

COMMON_HEADERS = (("accept", "*/*"), ("user-agent", f"ovms-mp-client/{__version__}"))
_MOST_TEXT = 2000
_MOST_DIGITS = 18


class RestDialect:
    """What both APIs have in common over REST."""

    def __init__(self, prefix: str, models: str) -> None:
        """Prepare.

        Args:
            prefix: Before all paths, percent-encoded.
            models: What the paths of models begin with behind it.
        """
        self._prefix = prefix
        self._models = prefix + models

    def common_headers(self) -> tuple[tuple[str, str], ...]:
        """Headers of every request."""
        return COMMON_HEADERS

    def deadline_headers(self, timeout_s: float) -> tuple[tuple[str, str], ...]:
        """None; where the API has a word for it, it is in the body."""
        return ()

    def ready(self) -> Operation[bool]:
        """``GET /v2/health/ready``, which OVMS has beside both APIs."""
        return Operation(Request("GET", f"{self._prefix}/v2/health/ready"), is_yes)

    def live(self) -> Operation[bool]:
        """``GET /v2/health/live``, which OVMS has beside both APIs."""
        return Operation(Request("GET", f"{self._prefix}/v2/health/live"), is_yes)

    def model_path(self, model: str, version: int) -> str:
        """The path of a model, or of a version of it."""
        return f"{self._models}{quote(model, safe='')}" + (f"/versions/{version}" if version else "")


def posted(
    path: str, body: Sequence[Octets], request_id: str, headers: tuple[tuple[str, str], ...] = ()
) -> Request:
    """A call with a body."""
    return Request("POST", path, body, (*headers, *((("x-request-id", request_id),) if request_id else ())))


def refuse_failure(reply: Reply) -> None:
    """Raise unless an answer is a success.

    Raises:
        ClientError: With the server's words.
    """
    if reply.status != 200:
        raise _failure_of(reply)


def _failure_of(reply: Reply) -> ClientError:
    try:
        text = json.loads(bytes(reply.body))["error"]
    except (ValueError, LookupError, TypeError, RecursionError):
        text = bytes(reply.body[:_MOST_TEXT]).decode("utf-8", "replace").strip() or f"HTTP {reply.status}"
    error = error_of(code_of_http(reply.status), str(text))
    error.http_status = reply.status
    error.was_answered = True
    after = reply.headers.get("retry-after", "")
    if after.isascii() and after.isdigit() and len(after) < 8:
        error.retry_after_s = float(after)
    return error


def whole_number(text: str) -> int:
    """A number of a header.

    Raises:
        Failed: It is none.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise unreadable(f"{text[:_MOST_DIGITS]!r} where a length should be")
    return int(text)


def document(octets: Octets) -> Any:
    """What JSON says, as Python has it.

    Raises:
        Failed: It is no JSON.
    """
    try:
        return json.loads(bytes(octets))
    except (ValueError, RecursionError):
        raise unreadable("no JSON") from None


def answered(reply: Reply) -> Any:
    """The document of a success."""
    refuse_failure(reply)
    return document(reply.body)


def is_yes(reply: Reply) -> bool:
    """Whether a probe says yes; 503 is a no.

    Raises:
        ClientError: It says something else.
    """
    if reply.status == 503:
        return False
    refuse_failure(reply)
    return True
