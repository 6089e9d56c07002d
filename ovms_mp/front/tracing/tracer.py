# SPDX-License-Identifier: Apache-2.0
"""Spans of a call and of its stages, made at its end of the times that its context has.

::

    call     |------------------------------------------------|   the client's span is its parent, if there is one
    decode   |--------|                                           until its task is sent
    queue               |-----|                                   the worker's, by the durations in its answer
    infer                     |----------|
    encode                                  |---------|

Whether there are any is decided at the call's begin: by the client's ``traceparent`` or, for a call that begins a
trace, by the rate of the trace settings; what they let pass is for OTEL_TRACES_SAMPLER. Clients hear of a call that has
spans, and only of that: the ids of others would lead to nothing.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from ovms_mp import __version__
from ovms_mp.errors import BootError
from ovms_mp.front.trace_context import TRACEPARENT, TRACESTATE, CallTrace, TraceParent, parent_of, values_of
from ovms_mp.front.tracing.attributes import OK, attributes_of, status_of
from ovms_mp.front.tracing.export import SpanExport

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.sdk.trace.sampling import Sampler

    from ovms_mp.codes import Code
    from ovms_mp.errors import OvmsError
    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.clock import Clock
    from ovms_mp.wire.records import TraceSettings

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_NOT_SAMPLED = TraceFlags(TraceFlags.DEFAULT)
_NO_STATE = TraceState()
_SCOPE = InstrumentationScope("ovms_mp", __version__)


class Tracer:
    """A :class:`~ovms_mp.front.observers.CallObserver`. PERF: 2 us for a call without spans, 60 us for five."""

    def __init__(
        self,
        provider: TracerProvider,
        put: Callable[[Sequence[ReadableSpan]], None],
        settings: TraceSettings,
        clock_ns: Clock = time.monotonic_ns,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Begin.

        Args:
            provider: Has the sampler, the generator of ids and the resource, all by the standard variables.
            put: Takes the spans of a call.
            settings: How much is traced, until :meth:`follow` says otherwise.
            clock_ns: Monotonic time.
            wall_ns: The time of day.
        """
        self._sampler: Sampler = provider.sampler
        self._new_ids = provider.id_generator
        self._resource = provider.resource
        self._put = put
        self._clock_ns = clock_ns
        self._wall_ns = wall_ns
        self._settings = settings
        self._roots = 0

    def follow(self, settings: TraceSettings) -> None:
        """Trace so much from now on."""
        if settings != self._settings:
            self._settings, self._roots = settings, 0

    def begun(self, context: CallContext) -> None:
        """Decide whether the call has spans, and tell the client."""
        if context.is_open or not self._settings.is_on:
            context.trace = None
            return
        if context.trace is not None:  # A message of a stream that is traced.
            stream = context.trace
            context.trace = CallTrace(
                stream.trace_id, self._new_ids.generate_span_id(), stream.own, state=stream.state
            )
            return
        metadata = context.metadata
        parent = parent_of(metadata)
        if parent is None:
            self._roots += 1
            if (self._roots - 1) % self._settings.rate:
                return
        trace_id = parent.trace_id if parent else self._new_ids.generate_trace_id()
        state = ",".join(values_of(metadata, TRACESTATE)) if parent else ""
        above = set_span_in_context(NonRecordingSpan(_span_context(parent, state, True))) if parent else None
        chosen = self._sampler.should_sample(above, trace_id, context.method, SpanKind.SERVER)
        if chosen.decision is Decision.RECORD_AND_SAMPLE:
            trace = context.trace = CallTrace(
                trace_id, self._new_ids.generate_span_id(), parent, is_remote=parent is not None, state=state
            )
            context.reply_with(TRACEPARENT, trace.own.text)

    def ended(self, context: CallContext, code: Code | None, failure: OvmsError | None) -> None:
        """Make the spans."""
        trace = context.trace
        if trace is None:
            return
        now_ns = self._clock_ns()
        # Once for a call, so that its spans agree and a clock that is set is right for the next one.
        offset_ns = self._wall_ns() - now_ns
        own = _span_context(trace.own, trace.state, is_remote=False)
        call = ReadableSpan(
            _name_of(context),
            own,
            parent=trace.parent and _span_context(trace.parent, trace.state, trace.is_remote),
            resource=self._resource,
            attributes=attributes_of(context, code),
            kind=SpanKind.SERVER if trace.is_remote or trace.parent is None else SpanKind.INTERNAL,
            instrumentation_scope=_SCOPE,
            status=status_of(context, code, failure),
            start_time=context.begun_ns + offset_ns,
            end_time=now_ns + offset_ns,
        )
        spans = [call]
        for name, start_ns, end_ns in stages_of(context):
            spans.append(
                ReadableSpan(
                    name,
                    SpanContext(
                        trace.trace_id, self._new_ids.generate_span_id(), False, _SAMPLED, own.trace_state
                    ),
                    parent=own,
                    resource=self._resource,
                    attributes={"ovms_mp.model": context.model},
                    instrumentation_scope=_SCOPE,
                    status=OK,
                    start_time=start_ns + offset_ns,
                    end_time=end_ns + offset_ns,
                )
            )
        self._put(spans)


def _name_of(context: CallContext) -> str:
    """One of few: over REST without the path, which names models."""
    verb, path, _ = context.origin.target
    if context.interface == "gRPC":
        return path.removeprefix("/") if context.method else "unknown method"
    return f"{verb} {context.protocol}/{context.method}"


def stages_of(context: CallContext) -> list[tuple[str, int, int]]:
    """Name, begin and end of each stage that the call has completed.

    What lies between sending and receiving besides the worker's own times is the way there and back, and taken for
    equally long.
    """
    found = []
    if context.sent_ns:
        found.append(("decode", context.begun_ns, context.sent_ns))
    if context.received_ns:
        way_ns = max(0, context.received_ns - context.sent_ns - context.queue_ns - context.infer_ns) // 2
        taken_ns = context.sent_ns + way_ns + context.queue_ns
        found.append(("queue", taken_ns - context.queue_ns, taken_ns))
        found.append(("infer", taken_ns, taken_ns + context.infer_ns))
        if context.encoded_ns:
            found.append(("encode", context.received_ns, context.encoded_ns))
    return found


def _span_context(span: TraceParent, state: str, is_remote: bool) -> SpanContext:
    return SpanContext(
        span.trace_id,
        span.span_id,
        is_remote,
        _SAMPLED if span.is_sampled else _NOT_SAMPLED,
        TraceState.from_header([state]) if state else _NO_STATE,
    )


def open_tracing(
    kind: str, run_id: str, settings: TraceSettings, most_waiting: int
) -> tuple[Tracer, SpanExport]:
    """Begin to trace in this process, with its exporting thread.

    Args:
        kind: What this process is.
        run_id: Of the server that it belongs to.
        settings: How much is traced at first.
        most_waiting: Spans that wait to be exported.

    Raises:
        BootError: A standard variable has a value that cannot be used.
    """
    ours = Resource(
        {"service.name": "ovms_mp", "service.version": __version__, "service.instance.id": run_id}
    )
    process = Resource({"ovms_mp.process": kind})
    resource = Resource.create({}).merge(ours).merge(process).merge(OTELResourceDetector().detect())
    try:
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        export = SpanExport(OTLPSpanExporter(), most_waiting)
    except ValueError as error:
        raise BootError(f"--trace: a variable of OpenTelemetry cannot be used: {error}") from None
    return Tracer(provider, export.put, settings), export
