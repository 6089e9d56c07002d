# SPDX-License-Identifier: Apache-2.0
"""Who may change the server's state from a browser: nobody but pages of its own host.

A page of any site may have its visitor's browser POST a plain text wherever that browser gets to, without asking first.
Browsers say in the request's header where it comes from; other clients, such as curl, say nothing and are not held up.
The rules are those of Go's ``net/http.CrossOriginProtection``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import falcon

if TYPE_CHECKING:
    from falcon.asgi import Request

_LONGEST = 100


def refuse_other_sites(request: Request) -> None:
    """Raise if a page of another site has made a browser send the request.

    Raises:
        falcon.HTTPForbidden: It has.
    """
    site, origin = request.get_header("Sec-Fetch-Site"), request.get_header("Origin")
    if site is None and origin is None:
        return
    if site in ("same-origin", "none"):
        return
    if site is None and origin is not None and origin.partition("://")[2] == request.get_header("Host"):
        return
    named = (
        f"Origin: {origin[:_LONGEST]}" if origin is not None else f"Sec-Fetch-Site: {str(site)[:_LONGEST]}"
    )
    raise falcon.HTTPForbidden(
        description=f"a page of another site may not change this server ({named}); send the request without a browser, "
        f"e.g. with curl"
    )
