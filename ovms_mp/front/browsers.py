# SPDX-License-Identifier: Apache-2.0
"""Sends browsers to the page."""

from __future__ import annotations

from ovms_mp.front.endpoints import Answer

_NAME = "ui"


def to_page(path: str, below: str) -> Answer:
    """A browser is sent on, by a relative path: nobody here knows what a proxy has taken from its beginning.

    Args:
        path: As it was asked for.
        below: Where the page is, seen from there.
    """
    place = "/".join(filter(None, (path.rpartition("/")[2], below))) or _NAME
    headers = (("Location", f"{place}/"), ("Cache-Control", "no-cache"), ("Vary", "Accept"))
    return Answer(b"", 307, "text/plain", headers)
