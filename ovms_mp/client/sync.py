# SPDX-License-Identifier: Apache-2.0
"""The client of threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ovms_mp.client.errors import ClientError, InvalidRequest
from ovms_mp.client.exchange import Exchange
from ovms_mp.client.futures import PredictFuture
from ovms_mp.client.session import Options, Session, checked_timeout, only, whole_outputs
from ovms_mp.client.sockets import Cancellation, Pool
from ovms_mp.client.streams import Stream
from ovms_mp.codes import Code

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Future
    from typing import Self, Unpack

    import numpy.typing as npt

    from ovms_mp.client.calls import ModelMetadata, ModelState, Outputs, Parameter
    from ovms_mp.client.datatypes import AnyArray
    from ovms_mp.client.exchange import Operation
    from ovms_mp.client.options import ClientOptions
    from ovms_mp.client.streams import StreamRequest

T = TypeVar("T")
_MOST_THREADS = 64


class Client:
    """A server, to be asked from any number of threads.

    >>> import numpy as np
    >>> from ovms_mp.client import Client
    >>> with Client("grpc://127.0.0.1:9000") as client:
    ...     outputs = client.predict("digits", {"image": np.zeros((1, 8, 8), np.float32)})
    >>> outputs["probabilities"].shape
    (1, 10)
    """

    def __init__(self, url: str, **options: Unpack[ClientOptions]) -> None:
        """Read the URL; nothing is connected before the first call.

        Args:
            url: ``grpc://HOST:PORT``, ``grpcs://``, ``http://``, ``https://``, or ``unix:///PATH`` (gRPC) and
                ``unix:///PATH?protocol=rest``; ``?api=tfs`` for TensorFlow Serving's API instead of KServe's.
            options: See :class:`~ovms_mp.client.session.Options`.

        Raises:
            InvalidRequest: The URL or an option is wrong.
        """
        self._session = Session(url, Options(**options))
        self._pool = Pool(self._session)
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None

    def predict(
        self,
        model: str,
        inputs: Mapping[str, npt.ArrayLike] | npt.ArrayLike,
        *,
        version: int = 0,
        outputs: tuple[str, ...] = (),
        timeout: float | None = None,
        request_id: str = "",
        parameters: Mapping[str, Parameter] | None = None,
        into: Mapping[str, AnyArray] | None = None,
    ) -> Outputs:
        """Have a model compute, and return its outputs by name.

        Args:
            model: Its name.
            inputs: Arrays by name, or one array for a model with one input. Bytes, e.g. of an encoded image, and text
                are a tensor of one string; arrays of strings have objects, ``bytes`` or ``str``.
            version: 0 for the server's choice.
            outputs: Names of those that are wanted; empty for all.
            timeout: Seconds, retries included; None for the client's.
            request_id: For the logs of the server, and in errors.
            parameters: Of the request, as KServe has them, e.g. ``priority``.
            into: Shared arrays (:meth:`shared_array`) that outputs are written to, by name.

        Raises:
            ClientError: There is no answer, or it is a failure.

        >>> client.predict("digits", np.zeros((2, 8, 8), np.float32))["probabilities"].shape
        (2, 10)
        """
        return self._predict(
            model, inputs, version, outputs, timeout, request_id, parameters, into, Cancellation()
        )

    def predict_one(self, model: str, inputs: Any, **options: Any) -> AnyArray:
        """The same, of a model with one output: the array itself.

        Args:
            model: As of :meth:`predict`.
            inputs: As of :meth:`predict`.
            options: As of :meth:`predict`.

        Raises:
            ClientError: As of :meth:`predict`; InvalidRequest, too, where there are several outputs.

        >>> client.predict_one("digits", np.zeros((1, 8, 8), np.float32)).argmax(axis=1).shape
        (1,)
        """
        return only(self.predict(model, inputs, **options))

    def submit(
        self, model: str, inputs: Mapping[str, npt.ArrayLike] | npt.ArrayLike, **options: Any
    ) -> Future[Outputs]:
        """The same in the background. ``cancel()`` of the future works until the answer is there.

        Args:
            model: As of :meth:`predict`.
            inputs: As of :meth:`predict`; not to be changed before there is an answer.
            options: As of :meth:`predict`.

        >>> future = client.submit("digits", {"image": np.zeros((1, 8, 8), np.float32)})
        >>> future.result()["probabilities"].dtype
        dtype('float32')
        """
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(_MOST_THREADS, "ovms_mp.client")
            threads = self._threads
        future = PredictFuture()
        threads.submit(self._answer, future, model, inputs, options)
        return future

    def _answer(self, future: PredictFuture, model: str, inputs: Any, options: Mapping[str, Any]) -> None:
        given: dict[str, Any] = {
            "version": 0, "outputs": (), "timeout": None, "request_id": "", "parameters": None, "into": None,
            **options,
        }  # fmt: skip
        try:
            future.settle(self._predict(model, inputs, **given, cancellation=future.cancellation), None)
        except Exception as error:  # of whoever asks for the result
            future.settle(None, error)

    def _predict(
        self,
        model: str,
        inputs: Any,
        version: int,
        outputs: tuple[str, ...],
        timeout: float | None,
        request_id: str,
        parameters: Mapping[str, Parameter] | None,
        into: Mapping[str, AnyArray] | None,
        cancellation: Cancellation,
    ) -> Outputs:
        session = self._session
        is_named = isinstance(inputs, Mapping)
        if not is_named:
            name = session.known_input(model, version)
            if name is None:
                name = session.learn_input(
                    model, version, self.metadata(model, version=version, timeout=timeout)
                )
            inputs = {name: inputs}
        call = session.predict(model, inputs, version, outputs, request_id, parameters, into)
        try:
            answer = self._run(session.dialect.predict(call), timeout, request_id, cancellation)
        except ClientError as error:
            if not is_named:
                session.forget_input(model, version)
            if session.shared is None or not session.shared.has_lost(error):
                raise
            session.shared.register_again()
            answer = self._run(session.dialect.predict(call), timeout, request_id, cancellation)
        return whole_outputs(call, answer)

    def metadata(self, model: str, *, version: int = 0, timeout: float | None = None) -> ModelMetadata:
        """The inputs and outputs of a model.

        Args:
            model: Its name.
            version: 0 for the server's choice.
            timeout: Seconds; None for the client's.

        Raises:
            ClientError: There is no answer, or it is a failure.

        >>> client.metadata("digits").inputs
        (TensorMetadata(name='image', datatype='FP32', shape=(-1, 8, 8)),)
        """
        return self._run(self._session.dialect.metadata(model, version), timeout)

    def models(self, *, timeout: float | None = None) -> list[ModelState]:
        """All versions of all models.

        Args:
            timeout: Seconds; None for the client's.

        Raises:
            ClientError: There is no answer, or it is a failure.

        >>> [(model.name, model.version) for model in client.models() if model.is_ready]
        [('digits', '1')]
        """
        return self._run(self._session.dialect.models(), timeout)

    def ready(self, model: str = "", *, version: int = 0, timeout: float | None = None) -> bool:
        """Whether a model answers, or, without a name, whether the server takes requests.

        Args:
            model: Its name.
            version: 0 for the server's choice.
            timeout: Seconds; None for the client's.

        Raises:
            ClientError: There is no answer, or it is a failure.

        >>> client.ready("digits")
        True
        """
        dialect = self._session.dialect
        return self._run(dialect.model_ready(model, version) if model else dialect.ready(), timeout)

    def live(self, *, timeout: float | None = None) -> bool:
        """Whether the server runs.

        Args:
            timeout: Seconds; None for the client's.

        Raises:
            ClientError: There is no answer, or it is a failure.
        """
        return self._run(self._session.dialect.live(), timeout)

    def stream(
        self,
        model: str,
        requests: Iterable[StreamRequest],
        *,
        version: int = 0,
        outputs: tuple[str, ...] = (),
        timeout: float | None = None,
        ahead: int = 8,
        return_errors: bool = False,
    ) -> Iterator[Outputs | ClientError]:
        """Answers of many requests that travel in one call, in the order of the requests. KServe over gRPC only.

        Args:
            model: As of :meth:`predict`.
            requests: The inputs of each. Asked for as answers come.
            version: As of :meth:`predict`.
            outputs: As of :meth:`predict`.
            timeout: Seconds that each answer may take; None for the client's.
            ahead: How many requests may be without an answer.
            return_errors: Whether the failure of a request is returned in place of its outputs; it ends the stream
                otherwise.

        Raises:
            ClientError: A request has failed, or the stream.

        >>> images = np.zeros((3, 1, 8, 8), np.float32)
        >>> [answer["probabilities"].shape for answer in client.stream("digits", images)]
        [(1, 10), (1, 10), (1, 10)]
        """
        timeout_s = self._timeout(timeout)
        stream = Stream(self._session, model, version, outputs, return_errors=return_errors)
        if ahead < 1:
            raise InvalidRequest(Code.INVALID_ARGUMENT, f"ahead is {ahead}, but must be at least 1")
        given = iter(requests)
        return self._streamed(stream, given, timeout_s, ahead)

    def _streamed(
        self, stream: Stream, requests: Iterator[StreamRequest], timeout_s: float, ahead: int
    ) -> Iterator[Outputs | ClientError]:
        connection = self._pool.take(time.monotonic() + timeout_s)
        try:
            stream.begin(connection.protocol)
            is_last = False
            while True:
                while not is_last and stream.unanswered < ahead:
                    request = next(requests, None)
                    is_last = request is None
                    if request is None:
                        stream.finish()
                    else:
                        if not isinstance(request, Mapping) and stream.needs_name:
                            stream.learn(
                                self.metadata(stream.model, version=stream.version, timeout=timeout_s)
                            )
                        stream.send(request)
                deadline = time.monotonic() + timeout_s
                while not stream.has_answer:
                    connection.turn(deadline)
                if stream.has_ended:
                    return
                yield stream.take()
        finally:
            stream.cancel()
            if connection.protocol.is_usable:
                connection.finish()
            self._pool.give_back(connection)

    def shared_array(self, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> AnyArray:
        """An array in memory that the server reads and writes: given to :meth:`predict`, it does not travel.

        Whatever lies in it, also a part, is sent as its place. Needs the option ``shared_memory``, and a server with
        ``--client_shm_socket``. Not to be changed while a request with it is under way.

        Args:
            shape: Of the array.
            dtype: Of its elements.

        Raises:
            ClientError: The server refuses it.
        """
        if self._session.shared is None:
            raise InvalidRequest(
                Code.INVALID_ARGUMENT,
                "shared arrays need the option shared_memory=PATH of --client_shm_socket",
            )
        return self._session.shared.array(shape, dtype)

    def release(self, array: AnyArray) -> None:
        """Have the server forget an array of :meth:`shared_array`.

        Args:
            array: One of them, or a part of one.
        """
        if self._session.shared is not None:
            self._session.shared.release(array)

    def close(self) -> None:
        """Close all connections. Calls that are under way fail. May be called twice."""
        self._pool.close()
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
        if self._session.shared is not None:
            self._session.shared.close()

    def __enter__(self) -> Self:
        """The client."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _timeout(self, timeout: float | None) -> float:
        return self._session.options.timeout if timeout is None else checked_timeout(timeout)

    def _run(
        self,
        operation: Operation[T],
        timeout: float | None,
        request_id: str = "",
        cancellation: Cancellation | None = None,
    ) -> T:
        """Have a call answered, with as many tries as are due."""
        timeout_s = self._timeout(timeout)
        cancellation = cancellation or Cancellation()
        deadline = time.monotonic() + timeout_s
        tries, left_s = 1, timeout_s
        while True:
            try:
                return self._try(operation, deadline, left_s, cancellation)
            except ClientError as error:
                error.request_id = request_id
                left_s = deadline - time.monotonic()
                pause_s = self._session.options.retries.pause_s(error, tries, left_s)
                if pause_s is None or cancellation.is_cancelled:
                    raise
            cancellation.pause(pause_s)
            tries += 1
            left_s = max(0.001, deadline - time.monotonic())

    def _try(self, operation: Operation[T], deadline: float, left_s: float, cancellation: Cancellation) -> T:
        session = self._session
        request = session.with_deadline(operation.request, left_s)
        exchange = Exchange(request, deadline, most_bytes=session.options.max_answer_bytes)
        connection = self._pool.take(deadline)
        try:
            cancellation.holds(connection)
            connection.run(exchange)
        finally:
            self._pool.give_back(connection)
            cancellation.holds(None)
        return operation.read(exchange.reply())
