# SPDX-License-Identifier: Apache-2.0
"""The client of asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, Mapping
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np

from ovms_mp.client.aio_sockets import AioPool
from ovms_mp.client.checks import wrong
from ovms_mp.client.errors import ClientError
from ovms_mp.client.exchange import Exchange
from ovms_mp.client.failures import too_late
from ovms_mp.client.options import Options, checked_timeout
from ovms_mp.client.session import Session, only
from ovms_mp.client.streams import Stream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
    from typing import Self, Unpack

    import numpy.typing as npt

    from ovms_mp.client.aio_sockets import AioConnection
    from ovms_mp.client.calls import ModelMetadata, ModelState, Outputs, Parameter
    from ovms_mp.client.datatypes import AnyArray
    from ovms_mp.client.exchange import Operation
    from ovms_mp.client.options import ClientOptions, PredictOptions
    from ovms_mp.client.streams import StreamRequest

T = TypeVar("T")


class AsyncClient:
    """A server, to be asked from the tasks of one event loop. A task that is cancelled gives its call up.

    >>> import asyncio, numpy as np
    >>> from ovms_mp.client import AsyncClient
    >>> async def main():
    ...     async with AsyncClient("grpc://127.0.0.1:9000") as client:
    ...         images = np.zeros((8, 1, 8, 8), np.float32)
    ...         return await asyncio.gather(*[client.predict("digits", {"image": image}) for image in images])
    >>> len(asyncio.run(main()))
    8
    """

    def __init__(self, url: str, **options: Unpack[ClientOptions]) -> None:
        """Read the URL; nothing is connected before the first call.

        Args:
            url: As of :class:`~ovms_mp.client.sync.Client`.
            options: See :class:`~ovms_mp.client.session.Options`.

        Raises:
            InvalidRequest: The URL or an option is wrong.
        """
        self._session = Session(url, Options(**options))
        self._pool = AioPool(self._session)

    async def predict(
        self,
        model: str,
        inputs: Mapping[str, npt.ArrayLike] | npt.ArrayLike,
        *,
        version: int = 0,
        outputs: Sequence[str] = (),
        timeout: float | None = None,  # noqa: ASYNC109  # the server is told of it, too
        request_id: str = "",
        parameters: Mapping[str, Parameter] | None = None,
        into: Mapping[str, AnyArray] | None = None,
        classes: Mapping[str, int] | None = None,
    ) -> Outputs:
        """Have a model compute, and return its outputs by name; see :meth:`ovms_mp.client.sync.Client.predict`."""
        session, shared = self._session, self._session.shared
        options: PredictOptions = {
            "version": version, "outputs": outputs, "request_id": request_id, "parameters": parameters, "into": into,
            "classes": classes,
        }  # fmt: skip
        timeout_s = self._timeout(timeout)
        deadline = asyncio.get_running_loop().time() + timeout_s
        is_named = isinstance(inputs, Mapping)
        generation = shared.generation if shared else 0
        try:
            if not is_named:
                name = session.known_input(model, version)
                if name is None:
                    about = session.about(session.dialect.metadata, model, version)
                    name = session.learn_input(model, version, await self._run(about, deadline, timeout_s))
                inputs = {name: inputs}  # type: ignore[dict-item]  # no mapping
            given = cast("Mapping[str, npt.ArrayLike]", inputs)
            try:
                return await self._run(
                    session.operation(model, given, options, timeout_s), deadline, timeout_s
                )
            except ClientError as error:
                if not is_named:
                    session.forget_input(model, version)
                if shared is None or not shared.has_lost(error):
                    raise
            left_s = deadline - asyncio.get_running_loop().time()
            await asyncio.to_thread(shared.register_again, generation, time.monotonic() + left_s)
            return await self._run(session.operation(model, given, options, timeout_s), deadline, timeout_s)
        except ClientError as error:
            error.request_id = request_id
            raise

    async def predict_one(
        self,
        model: str,
        inputs: Mapping[str, npt.ArrayLike] | npt.ArrayLike,
        **options: Unpack[PredictOptions],
    ) -> AnyArray:
        """The same, of a model with one output: the array itself."""
        return only(await self.predict(model, inputs, **options))

    async def metadata(self, model: str, *, version: int = 0, timeout: float | None = None) -> ModelMetadata:  # noqa: ASYNC109
        """The inputs and outputs of a model; see :meth:`ovms_mp.client.sync.Client.metadata`."""
        session = self._session
        return await self._ask(session.about(session.dialect.metadata, model, version), timeout)

    async def models(self, *, timeout: float | None = None) -> list[ModelState]:  # noqa: ASYNC109
        """All versions of all models; see :meth:`ovms_mp.client.sync.Client.models`."""
        return await self._ask(self._session.dialect.models(), timeout)

    async def ready(self, model: str = "", *, version: int = 0, timeout: float | None = None) -> bool:  # noqa: ASYNC109
        """Whether a model answers, or, without a name, whether the server takes requests."""
        session = self._session
        if not model:
            return await self._ask(session.dialect.ready(), timeout)
        return await self._ask(session.about(session.dialect.model_ready, model, version), timeout)

    async def live(self, *, timeout: float | None = None) -> bool:  # noqa: ASYNC109
        """Whether the server runs."""
        return await self._ask(self._session.dialect.live(), timeout)

    def stream(
        self,
        model: str,
        requests: AsyncIterable[StreamRequest] | Iterable[StreamRequest],
        *,
        version: int = 0,
        outputs: Sequence[str] = (),
        timeout: float | None = None,
        ahead: int = 8,
        return_errors: bool = False,
    ) -> AsyncGenerator[Outputs | ClientError]:
        """Answers of many requests that travel in one call, in their order; see ``Client.stream``.

        ``aclosing()`` of contextlib gives up what is left of it at once.
        """
        timeout_s = self._timeout(timeout)
        stream = Stream(self._session, model, version, outputs, ahead, return_errors=return_errors)
        return self._streamed(stream, _asynchronous(requests), timeout_s)

    async def _streamed(
        self, stream: Stream, requests: AsyncIterator[StreamRequest], timeout_s: float
    ) -> AsyncGenerator[Outputs | ClientError]:
        loop = asyncio.get_running_loop()
        connection = await self._pool.take(loop.time() + timeout_s)
        moved, room = asyncio.Event(), asyncio.Semaphore(stream.ahead)
        stream.begin(connection.protocol, moved.set)

        def note_end(done: asyncio.Task[None]) -> None:
            if not done.cancelled():
                done.exception()  # Raised below, unless something else is.
            moved.set()

        send_all = self._send_all(stream, requests, connection, room, moved, timeout_s)
        sender = asyncio.create_task(send_all)
        sender.add_done_callback(note_end)
        try:
            while True:
                while not stream.has_answer:
                    if sender.done():
                        sender.result()  # Raises what it has raised.
                    moved.clear()
                    # Time that the caller takes for the next request is none of the server's.
                    limit = timeout_s if stream.unanswered or sender.done() else None
                    try:
                        async with asyncio.timeout(limit):
                            await moved.wait()
                    except TimeoutError:
                        raise too_late(self._session.target) from None
                if stream.has_ended:
                    return
                room.release()
                yield stream.take()
        finally:
            sender.cancel()
            stream.cancel()
            connection.flush_soon()
            self._pool.give_back(connection)

    async def _send_all(
        self,
        stream: Stream,
        requests: AsyncIterator[StreamRequest],
        connection: AioConnection,
        room: asyncio.Semaphore,
        moved: asyncio.Event,
        timeout_s: float,
    ) -> None:
        async for request in requests:
            await room.acquire()
            if not isinstance(request, Mapping) and stream.needs_name:
                stream.learn(await self._ask(stream.about(), timeout_s))
            stream.send(request)
            connection.flush_soon()
            moved.set()
        stream.finish()
        connection.flush_soon()

    async def shared_array(self, shape: int | Sequence[int], dtype: npt.DTypeLike = np.float32) -> AnyArray:
        """An array in memory that the server reads and writes; see ``Client.shared_array``."""
        if self._session.shared is None:
            raise wrong("shared arrays need the option shared_memory=PATH of --client_shm_socket")
        return await asyncio.to_thread(self._session.shared.array, shape, dtype)

    async def release(self, array: AnyArray) -> None:
        """Have the server forget an array of :meth:`shared_array`."""
        if self._session.shared is not None:
            await asyncio.to_thread(self._session.shared.release, array)

    async def close(self) -> None:
        """Close all connections. Calls that are under way fail. May be called twice."""
        await self._pool.close()
        if self._session.shared is not None:
            await asyncio.to_thread(self._session.shared.close)

    async def __aenter__(self) -> Self:
        """The client."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.close()

    def _timeout(self, timeout: float | None) -> float:
        return self._session.options.timeout if timeout is None else checked_timeout(timeout)

    async def _ask(self, operation: Operation[T], timeout: float | None) -> T:  # noqa: ASYNC109
        timeout_s = self._timeout(timeout)
        return await self._run(operation, asyncio.get_running_loop().time() + timeout_s, timeout_s)

    async def _run(self, operation: Operation[T], deadline: float, timeout_s: float) -> T:
        """Have a call answered, with as many tries as are due."""
        session = self._session
        now = asyncio.get_running_loop().time
        tries, left_s = 1, deadline - now()
        while True:
            try:
                connection = self._pool.now()
                if connection is None:
                    connection = await self._pool.take(deadline)
                    left_s = deadline - now()
                try:
                    request = session.with_deadline(operation.request, timeout_s, left_s)
                    exchange = Exchange(request, deadline, most_bytes=session.options.max_answer_bytes)
                    await connection.run(exchange)
                finally:
                    self._pool.give_back(connection)
                return operation.read(exchange.reply())
            except ClientError as error:
                left_s = deadline - now()
                pause_s = session.options.retries.pause_s(error, tries, left_s)
                if pause_s is None:
                    raise
            await asyncio.sleep(pause_s)
            tries += 1
            left_s = deadline - now()


async def _asynchronous(
    requests: AsyncIterable[StreamRequest] | Iterable[StreamRequest],
) -> AsyncIterator[StreamRequest]:
    if isinstance(requests, AsyncIterable):
        async for request in requests:
            yield request
    else:
        for request in requests:
            yield request
