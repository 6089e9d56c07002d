# SPDX-License-Identifier: Apache-2.0
"""The documentation's paths, for people and for generators of clients."""

from __future__ import annotations

from ovms_mp.front.openapi.description import STRING, Description, Operation

_HTML = "text/html"

DESCRIPTION = Description(
    "The documentation for browsers",
    {
        ("GET", "ToDocs"): Operation("Leads to `/docs/`", {}, statuses={308: "To `/docs/`."}),
        ("GET", "GetDocs"): Operation("A page of the documentation, or the list of all", {_HTML: STRING}),
    },
    {},
)
