# SPDX-License-Identifier: Apache-2.0
"""The client of asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from ovms_mp.client.aio_sockets import AioPool
from ovms_mp.client.errors import ClientError, InvalidRequest
from ovms_mp.client.exchange import Exchange
from ovms_mp.client.session import Options, Session, checked_timeout, only, too_late, whole_outputs
from ovms_mp.client.streams import Stream
from ovms_mp.codes import Code

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable
    from typing import Self, Unpack

    import numpy.typing as npt

    from ovms_mp.client.calls import ModelMetadata, ModelState, Outputs, Parameter
    from ovms_mp.client.datatypes import AnyArray
    from ovms_mp.client.exchange import Operation
    from ovms_mp.client.options import ClientOptions
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
        outputs: tuple[str, ...] = (),
        timeout: float | None = None,  # noqa: ASYNC109  # the server is told of it, too
        request_id: str = "",
        parameters: Mapping[str, Parameter] | None = None,
        into: Mapping[str, AnyArray] | None = None,
    ) -> Outputs:
        """Have a model compute, and return its outputs by name; see :meth:`ovms_mp.client.sync.Client.predict`."""
        session = self._session
        is_named = isinstance(inputs, Mapping)
        if not is_named:
            name = session.known_input(model, version)
            if name is None:
                found = await self.metadata(model, version=version, timeout=timeout)
                name = session.learn_input(model, version, found)
            inputs = {name: inputs}  # type: ignore[dict-item]  # no mapping
        given = cast("Mapping[str, npt.ArrayLike]", inputs)
        call = session.predict(model, given, version, outputs, request_id, parameters, into)
        try:
            answer = await self._run(session.dialect.predict(call), timeout, request_id)
        except ClientError as error:
            if not is_named:
                session.forget_input(model, version)
            if session.shared is None or not session.shared.has_lost(error):
                raise
            await asyncio.to_thread(session.shared.register_again)
            answer = await self._run(session.dialect.predict(call), timeout, request_id)
        return whole_outputs(call, answer)

    async def predict_one(self, model: str, inputs: Any, **options: Any) -> AnyArray:
        """The same, of a model with one output: the array itself."""
        return only(await self.predict(model, inputs, **options))

    async def metadata(self, model: str, *, version: int = 0, timeout: float | None = None) -> ModelMetadata:  # noqa: ASYNC109
        """The inputs and outputs of a model; see :meth:`ovms_mp.client.sync.Client.metadata`."""
        return await self._run(self._session.dialect.metadata(model, version), timeout)

    async def models(self, *, timeout: float | None = None) -> list[ModelState]:  # noqa: ASYNC109
        """All versions of all models; see :meth:`ovms_mp.client.sync.Client.models`."""
        return await self._run(self._session.dialect.models(), timeout)

    async def ready(self, model: str = "", *, version: int = 0, timeout: float | None = None) -> bool:  # noqa: ASYNC109
        """Whether a model answers, or, without a name, whether the server takes requests."""
        dialect = self._session.dialect
        return await self._run(dialect.model_ready(model, version) if model else dialect.ready(), timeout)

    async def live(self, *, timeout: float | None = None) -> bool:  # noqa: ASYNC109
        """Whether the server runs."""
        return await self._run(self._session.dialect.live(), timeout)

    def stream(
        self,
        model: str,
        requests: AsyncIterable[StreamRequest] | Iterable[StreamRequest],
        *,
        version: int = 0,
        outputs: tuple[str, ...] = (),
        timeout: float | None = None,
        ahead: int = 8,
        return_errors: bool = False,
    ) -> AsyncGenerator[Outputs | ClientError]:
        """Answers of many requests that travel in one call, in their order; see ``Client.stream``.

        ``aclosing()`` of contextlib gives up what is left of it at once.
        """
        timeout_s = self._timeout(timeout)
        if ahead < 1:
            raise InvalidRequest(Code.INVALID_ARGUMENT, f"ahead is {ahead}, but must be at least 1")
        stream = Stream(self._session, model, version, outputs, return_errors=return_errors)
        return self._streamed(stream, _asynchronous(requests), timeout_s, ahead)

    async def _streamed(
        self, stream: Stream, requests: AsyncIterator[StreamRequest], timeout_s: float, ahead: int
    ) -> AsyncGenerator[Outputs | ClientError]:
        loop = asyncio.get_running_loop()
        connection = await self._pool.take(loop.time() + timeout_s)
        moved, room = asyncio.Event(), asyncio.Semaphore(ahead)
        stream.begin(connection.protocol, moved.set)

        async def send_all() -> None:
            async for request in requests:
                await room.acquire()
                if not isinstance(request, Mapping) and stream.needs_name:
                    stream.learn(await self.metadata(stream.model, version=stream.version, timeout=timeout_s))
                stream.send(request)
                connection.flush_soon()
                moved.set()
            stream.finish()
            connection.flush_soon()

        sender = asyncio.create_task(send_all())
        sender.add_done_callback(lambda _: moved.set())
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

    async def shared_array(self, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> AnyArray:
        """An array in memory that the server reads and writes; see ``Client.shared_array``."""
        if self._session.shared is None:
            raise InvalidRequest(
                Code.INVALID_ARGUMENT,
                "shared arrays need the option shared_memory=PATH of --client_shm_socket",
            )
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

    async def _run(self, operation: Operation[T], timeout: float | None, request_id: str = "") -> T:  # noqa: ASYNC109
        """Have a call answered, with as many tries as are due."""
        session = self._session
        timeout_s = self._timeout(timeout)
        now = asyncio.get_running_loop().time
        deadline = now() + timeout_s
        tries, left_s = 1, timeout_s
        while True:
            try:
                connection = self._pool.now() or await self._pool.take(deadline)
                request = session.with_deadline(operation.request, left_s)
                exchange = Exchange(request, deadline, most_bytes=session.options.max_answer_bytes)
                try:
                    await connection.run(exchange)
                finally:
                    self._pool.give_back(connection)
                return operation.read(exchange.reply())
            except ClientError as error:
                error.request_id = request_id
                left_s = deadline - now()
                pause_s = session.options.retries.pause_s(error, tries, left_s)
                if pause_s is None:
                    raise
            await asyncio.sleep(pause_s)
            tries += 1
            left_s = max(0.001, deadline - now())


async def _asynchronous(
    requests: AsyncIterable[StreamRequest] | Iterable[StreamRequest],
) -> AsyncIterator[StreamRequest]:
    if isinstance(requests, AsyncIterable):
        async for request in requests:
            yield request
    else:
        for request in requests:
            yield request
