# SPDX-License-Identifier: Apache-2.0
"""The live page's paths, for people and for generators of clients."""

from __future__ import annotations

from ovms_mp.front.openapi.description import STRING, Description, Operation, Schema

_EVENTS = "text/event-stream"
_EVENT: Schema = {
    "type": "object",
    "properties": {"event": {"type": "string", "enum": ["state", "sample"]}, "data": STRING},
    "required": ["event", "data"],
}
"""Of one event; ``data`` is JSON."""

DESCRIPTION = Description(
    "The live page for browsers",
    {
        ("GET", "ToPage"): Operation(
            "Leads to `/ui/`, the page, whose scripts and styles lie beside it",
            {},
            statuses={307: "To `/ui/`."},
        ),
        ("GET", "PageEvents"): Operation(
            "What the page shows, as server-sent events: `state` at every change, `sample` once a second at most. "
            "Their fields are for the page of the same release; programs have `/v1/status` and `/metrics`",
            {_EVENTS: _EVENT},
            statuses={429: "As many pages are open already as may be."},
        ),
    },
    {},
)
