# SPDX-License-Identifier: Apache-2.0
"""The same requests with tensors past the application and through it: what a client hears and what is noted are equal.

Everything but the sockets and the worker's inference is real. The worker echoes its inputs.
"""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import os
import struct
import zlib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pytest
import uvicorn
from uvicorn.server import ServerState

from ovms_mp.child.specs import FrontLimits, OriginSpec
from ovms_mp.front.access.proxies import TrustedProxies
from ovms_mp.front.call_context import CallContext
from ovms_mp.front.gate import Gate
from ovms_mp.front.kserve.rest import InferReading
from ovms_mp.front.observers import CallObserver
from ovms_mp.front.rest.app import create_app
from ovms_mp.front.rest.connections import Connections
from ovms_mp.front.rest.direct import DIRECT
from ovms_mp.front.rest.early import answering_early
from ovms_mp.front.rest.http_protocol import RestProtocol
from ovms_mp.front.rest.lifespan import Lifespan
from ovms_mp.wire.arena import create_arena_file
from ovms_mp.wire.codec import encode
from ovms_mp.wire.records import TensorSpecRecord
from ovms_mp.wire.tasks import InferResult
from tests.support.waiting import eventually
from tests.unit.front.core import MIB, Core
from tests.unit.front.workers import PlayedWorker, table

from .test_direct import SocketTransport
from .test_http_protocol import HOST, post

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ovms_mp.child.specs import RestSpec
    from ovms_mp.codes import Code
    from ovms_mp.errors import OvmsError
    from ovms_mp.front.session import FrontSession

LIMIT = 1 << 20
X = (TensorSpecRecord("x", "FP32", ((1, 100_000), (3, 3))),)
Y = (TensorSpecRecord("y", "FP32", ((1, 100_000), (3, 3))),)
FEW = 7
PIECES = (1 << 30, 1000, FEW)
EDGE, MIDDLE = 2000, 1 << 16
"""Few octets at a time come where a request begins and ends; the middle of a long one comes in larger pieces."""


class EchoWorker(PlayedWorker):
    """Answers every task with its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.is_asleep = False

    def turn(self) -> None:
        if self.look() and not self.is_asleep:
            answers = [InferResult(task.task_id, task.inputs) for task in self.tasks]
            self.tasks.clear()
            self._router.send(self._front, encode(answers))


class Notes(CallObserver):
    """What is known of each call at its end, for metrics, the log and traces."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def ended(self, context: CallContext, code: Code | None, failure: OvmsError | None) -> None:
        self.calls.append(
            (
                code,
                failure and (type(failure).__name__, failure.message),
                *(context.protocol, context.method, context.model, context.version, context.batch_size),
                *(context.received_bytes, context.sent_bytes, context.http_status, context.message_id),
                *(context.priority, context.load_format, context.peer, context.flow, context.origin.target),
                sorted(context.metadata),
                bool(context.arrived_ns),
            )
        )


class Heard(NamedTuple):
    """What a client hears: each answer's status, header and body, and whether the connection ends."""

    answers: list[tuple[bytes, list[bytes], bytes]]
    is_over: bool


