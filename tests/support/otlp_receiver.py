# SPDX-License-Identifier: Apache-2.0
"""A collector: takes spans over OTLP/HTTP and keeps them."""

from __future__ import annotations

import gzip
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from opentelemetry.proto.common.v1.common_pb2 import KeyValue


@dataclass(frozen=True)
class Span:
    """One that has come."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    start_ns: int
    end_ns: int
    status: int
    state: str
    attributes: dict[str, str | int]
    resource: dict[str, str | int]


def _attributes(pairs: list[KeyValue]) -> dict[str, str | int]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value") for pair in pairs}


@dataclass
class OtlpReceiver:
    """Listens while it is entered, on a port of its own or the given one."""

    port: int = 0
    spans: list[Span] = field(default_factory=list)

    def __enter__(self) -> Self:
        """Listen."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            """One export."""

            def do_POST(self) -> None:
                """Keep its spans."""
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                assert self.path == "/v1/traces"
                receiver.take(ExportTraceServiceRequest.FromString(body))
                reply = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Be gone."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def take(self, request: ExportTraceServiceRequest) -> None:
        """Keep the spans."""
        for part in request.resource_spans:
            resource = _attributes(list(part.resource.attributes))
            self.spans += [
                Span(
                    span.name,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.kind,
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    span.status.code,
                    span.trace_state,
                    _attributes(list(span.attributes)),
                    resource,
                )
                for scope in part.scope_spans
                for span in scope.spans
            ]

    def of_trace(self, trace_id: str) -> list[Span]:
        """All spans of a trace, as they began."""
        return sorted(
            (span for span in list(self.spans) if span.trace_id == trace_id), key=lambda span: span.start_ns
        )
