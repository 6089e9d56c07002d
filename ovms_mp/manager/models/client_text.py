# SPDX-License-Identifier: Apache-2.0
"""Reasons for clients: what went wrong, without where on this machine. The log has the whole text."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_PATH = re.compile(r"(?<![\w:/.\-])/(?!v1/|dev/(?:dri|accel)\b)(?:[^\s/'\"`,;:()<>]+/)+([^\s/'\"`,;:()<>]*)")
"""An absolute path with a directory in it: not the second half of ``and/or``, of a URL or of a relative path, and not
the places of devices, which remedies name."""


def without_paths(text: str, *directories: Path | str) -> str:
    """The text with relative paths instead of those below these directories, and only the last name of all others."""
    for directory in directories:
        given = str(directory)
        for known in {given, os.path.realpath(given)} if given.strip("/") else ():
            text = text.replace(f"{known}/", "").replace(known, os.path.basename(known))
    return _PATH.sub(r"\1", text)
