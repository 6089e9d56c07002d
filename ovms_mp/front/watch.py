# SPDX-License-Identifier: Apache-2.0
"""What a front tells of its calls, one by one: spans and lines of the access log, if anybody wants them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.front.access_log import FLUSH_INTERVAL_S, OFF, AccessLog

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

    from ovms_mp.child.specs import FrontSpec
    from ovms_mp.front.observers import CallObserver
    from ovms_mp.front.tracing.export import SpanExport
    from ovms_mp.front.tracing.tracer import Tracer
    from ovms_mp.wire.records import TraceSettings

_LONGEST_CLOSE_S = 1.0
"""For the last spans, which nobody waits for but a process that ends."""
_SHORTEST_CLOSE_S = 0.1


class Watch:
    """Owned by the session."""

    def __init__(self, access: AccessLog | None, tracing: tuple[Tracer, SpanExport] | None) -> None:
        """Own these; see :meth:`open`."""
        self._access = access
        self._tracing = tracing

    @classmethod
    def open(cls, spec: FrontSpec) -> Self:
        """Begin with what is wanted; imports what that needs, after a REST front's fork.

        Raises:
            BootError: A variable of OpenTelemetry cannot be used.
        """
        watching = spec.watching
        tracing = None
        if watching.trace is not None:
            from ovms_mp.front.tracing.tracer import open_tracing

            tracing = open_tracing(spec.kind, spec.common.run_id, watching.trace, watching.most_spans)
        return cls(None if watching.access_log == OFF else AccessLog(watching.access_log), tracing)

    @property
    def observers(self) -> Sequence[CallObserver]:
        """Those of calls. The access log names the trace, so it is told of the end last."""
        found: list[CallObserver] = [] if self._tracing is None else [self._tracing[0]]
        return found if self._access is None else [*found, self._access]

    @property
    def steps(self) -> Sequence[tuple[Callable[[], float], Callable[[], None]]]:
        """What is to be done every now and then: how often, in seconds, and what."""
        return [] if self._access is None else [(lambda: FLUSH_INTERVAL_S, self._access.flush)]

    def follow(self, settings: TraceSettings | None) -> None:
        """Trace so much from now on."""
        if self._tracing is not None and settings is not None:
            self._tracing[0].follow(settings)

    async def close(self, within_s: float) -> None:
        """Let go of what has been kept, within this time or a moment."""
        if self._access is not None:
            self._access.flush()
        if self._tracing is not None:
            await self._tracing[1].close(min(_LONGEST_CLOSE_S, max(_SHORTEST_CLOSE_S, within_s)))
