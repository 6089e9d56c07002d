# SPDX-License-Identifier: Apache-2.0
"""gRPC calls: a request's messages in, one handler's task, replies and a status out. One event loop owns it all.

Statuses and texts are those of C-core's servers, but for what is specified: 415 for a wrong content type, and
UNIMPLEMENTED for an unknown encoding and for a unary request without exactly one message.
"""

import asyncio
import functools
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Self

from ovms_mp import errors
from ovms_mp.defects import report
from ovms_mp.front.call_context import CallContext, Target
from ovms_mp.front.failures import failure_of
from ovms_mp.front.gathered import Gathered
from ovms_mp.front.grpc.encodings import pack, too_large, unpack
from ovms_mp.front.grpc.http2.answer_head import HEADERS, end_of
from ovms_mp.front.grpc.http2.call_head import CallHead
from ovms_mp.front.grpc.http2.connection import Http2Connection
from ovms_mp.front.grpc.http2.faults import ErrorCode
from ovms_mp.front.grpc.http2.field_blocks import encode_block
from ovms_mp.front.grpc.http2.headers import RequestHead
from ovms_mp.front.grpc.http2.limits import SECOND_NS, Hit, lags
from ovms_mp.front.grpc.http2.stream import Hook, Stream
from ovms_mp.front.grpc.statuses import push_back, status_text
from ovms_mp.front.methods import Methods, Reply, Streaming, Unary
from ovms_mp.front.sinks import fill

_PREFIX_SIZE, _SLOWEST_BYTES_PER_S = 5, 1 << 20
_PIECE_BYTES = 64  # What a piece costs besides its octets, or a peer could hold much by frames of little.
_JOINED_BYTES = 16 << 10  # Replies up to here are copied into one piece, and their memory released at once.
_NO_MEMORY = "no memory for the message (--max_body_memory_mb, --arena_size_mb); try again later"
_NOTHING = Gathered(()).release