class Way:
    """One way to a front."""

    def __init__(
        self, core: Core, worker: EchoWorker, *, is_direct: bool, is_draining: bool, prefix: str
    ) -> None:
        self._worker = worker
        self.notes = Notes()
        limits = FrontLimits(
            request_timeout_s=300.0,
            retry_window_s=1.0,
            max_message_bytes=LIMIT,
            max_unpacked_bytes=0,
            max_image_megapixels=32,
            max_body_memory_bytes=4 * LIMIT,
        )
        spec = SimpleNamespace(
            limits=limits,
            prefix=prefix,
            origins=OriginSpec(origins=("https://a",)),
            page=None,
            access=SimpleNamespace(needs_admin_key=False),
        )
        self.lifespan = Lifespan(cast("RestSpec", spec))
        service = core.service
        if is_draining:
            service = cast("Any", _Draining(core.service))
        self.lifespan.session = cast(
            "FrontSession",
            SimpleNamespace(
                service=service, gate=Gate(observers=[self.notes]), proxies=TrustedProxies(()), metrics=None
            ),
        )
        app = answering_early(create_app(self.lifespan))
        config = uvicorn.Config(
            cast("Any", app), loop="asyncio", interface="asgi3", lifespan="off", ws="none", log_config=None
        )
        config.load()
        state: dict[str, Any] = {"connections": Connections(self.lifespan.bodies, 60.0, 100)}
        if is_direct:
            state[DIRECT] = self.lifespan.direct()
        self.protocol = RestProtocol(config=config, server_state=ServerState(), app_state=state)
        self.transport = SocketTransport()
        self.protocol.connection_made(self.transport)

    async def hears(self, octets: bytes, most: int) -> Heard:
        """Send a request so many octets at a time."""
        rest = memoryview(octets)
        while rest and not self.transport.ended:
            place = self.protocol.get_buffer(-1)
            size = most
            if most == FEW and EDGE < len(rest) <= len(octets) - EDGE:
                size = min(MIDDLE, len(rest) - EDGE)
            size = min(size, len(place), len(rest))
            place[:size] = rest[:size]
            self.protocol.buffer_updated(size)
            rest = rest[size:]
            await self._settle(1)
        await self._settle(10)
        while self.protocol.server_state.tasks:
            await self._settle(1)
        assert self.lifespan.bodies.used_bytes == 0
        is_over = self.transport.ended == "closed" or self.transport.has_written_eof
        return Heard(list(self._answers()), is_over)

    async def _settle(self, turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
            self._worker.turn()

    def _answers(self) -> Iterator[tuple[bytes, list[bytes], bytes]]:
        rest = self.transport.written
        while rest:
            head, _, rest = rest.partition(b"\r\n\r\n")
            status, *fields = head.split(b"\r\n")
            length = next((int(field[15:]) for field in fields if field.startswith(b"content-length")), 0)
            yield status, sorted(fields), rest[:length]
            rest = rest[length:]


class _Draining:
    """The service, of a server that is stopping."""

    is_draining = True

    def __init__(self, service: Any) -> None:
        self._service = service

    def __getattr__(self, name: str) -> Any:
        return getattr(self._service, name)


def heard(
    octets: bytes, most: int, *, is_draining: bool = False, prefix: str = ""
) -> tuple[Heard, Heard, Notes, Notes]:
    """What each way answers and notes: the direct one first."""
    descriptor = create_arena_file(0, 4 * MIB)

    async def run() -> tuple[Heard, Heard, Notes, Notes]:
        worker, core = EchoWorker(), Core(descriptor, 4 * MIB)
        core.service.replace_table(table([worker], [worker], inputs=X, outputs=Y))
        ways = [
            Way(core, worker, is_direct=is_direct, is_draining=is_draining, prefix=prefix)
            for is_direct in (True, False)
        ]
        async with asyncio.timeout(20):
            direct, app = [await way.hears(octets, most) for way in ways]
        assert core.leases.statistics().leases == 0
        core.dispatcher.close()
        worker.close()
        return direct, app, ways[0].notes, ways[1].notes

    try:
        return asyncio.run(run())
    finally:
        os.close(descriptor)


def kserve(body: bytes, *fields: bytes, path: bytes = b"/v2/models/m/infer") -> bytes:
    return post(b"".join(field + b"\r\n" for field in fields), path=path, body=body)


def tfs(body: bytes, *fields: bytes, path: bytes = b"/v1/models/m:predict") -> bytes:
    return kserve(body, *fields, path=path)


def binary(rows: int, extra: str = "", json_bytes: int | None = None) -> bytes:
    """A request with a binary tensor; its header may lie."""
    octets = struct.pack(f"{3 * rows}f", *range(3 * rows))
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "x",
                    "shape": [rows, 3],
                    "datatype": "FP32",
                    "parameters": {"binary_data_size": len(octets)},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    length = len(head) if json_bytes is None else json_bytes
    return kserve(head + octets, b"Inference-Header-Content-Length: %d" % length, extra.encode() or b"A: b")


def chunked(path: bytes, *pieces: bytes, trailer: bytes = b"") -> bytes:
    head = b"POST " + path + b" HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return head + body + b"0\r\n" + trailer + b"\r\n"


def length_first(body: bytes, *fields: bytes) -> bytes:
    """A request whose head goes on behind the length of its body."""
    head = b"POST /v2/models/m/infer HTTP/1.1\r\nContent-Length: %d\r\n" % len(body)
    return head + HOST + b"".join(field + b"\r\n" for field in fields) + b"\r\n" + body


def infer(data: str, shape: str = "[1,3]", more: str = "") -> bytes:
    return f'{{"inputs":[{{"name":"x","shape":{shape},"datatype":"FP32","data":{data}}}]{more}}}'.encode()


ROW = b'{"instances":[[1,2,3]]}'
INFER = infer("[1,2,3]")
MANY = infer(json.dumps(list(range(30_000))), "[10000,3]")
RAW = struct.pack("3f", 1, 2, 3)
CASES: dict[str, tuple[bytes, int]] = {
    "rows": (tfs(ROW), 200),
    "columns": (tfs(b'{"inputs":[[1,2,3],[4,5,6]]}'), 200),
    "a version": (tfs(ROW, path=b"/v1/models/m/versions/1:predict"), 200),
    "another version": (tfs(ROW, path=b"/v1/models/m/versions/7:predict"), 404),
    "no model": (tfs(ROW, path=b"/v1/models/n:predict"), 404),
    "a coded name": (tfs(ROW, path=b"/v1/models/%6d:predict?a=b#c"), 200),
    "a name that is no text": (tfs(ROW, path=b"/v1/models/%ff%00%0d%0a:predict"), 404),
    "an absolute target": (kserve(INFER, path=b"http://h:1/v2/models/m/infer"), 200),
    "numbers": (kserve(INFER), 200),
    "with all words": (kserve(infer("[1,2,3]", more=',"id":"7","parameters":{"priority":1}')), 200),
    "many numbers": (kserve(MANY), 200),
    "an id that is no text": (kserve(infer("[1,2,3]", more=',"id":"\\ud800"')), 400),
    "an output that is no text": (kserve(infer("[1,2,3]", more=',"outputs":[{"name":"\\ud800"}]')), 400),
    "a key twice": (kserve(infer("[1,2,3]", more=',"id":"a","id":"b"')), 200),
    "words for numbers": (tfs(b'{"instances":[[NaN,Infinity,-Infinity]]}'), 200),
    "an integer without end": (tfs(b'{"instances":[[1,2,' + b"9" * 5000 + b"]]}"), 400),
    "a float without end": (tfs(b'{"instances":[[1,2,1e400]]}'), 400),
    "deep lists": (tfs(b'{"instances":' + b"[" * 10_000 + b"]" * 10_000 + b"}"), 400),
    "deep objects": (kserve(b'{"inputs":' * 20_000), 400),
    "half a document": (kserve(INFER[:-1]), 400),
    "nothing": (kserve(b""), 400),
    "a byte order mark": (kserve(b"\xef\xbb\xbf" + INFER), 200),
    "UTF-16": (kserve(INFER.decode().encode("utf-16")), 400),
    "octets": (kserve(bytes(range(256))), 400),
    "no base64": (tfs(b'{"instances":[[{"b64":"&"},2,3]]}'), 400),
    "a wrong shape": (kserve(infer("[1,2]", "[1,2]")), 400),
    "fewer than the shape says": (kserve(infer("[1,2]")), 400),
    "a huge shape": (kserve(infer("[1,2]", "[4294967296,4294967296]")), 400),
    "binary": (binary(1), 200),
    "binary, long": (binary(30_000), 200),
    "binary, packed": (
        kserve(gzip.compress(RAW), b"Inference-Header-Content-Length: 0", b"Content-Encoding: gzip"),
        200,
    ),
    "binary, all": (kserve(RAW, b"Inference-Header-Content-Length: 0"), 200),
    "binary, all, long": (kserve(RAW * 10_000, b"Inference-Header-Content-Length: 0"), 200),
    "binary, all, odd": (kserve(b"abcde" * 10_000, b"Inference-Header-Content-Length: 0"), 400),
    "a header that lies": (binary(1, json_bytes=10), 400),
    "a header that lies, long": (binary(30_000, json_bytes=100), 400),
    "a header beyond the body": (binary(30_000, json_bytes=1 << 40), 400),
    "a header that is no number": (kserve(RAW * 10_000, b"Inference-Header-Content-Length: -1"), 400),
    "a header twice": (
        kserve(RAW * 10_000, b"Inference-Header-Content-Length: 0", b"Inference-Header-Content-Length: 0"),
        400,
    ),
    "gzip": (kserve(gzip.compress(MANY), b"Content-Encoding: gzip"), 200),
    "deflate": (kserve(zlib.compress(INFER), b"Content-Encoding: deflate"), 200),
    "no gzip": (kserve(INFER, b"Content-Encoding: gzip"), 400),
    "half a gzip": (kserve(gzip.compress(MANY)[:-20], b"Content-Encoding: gzip"), 400),
    "a bomb": (kserve(gzip.compress(b" " * (8 * LIMIT)), b"Content-Encoding: gzip"), 413),
    "another coding": (kserve(INFER, b"Content-Encoding: br"), 415),
    "two codings": (kserve(INFER, b"Content-Encoding: gzip", b"Content-Encoding: gzip"), 415),
    "answered packed": (kserve(MANY, b"Accept-Encoding: gzip"), 200),
    "answered packed, binary": (binary(30_000, "Accept-Encoding: deflate"), 200),
    "chunked": (chunked(b"/v2/models/m/infer", INFER[:5], INFER[5:]), 200),
    "chunked, long": (chunked(b"/v2/models/m/infer", MANY[:50_000], MANY[50_000:]), 200),
    "fields behind a body": (
        chunked(
            b"/v2/models/m/infer",
            INFER,
            trailer=b"Content-Encoding: br\r\nX-Request-ID: 1\r\nHost: b\r\nInference-Header-Content-Length: 1\r\n",
        ),
        200,
    ),
    "too long": (kserve(b" " * (LIMIT + 1)), 413),
    "too long, chunked": (chunked(b"/v2/models/m/infer", b" " * LIMIT, b" " * LIMIT), 413),
    "to be closed": (kserve(INFER, b"Connection: close"), 200),
    "HTTP/1.0": (kserve(INFER).replace(b"HTTP/1.1", b"HTTP/1.0"), 200),
    "HTTP/1.0 that expects": (
        kserve(INFER, b"Expect: 100-continue").replace(b"HTTP/1.1", b"HTTP/1.0"),
        200,
    ),
    "an id and a page": (kserve(INFER, b"X-Request-ID: \xe9a", b"Origin: https://a"), 200),
    "an id and a page, refused": (kserve(b"{", b"X-Request-ID: 1", b"Origin: https://a"), 400),
    "another page": (kserve(INFER, b"Origin: https://b"), 200),
    "an offer of h2c": (
        kserve(INFER, b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMA"),
        200,
    ),
    "a long head": (length_first(MANY, b"A: " + b"a" * 5000, b"B: " + b"b" * 40_000), 200),
    "a short head": (length_first(MANY, b"A: b"), 200),
    "time enough": (kserve(INFER, b"X-Request-Timeout-Seconds: 100"), 200),
    "no time": (kserve(INFER, b"X-Request-Timeout-Seconds: soon"), 400),
    "no time at all": (kserve(INFER, b"X-Request-Timeout-Seconds: 0"), 400),
    "a wish": (kserve(infer("[1,2,3]", more=',"parameters":{"timeout":"x"}')), 400),
    "a sequence": (kserve(infer("[1,2,3]", more=',"parameters":{"sequence_id":1}')), 501),
}


@pytest.mark.parametrize("most", PIECES)
@pytest.mark.parametrize("name", CASES)
def test_answers_and_notes_are_the_same(name: str, most: int) -> None:
    octets, status = CASES[name]

    direct, app, noted, noted_by_app = heard(octets + octets, most)

    assert direct == app
    assert noted.calls == noted_by_app.calls
    assert {int(answer[0].split()[1]) for answer in direct.answers} == {status}
    is_last = b"connection: close" in direct.answers[0][1]
    assert len(direct.answers) == (1 if is_last else 2)


REFUSED = {name: octets for name, (octets, status) in CASES.items() if status >= 400}


@pytest.mark.parametrize("name", REFUSED)
def test_what_was_refused_is_forgotten_at_once(name: str) -> None:
    """Else a long body would stay until the garbage collector looks for circles."""
    gc.collect()
    gc.disable()
    try:
        others = kept_of_requests()
        heard(REFUSED[name], 1 << 30)

        def is_gone() -> bool:
            return all(any(each is other for other in others) for each in kept_of_requests())

        # A thread that unpacked a body lets go of it a moment after it has told so.
        eventually(is_gone, 5.0, "nothing is left of the request")
    finally:
        gc.enable()


def kept_of_requests() -> list[object]:
    """Other tests may have left some."""
    return [each for each in gc.get_objects() if isinstance(each, (CallContext, InferReading))]


@pytest.mark.parametrize("octets", [kserve(INFER), tfs(b"{"), binary(30_000)])
def test_a_server_that_stops_says_so_both_ways(octets: bytes) -> None:
    direct, app, noted, noted_by_app = heard(octets, 1 << 30, is_draining=True)

    assert direct == app
    assert noted.calls == noted_by_app.calls
    assert len(direct.answers) == 1


@pytest.mark.parametrize(
    ("path", "status"),
    [(b"/p/v2/models/m/infer", 200), (b"/v2/models/m/infer", 404), (b"//p/v2/models/m/infer", 404)],
)
def test_what_is_ahead_of_all_paths_is_so_for_both_ways(path: bytes, status: int) -> None:
    direct, app, noted, noted_by_app = heard(kserve(INFER, path=path), 1 << 30, prefix="/p")

    assert direct == app
    assert noted.calls == noted_by_app.calls
    assert direct.answers[0][0].split()[1] == b"%d" % status
