# SPDX-License-Identifier: Apache-2.0
"""Spans from a context's times: which there are, how they hang together, and what they say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, DEFAULT_ON
from opentelemetry.trace import SpanKind, StatusCode

from ovms_mp.codes import Code
from ovms_mp.errors import InferenceFailed, OvmsError
from ovms_mp.front.call_context import CallContext, Target
from ovms_mp.front.tracing.tracer import Tracer, stages_of
from ovms_mp.wire.records import TraceSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.sampling import Sampler

TRACE, SPAN = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
WALL_NS = 10**18
ALL = TraceSettings()


class Origin:
    """A client with these headers."""

    def __init__(self, *metadata: tuple[str, str | bytes]) -> None:
        self.metadata = metadata
        self.peer = "[::1]:4711"
        self.certificate_name = ""
        self.target = Target("POST", "/s.S/M")


class Played:
    """A tracer whose spans are kept."""

    def __init__(self, settings: TraceSettings = ALL, sampler: Sampler = DEFAULT_ON) -> None:
        self.spans: list[ReadableSpan] = []
        provider = TracerProvider(sampler=sampler, resource=Resource({}), shutdown_on_exit=False)
        self.tracer = Tracer(provider, self._put, settings, lambda: 200, lambda: WALL_NS + 200)

    def _put(self, spans: Sequence[ReadableSpan]) -> None:
        self.spans += spans

    def call(self, *metadata: tuple[str, str | bytes], is_open: bool = False) -> CallContext:
        context = CallContext(0, 0, "tfs", "Predict", Origin(*metadata), "gRPC", 100, is_open=is_open)
        self.tracer.begun(context)
        return context

    def ended(self, context: CallContext, code: Code | None = None, failure: OvmsError | None = None) -> None:
        self.tracer.ended(context, code, failure)


def parent(flags: str = "01") -> tuple[str, str]:
    return ("traceparent", f"00-{TRACE:032x}-{SPAN:016x}-{flags}")


def served(context: CallContext) -> None:
    context.model, context.version = "m", 2
    context.sent_ns, context.received_ns, context.encoded_ns = 120, 180, 195
    context.queue_ns, context.infer_ns = 10, 30


def test_a_call_and_its_stages_hang_together() -> None:
    played = Played()
    context = played.call(parent(), ("tracestate", "a=b"))
    served(context)
    played.ended(context)

    call, *stages = played.spans
    assert call.context.trace_id == TRACE
    assert call.parent is not None
    assert (call.parent.span_id, call.parent.is_remote, call.kind) == (SPAN, True, SpanKind.SERVER)
    assert call.context.trace_state.get("a") == "b"
    assert [(span.name, span.start_time, span.end_time) for span in stages] == [
        ("decode", WALL_NS + 100, WALL_NS + 120),
        ("queue", WALL_NS + 130, WALL_NS + 140),
        ("infer", WALL_NS + 140, WALL_NS + 170),
        ("encode", WALL_NS + 180, WALL_NS + 195),
    ]
    assert (call.start_time, call.end_time) == (WALL_NS + 100, WALL_NS + 200)
    for span in stages:
        assert span.parent is not None
        assert (span.parent.span_id, span.context.trace_id) == (call.context.span_id, TRACE)
    assert context.reply_metadata == (("traceparent", f"00-{TRACE:032x}-{call.context.span_id:016x}-01"),)


def test_times_of_a_worker_that_do_not_fit_begin_when_the_task_was_sent() -> None:
    context = Played().call()
    context.sent_ns, context.received_ns, context.queue_ns, context.infer_ns = 120, 130, 10, 30

    assert stages_of(context) == [("decode", 100, 120), ("queue", 120, 130), ("infer", 130, 160)]


@pytest.mark.parametrize(
    ("metadata", "sampler", "settings", "is_open"),
    [
        ([parent("00")], DEFAULT_ON, TraceSettings(), False),
        ([], ALWAYS_OFF, TraceSettings(), False),
        ([parent()], DEFAULT_ON, TraceSettings(is_on=False), False),
        ([parent()], DEFAULT_ON, TraceSettings(), True),
    ],
)
def test_who_has_no_spans(
    metadata: list[tuple[str, str | bytes]], sampler: Sampler, settings: TraceSettings, is_open: bool
) -> None:
    played = Played(settings, sampler)
    context = played.call(*metadata, is_open=is_open)
    played.ended(context)

    assert (played.spans, context.trace, context.reply_metadata) == ([], None, ())


def test_one_in_so_many_begins_a_trace_and_who_brings_one_goes_with_it() -> None:
    played = Played(TraceSettings(rate=3))

    assert [played.call().trace is not None for _ in range(6)] == [True, False, False] * 2
    assert all(played.call(parent()).trace is not None for _ in range(3))
    played.tracer.follow(TraceSettings(rate=2))
    assert [played.call().trace is not None for _ in range(4)] == [True, False] * 2


def test_a_message_is_below_its_stream() -> None:
    played = Played()
    stream = played.call(parent())
    part = stream.part("ModelInfer", 150)
    played.tracer.begun(part)
    played.ended(part)
    played.ended(stream)

    message, whole = played.spans
    assert message.parent is not None
    assert (message.parent.span_id, message.parent.is_remote) == (whole.context.span_id, False)
    assert (message.kind, message.context.trace_id) == (SpanKind.INTERNAL, TRACE)
    assert part.reply_metadata == ()


@pytest.mark.parametrize(
    ("interface", "http_status", "code", "is_error", "error_type"),
    [
        ("gRPC", 0, None, False, None),
        ("gRPC", 0, Code.INTERNAL, True, "INTERNAL"),
        ("gRPC", 0, Code.INVALID_ARGUMENT, False, "INVALID_ARGUMENT"),
        ("REST", 500, Code.INTERNAL, True, "500"),
        ("REST", 404, Code.NOT_FOUND, False, "NOT_FOUND"),
    ],
)
def test_whose_fault_a_failure_is(
    interface: str, http_status: int, code: Code | None, is_error: bool, error_type: str | None
) -> None:
    played = Played()
    context = played.call(("user-agent", "u" * 1000), ("authorization", "geheim"), ("x-request-id", "r"))
    context.interface, context.http_status = interface, http_status
    played.ended(context, code, None if code is None else InferenceFailed("why"))

    (span,) = played.spans
    assert span.attributes is not None
    assert (span.status.status_code is StatusCode.ERROR, span.attributes.get("error.type")) == (
        is_error,
        error_type,
    )
    assert span.status.description == ("why" if is_error else None)
    assert span.attributes["client.address"] == "::1"
    assert len(str(span.attributes["user_agent.original"])) < 400
    assert span.attributes["x-request-id"] == "r"
    assert "geheim" not in repr(dict(span.attributes))
