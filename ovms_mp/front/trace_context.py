# SPDX-License-Identifier: Apache-2.0
"""What travels with a call about the trace that it belongs to: W3C's ``traceparent``.

Source: https://www.w3.org/TR/trace-context/.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

TRACEPARENT, TRACESTATE = "traceparent", "tracestate"
_FORM = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1
_LONGEST = 512


class TraceParent(NamedTuple):
    """A span as other processes know it."""

    trace_id: int
    span_id: int
    is_sampled: bool

    @property
    def text(self) -> str:
        """As a ``traceparent``."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{int(self.is_sampled):02x}"


class CallTrace(NamedTuple):
    """What tracing keeps of a call whose spans are exported.

    Attributes:
        parent: The caller's span, or that of the stream which the message belongs to; None begins a trace.
        is_remote: Whether the parent is another process's.
        state: The client's ``tracestate``.
    """

    trace_id: int
    span_id: int
    parent: TraceParent | None = None
    is_remote: bool = False
    state: str = ""

    @property
    def own(self) -> TraceParent:
        """The call's span, as others know it."""
        return TraceParent(self.trace_id, self.span_id, is_sampled=True)


def parse_traceparent(text: str) -> TraceParent | None:
    """Read a header; None where it is none that W3C knows, which is then as if it were not there."""
    match = _FORM.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None or (match.group(1) == "00" and match.group(5) is not None):
        return None
    return TraceParent(
        int(match.group(2), 16), int(match.group(3), 16), bool(int(match.group(4), 16) & _SAMPLED)
    )


def values_of(metadata: Sequence[tuple[str, str | bytes]], name: str) -> list[str]:
    """All values of a header."""
    return [value for found, value in metadata if found == name and isinstance(value, str)]


def parent_of(metadata: Sequence[tuple[str, str | bytes]]) -> TraceParent | None:
    """The span that a call comes from; None where the client says none, or more than one."""
    found = values_of(metadata, TRACEPARENT)
    return parse_traceparent(found[0].strip()) if len(found) == 1 else None