class Call(Stream):
    """One call, with its origin; a streaming method's handler has it as its argument."""

    def __init__(
        self,
        table: Methods,
        wake: Hook,
        read_peer: Callable[[], str],
        connection: Http2Connection,
        number: int,
        head: RequestHead,
    ) -> None:
        limits, window = connection.limits, connection.output.initial_window
        super().__init__(number, limits.stream_window_bytes, window, head.content_length, connection.now_ns)
        if not isinstance(head.memo, CallHead):
            head.memo = CallHead(head, table, limits.max_header_list_bytes)
        self.head: CallHead = head.memo
        timeout_ns = self.head.timeout_ns
        self.deadline_ns = connection.now_ns + timeout_ns if timeout_ns else 0
        self._connection, self._wake, self._read_peer = connection, wake, read_peer
        self._begun_ns = connection.now_ns
        self._receive_by_ns = connection.now_ns + int(limits.message_timeout_s * SECOND_NS)
        self._prefix = b""
        self._is_compressed = self._is_over = self._has_headers = self._is_parked = False
        self._body: list[bytes] = []  # PERF: 602 kB cost twice as much in a growing bytearray.
        self._messages: deque[tuple[bytes, bool]] = deque()
        self._held_bytes = self._received = self._message_bytes = self._unread_since_ns = 0
        self._task: asyncio.Task[None] | None = None
        self._gate = connection.guard.gate
        self._context: CallContext | None = None
        """From the call's head to its end."""
        self._waiting: list[asyncio.Future[None]] = []

    def opened(self) -> None:
        """Refuse the call, or begin it."""
        if self.head.refused_status:
            self._is_over = True
            block = encode_block([(b":status", self.head.refused_status)])
            self._connection.output.headers(self, block, is_end=True)
            return
        method, connection = self.head.method, self._connection
        context = self._context = CallContext.of(
            method, self.deadline_ns, connection.number, self, "gRPC", connection.now_ns
        )
        if self.head.load_format:
            context.load_format = self.head.load_format
        self._gate.enter(context)
        if self.head.refusal is not None:
            if isinstance(self.head.refusal, errors.RequestTooLarge):
                self._connection.guard.counters[Hit.HEADER_LIST] += 1
                self._connection.count(Hit.HEADER_LIST, "too many long header lists")
            self._fail(self.head.refusal)
        elif self.head.timeout_ns == 0:
            self.finish(errors.Code.DEADLINE_EXCEEDED, "Deadline Exceeded")
        else:
            self._admit(context)

    def _admit(self, context: CallContext) -> None:
        """Let the call in, and begin the handler of a streaming one."""
        try:
            self._gate.admit(context)
        except Exception as error:  # A check is the server's code.
            self._fail(error)
            return
        if self.head.method is None:  # Told to those only who may know what there is.
            self._fail(errors.UnsupportedOperation("Method not found!"))
        elif isinstance(self.head.method, Streaming):
            self._receive_by_ns = 0
            self._task = asyncio.get_running_loop().create_task(self._run(context))

    def data(self, piece: memoryview) -> None:
        """Take octets of messages."""
        try:
            while piece and not self._is_over:
                if self.missing < 0:
                    taken = _PREFIX_SIZE - len(self._prefix)
                    self._prefix, piece = self._prefix + piece[:taken], piece[taken:]
                    if len(self._prefix) < _PREFIX_SIZE:
                        return
                    self._begin(self._prefix[0], int.from_bytes(self._prefix[1:]))
                taken = min(self.missing, len(piece))
                self._take(piece[:taken])
                piece = piece[taken:]
        except Exception as error:  # A sink is the method's code.
            self._fail(error)

    def _begin(self, flags: int, length: int) -> None:
        limits, method = self._connection.limits, self.head.method
        limit_bytes = limits.max_message_bytes
        if isinstance(method, Unary):
            limit_bytes = method.longest_bytes(limit_bytes)
        if length > limit_bytes:
            self._connection.guard.counters[Hit.MESSAGE_SIZE] += 1
            raise too_large(length, limit_bytes)
        if flags and (flags > 1 or self.head.encoding == "identity"):
            raise errors.OvmsError("Compression bit set but no encoding configured")
        if self._received and isinstance(method, Unary):
            raise errors.UnsupportedOperation("more than one message in a unary call")
        timeout_s = limits.message_timeout_s + length / _SLOWEST_BYTES_PER_S
        self._begun_ns = self._connection.now_ns
        self._receive_by_ns = self._connection.now_ns + int(timeout_s * SECOND_NS)
        self._prefix, self.missing, self._is_compressed = b"", length, bool(flags)
        self._message_bytes = length
        if isinstance(method, Unary) and method.make_sink is not None and not flags:
            self.sink = method.make_sink(length)

    def _take(self, piece: memoryview) -> None:
        self.missing -= len(piece)
        if self.sink is not None:
            self._grow(fill(self.sink, piece))
        else:
            self._body.append(bytes(piece))
            self._grow(len(piece) + _PIECE_BYTES)
        if not self.missing:
            self.missing = -1
            self._received += 1
            if self._context is not None:
                self._context.received_bytes += self._message_bytes
                self._context.arrived_ns = self._connection.now_ns
            if self.sink is None:
                self._hold(-_PIECE_BYTES * len(self._body))
                self._messages.append((b"".join(self._body), self._is_compressed))
                self._body.clear()
            if isinstance(self.head.method, Streaming):
                self.is_reading, self._receive_by_ns = False, 0
                self.drained()

    def _hold(self, nbytes: int) -> None:
        self._held_bytes += nbytes
        self._connection.hold(nbytes)

    def _grow(self, nbytes: int) -> None:
        """Hold more of a request, if there is memory for it."""
        self._hold(nbytes)
        guard = self._connection.guard
        if guard.held_bytes > guard.limits.process_limit_bytes:
            guard.counters[Hit.BUDGET] += 1
            text = f"{guard.held_bytes} bytes, more than the {guard.limits.process_limit_bytes} that this front has"
            raise errors.BodyMemoryFull(
                f"requests and answers on their way hold {text} for them (--max_body_memory_mb); try again later"
            )

    def advance(self, nbytes: int) -> None:
        """Tell the sink."""
        try:
            if self.sink is not None:
                self.sink.advance(nbytes)
                self.missing -= nbytes
                self._take(memoryview(b""))
        except Exception as error:  # As above.
            self._fail(error)

    def ended(self) -> None:
        """Begin the handler of a unary call; it has all it needs."""
        self._receive_by_ns = 0
        if self.missing >= 0 or self._prefix:
            self.finish(errors.Code.INTERNAL, "The last message is cut off")
        elif isinstance(self.head.method, Streaming):
            self.drained()
        elif not self._received:
            self.finish(errors.Code.UNIMPLEMENTED, "no message in a unary call")
        elif not self._is_over:
            self._start()

    def _start(self) -> None:
        """Begin the handler, if the client has any window for its answer; else ``drained`` tries again."""
        self._is_parked = self.send_window.size <= 0
        if not self._is_parked and self._context is not None:
            self._task = asyncio.get_running_loop().create_task(self._run(self._context))

    def was_reset(self) -> None:
        """Let go of everything and cancel the handler; nobody waits for it."""
        self._leave(errors.Code.CANCELLED, None)
        self._is_over = True
        sink, task, self.sink, self._task = self.sink, self._task, None, None
        if sink is not None:
            sink.abort()
        if task is not None:
            task.cancel()
        self._hold(-self._held_bytes)

    def drained(self) -> None:
        """Let a handler go on, or begin."""
        if self._is_parked:
            self._start()
        waiting, self._waiting = self._waiting, []
        for changed in waiting:
            if not changed.done():
                changed.set_result(None)

    def tick(self, now_ns: int) -> None:
        """End a call that is late: its message, its handler, or the reader of its reply."""
        connection, guard = self._connection, self._connection.guard
        connection.grant_stream(self)
        if 0 < self._receive_by_ns < now_ns:
            is_slow = connection.may_grant()
            connection.guard.counters[Hit.SLOW_MESSAGE if is_slow else Hit.BUDGET] += 1
            text = "the message took too long" if is_slow else _NO_MEMORY
            self.finish(errors.Code.RESOURCE_EXHAUSTED, text)
        elif self._receive_by_ns and not guard.is_open and lags(self._held_bytes, self._begun_ns, now_ns):
            connection.guard.counters[Hit.BUDGET] += 1
            self.finish(errors.Code.RESOURCE_EXHAUSTED, _NO_MEMORY)
        elif 0 < self.deadline_ns < now_ns:
            self.finish(errors.Code.DEADLINE_EXCEEDED, "Deadline Exceeded")
        is_stalled = self._is_parked or bool(self.outbox)
        self.stalled_since_ns = (self.stalled_since_ns or now_ns) if is_stalled else 0
        self._unread_since_ns = (self._unread_since_ns or now_ns) if self.outbox else 0
        is_late = is_stalled and now_ns - self.stalled_since_ns > connection.limits.send_timeout_s * SECOND_NS
        if is_late or (guard.is_full and lags(self.outbox_bytes, self._unread_since_ns, now_ns)):
            connection.guard.counters[Hit.STALLED_STREAM] += 1
            connection.reset(self.id, ErrorCode.ENHANCE_YOUR_CALM)

    async def _run(self, context: CallContext) -> None:
        """Run the handler, and end the call with its failure if it has one."""
        method = self.head.method
        failure: Exception | None = None
        try:
            if isinstance(method, Streaming):
                await method.handler(self, context)
            elif method is not None:
                await self._send(await method.handler(await self._request(method), context))
        except asyncio.CancelledError:
            failure = errors.CallCancelled("the server cancelled the call")
        except Exception as error:
            failure = error
        self._task = None  # What ends the call is not to be cancelled by its end.
        try:
            if failure is None:
                self.finish(None, "")
            else:
                self._fail(failure)
        except Exception as error:
            report("grpc.finish", error, f"call {self.id}")
            self._connection.reset(self.id, ErrorCode.INTERNAL_ERROR)
            self._wake()
        # An error refers to this frame by its traceback, and with it to the request: a circle, if it stayed here.
        del failure

    def _leave(self, code: errors.Code | None, failure: errors.OvmsError | None) -> None:
        """Say once that the call has ended."""
        context, self._context = self._context, None
        if context is not None:
            self._gate.leave(context, code, failure)

    @property
    def metadata(self) -> Sequence[tuple[str, str | bytes]]:
        """See :class:`~ovms_mp.front.call_context.CallOrigin`."""
        return self.head.metadata

    @property
    def target(self) -> Target:
        """See :class:`~ovms_mp.front.call_context.CallOrigin`."""
        return Target("POST", self.head.path)

    @property
    def peer(self) -> str:
        """See :class:`~ovms_mp.front.call_context.CallOrigin`."""
        return self._read_peer()

    @property
    def certificate_name(self) -> str:
        """See :class:`~ovms_mp.front.call_context.CallOrigin`."""
        return self._connection.certificate_name

    async def _request(self, method: Unary) -> Any:  # Any: each method has its own type of request.
        if self.sink is None:
            return await self._plain(*self._messages.popleft(), method)
        request, self.sink = self.sink.finish(), None
        return request

    async def _plain(self, message: bytes, is_packed: bool, method: Unary | None = None) -> bytes | bytearray:
        if not is_packed:
            return message
        limit_bytes = self._connection.limits.max_message_bytes
        if method is not None:
            limit_bytes = method.longest_unpacked_bytes(len(message), limit_bytes)
        return await unpack(message, self.head.encoding, limit_bytes, self._grow)

    async def send(self, reply: Reply) -> None:
        """Send a message of a streaming call; returns when the client has room for another one."""
        await self._send(reply)
        await asyncio.sleep(0)  # A client that takes all would else keep the loop from everybody else.
        while self.outbox and not self._is_over:
            await self._wait()

    async def _send(self, reply: Reply) -> None:
        """Send a message. What the client has no window for is copied, so that no slow reader holds the arena."""
        pieces = [reply] if isinstance(reply, bytes) else reply.pieces
        release = _NOTHING if isinstance(reply, bytes) else reply.release
        length, encoding, output = sum(map(len, pieces)), self.head.reply_encoding, self._connection.output
        if self._context is not None:
            self._context.sent_bytes += length
        has_room, is_plain = output.has_room(self, length + _PREFIX_SIZE), encoding == "identity"
        if length <= _JOINED_BYTES or not is_plain or not has_room:
            joined = b"".join(pieces)
            release()
            if not is_plain:
                joined = await pack(joined, encoding)
            pieces, length, release = [joined], len(joined), _NOTHING
        if self._is_over:
            release()
            return
        if not has_room and not self._connection.guard.is_open:
            self._connection.guard.counters[Hit.BUDGET] += 1
            raise errors.NoFreeSlot("answers that their clients do not read hold too much memory; read them")
        if not self._has_headers:
            self._has_headers = True
            output.headers(self, HEADERS[encoding], is_end=False)
        if self._context is not None and self._context.encoded_ns:
            note_sent = self._context.counters.stages.sent_since
            self.releases.append(functools.partial(note_sent, self._context.encoded_ns))
        prefix = (not is_plain).to_bytes(1) + length.to_bytes(4)
        output.data(self, [prefix, *pieces], release)
        self._wake()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while not self._messages:
            if not self.is_remote_open or self._is_over:
                raise StopAsyncIteration
            await self._wait()
        message, is_compressed = self._messages.popleft()
        self._hold(-len(message))
        self.is_reading = not self._messages
        self._connection.grant_stream(self)
        self._wake()
        return bytes(await self._plain(message, is_compressed))

    async def _wait(self) -> None:
        # A handler may read in one task and send in another.
        changed = asyncio.get_running_loop().create_future()
        self._waiting.append(changed)
        await changed

    def _fail(self, error: Exception) -> None:
        failure = failure_of(error, self.head.path, self._context)
        if self._context is not None:
            push_back(self._context, failure)
        self.finish(failure.code, status_text(failure), failure)

    def finish(self, code: errors.Code | None, text: str, failure: errors.OvmsError | None = None) -> None:
        """End the call with a status; None is OK. A second end does nothing."""
        if self._is_over:
            return
        context = self._context
        self._leave(code, failure)
        more = context.reply_metadata if context is not None else ()
        block = end_of(code, text, more, has_headers=self._has_headers)
        self.was_reset()
        self._connection.output.headers(self, block, is_end=True)
        self._wake()
