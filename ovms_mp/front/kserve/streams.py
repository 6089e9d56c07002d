# SPDX-License-Identifier: Apache-2.0
"""ModelStreamInfer: many requests in one call, for any models, answered in their order.

Requests run at once as far as bounds allow, and their answers wait for each other. A failure is an answer like others;
only a client that asks for it by metadata has the call ended by one, as in any other call.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from ovms_mp.errors import Draining
from ovms_mp.front.gathered import Gathered

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from ovms_mp.front.methods import MessageStream, Reply

_MOST_AT_ONCE = 16
_MOST_BYTES_AT_ONCE = 1 << 20
"""Messages of a stream that are being answered: more than this are not read, but for the one that goes beyond it."""
GRPC_ERROR = ("triton_grpc_error", "true")
"""Metadata of a client that wants the call ended by a request's failure."""


class InferStream:
    """One call."""

    def __init__(
        self,
        stream: MessageStream,
        answer: Callable[[bytes], Coroutine[None, None, Reply]],
        drain_begins: Callable[[], Awaitable[None]],
    ) -> None:
        """Begin; made within the call's task.

        Args:
            stream: The call.
            answer: Answers a message; what it raises ends the call.
            drain_begins: Returns when the server is stopping.
        """
        self._stream = stream
        self._answer = answer
        self._drain_begins = drain_begins
        self._running: deque[tuple[asyncio.Task[Reply], int]] = deque()
        self._running_bytes = 0
        self._moved = asyncio.Event()

    async def serve(self) -> None:
        """Answer until the client has sent its last message.

        Raises:
            Draining: The server stops; what it had read by then has been answered.
            OvmsError: What an answer raises.
        """
        reader = asyncio.create_task(self._read())
        reader.add_done_callback(lambda _: self._moved.set())
        drain = asyncio.create_task(self._stop_reading(reader))
        try:
            while await self._is_any(reader):
                task, nbytes = self._running[0]
                reply = await task
                self._running.popleft()
                self._running_bytes -= nbytes
                self._moved.set()
                await self._stream.send(reply)
            if reader.cancelled():
                raise Draining("the server is stopping; send the rest of the stream to another one")
            await reader
        finally:
            reader.cancel()
            drain.cancel()
            self._let_go()

    async def _read(self) -> None:
        async for message in self._stream:
            nbytes = len(message)
            self._running.append((asyncio.create_task(self._answer(message)), nbytes))
            self._running_bytes += nbytes
            del message  # Who answers it lets go of it earlier.
            self._moved.set()
            while len(self._running) >= _MOST_AT_ONCE or self._running_bytes > _MOST_BYTES_AT_ONCE:
                await self._moves()

    async def _is_any(self, reader: asyncio.Task[None]) -> bool:
        """Whether there is an answer to wait for; returns once that is known."""
        while not self._running and not reader.done():
            await self._moves()
        return bool(self._running)

    async def _moves(self) -> None:
        self._moved.clear()
        await self._moved.wait()

    async def _stop_reading(self, reader: asyncio.Task[None]) -> None:
        await self._drain_begins()
        reader.cancel()

    def _let_go(self) -> None:
        """Nobody waits for the answers that are left."""
        for task, _ in self._running:
            task.cancel()
            task.add_done_callback(_release)


def _release(task: asyncio.Task[Reply]) -> None:
    if not task.cancelled() and task.exception() is None:
        reply = task.result()
        if isinstance(reply, Gathered):
            reply.release()
