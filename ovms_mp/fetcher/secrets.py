# SPDX-License-Identifier: Apache-2.0
"""Keeps credentials out of what the fetcher says: libraries quote requests, URLs and settings in their errors."""

from __future__ import annotations

import logging
import re
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

SECRET_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_STORAGE_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_CLIENT_SECRET",
)
_IN_CONNECTION_STRING = re.compile(r"(?:AccountKey|SharedAccessSignature)=([^;]+)", re.IGNORECASE)
_SHAPES = re.compile(
    r"(?i)((?:X-Amz-(?:Signature|Credential|Security-Token)|sig|Signature|access_token)=)[^&\s'\"]+"
)
"""Signatures in URLs, which no variable has."""
_IN_URL = re.compile(r"(https?://)[^/\s@'\"]+@")
"""A proxy's name and password."""
_SHORTEST = 4
"""What is shorter is part of many words, and no secret."""
HIDDEN = "***"


class Secrets:
    """What must not be said."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Take them from the environment."""
        found = [environment.get(name, "").strip() for name in SECRET_VARIABLES]
        found += _IN_CONNECTION_STRING.findall(environment.get("AZURE_STORAGE_CONNECTION_STRING", ""))
        # The longer ones first, as they may have others in them.
        self._values = sorted({text for text in found if len(text) >= _SHORTEST}, key=len, reverse=True)

    def scrubbed(self, text: str) -> str:
        """The text without them."""
        for value in self._values:
            text = text.replace(value, HIDDEN)
        return _IN_URL.sub(rf"\1{HIDDEN}@", _SHAPES.sub(rf"\1{HIDDEN}", text))


class ScrubbingFilter(logging.Filter):
    """Takes them out of each line of the log, and of tracebacks."""

    def __init__(self, secrets: Secrets) -> None:
        super().__init__()
        self._secrets = secrets

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record; all of them pass."""
        record.msg, record.args = self._secrets.scrubbed(record.getMessage()), ()
        if record.exc_info and record.exc_info[0] is not None:
            record.exc_text = self._secrets.scrubbed("".join(traceback.format_exception(*record.exc_info)))
            record.exc_info = None
        return True
