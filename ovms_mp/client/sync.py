# SPDX-License-Identifier: Apache-2.0
"""The client of threads."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from ovms_mp.client import forks
from ovms_mp.client.checks import wrong
from ovms_mp.client.futures import PredictFuture
from ovms_mp.client.options import Options
from ovms_mp.client.session import Session, only
from ovms_mp.client.sockets import Cancellation
from ovms_mp.client.streams import Stream
from ovms_mp.client.sync_calls import Calls

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Future
    from typing import Self, Unpack

    import numpy.typing as npt

    from ovms_mp.client.calls import ModelMetadata, ModelState, Outputs, Parameter
    from ovms_mp.client.datatypes import AnyArray
    from ovms_mp.client.errors import ClientError
    from ovms_mp.client.options import ClientOptions, PredictOptions
    from ovms_mp.client.streams import StreamRequest

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
        self._calls = Calls(self._session)
        self._thread_prefix = f"ovms_mp.client {id(self):x}"
        self.start_anew()
        forks.note(self)

    def start_anew(self) -> None:
        """Have threads of its own, as a process that was forked has none; not for callers."""
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None

    def predict(
        self,
        model: str,
        inputs: Mapping[str, npt.ArrayLike] | npt.ArrayLike,
        *,
        version: int = 0,
        outputs: Sequence[str] = (),
        timeout: float | None = None,
        request_id: str = "",
        parameters: Mapping[str, Parameter] | None = None,
        into: Mapping[str, AnyArray] | None = None,
        classes: Mapping[str, int] | None = None,
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
            classes: How many of the greatest values of each row are wanted in place of an output, by name: each is a
                string ``VALUE:INDEX``, with ``:LABEL`` behind it where the model has labels. KServe's API only.

        Raises:
            ClientError: There is no answer, or it is a failure.

        >>> classes = {"probabilities": 1}
        >>> client.predict("digits", np.ones((2, 8, 8), np.float32), classes=classes)["probabilities"].shape
        (2, 1)
        >>> client.predict("digits", np.zeros((2, 8, 8), np.float32))["probabilities"].shape
        (2, 10)
        """
        options: PredictOptions = {
            "version": version, "outputs": outputs, "request_id": request_id, "parameters": parameters, "into": into,
            "classes": classes,
        }  # fmt: skip
        return self._calls.predict(model, inputs, options, self._calls.timeout(timeout), Cancellation())

    def predict_one(
        self,
        model: str,
        inputs: Mapping[str, npt.ArrayLike] | npt.ArrayLike,
        **options: Unpack[PredictOptions],
    ) -> AnyArray:
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
        self,
        model: str,
        inputs: Mapping[str, npt.ArrayLike] | npt.ArrayLike,
        **options: Unpack[PredictOptions],
    ) -> Future[Outputs]:
        """The same in the background. ``cancel()`` of the future works until the answer is there.

        Args:
            model: As of :meth:`predict`.
            inputs: As of :meth:`predict`; not to be changed before there is an answer.
            options: As of :meth:`predict`. The time begins now, also if all threads are busy.

        Raises:
            Cancelled: The client is closed.

        >>> future = client.submit("digits", {"image": np.zeros((1, 8, 8), np.float32)})
        >>> future.result()["probabilities"].dtype
        dtype('float32')
        """
        timeout_s = self._calls.timeout(options.pop("timeout", None))
        deadline = time.monotonic() + timeout_s
        future = PredictFuture()

        def answer() -> None:
            if future.cancelled():
                future.settle(None, None)
                return
            try:
                left_s = max(0.0, deadline - time.monotonic())
                future.settle(self._calls.predict(model, inputs, options, left_s, future.cancellation), None)
            except Exception as error:  # of whoever asks for the result
                future.settle(None, error)

        with self._lock:
            self._calls.pool.refuse_closed()
            if self._threads is None:
                self._threads = ThreadPoolExecutor(_MOST_THREADS, self._thread_prefix)
            self._threads.submit(answer).add_done_callback(future.drop)
        return future

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
        session = self._session
        return self._calls.ask(session.about(session.dialect.metadata, model, version), timeout)

    def models(self, *, timeout: float | None = None) -> list[ModelState]:
        """All versions of all models.

        Args:
            timeout: Seconds; None for the client's.

        Raises:
            ClientError: There is no answer, or it is a failure.

        >>> [(model.name, model.version) for model in client.models() if model.is_ready]
        [('digits', '1')]
        """
        return self._calls.ask(self._session.dialect.models(), timeout)

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
        session = self._session
        if not model:
            return self._calls.ask(session.dialect.ready(), timeout)
        return self._calls.ask(session.about(session.dialect.model_ready, model, version), timeout)

    def live(self, *, timeout: float | None = None) -> bool:
        """Whether the server runs.

        Args:
            timeout: Seconds; None for the client's.

        Raises:
            ClientError: There is no answer, or it is a failure.
        """
        return self._calls.ask(self._session.dialect.live(), timeout)

    def stream(
        self,
        model: str,
        requests: Iterable[StreamRequest],
        *,
        version: int = 0,
        outputs: Sequence[str] = (),
        timeout: float | None = None,
        ahead: int = 8,
        return_errors: bool = False,
    ) -> Iterator[Outputs | ClientError]:
        """Answers of many requests that travel in one call, in the order of the requests. KServe over gRPC only.

        Args:
            model: As of :meth:`predict`.
            requests: The inputs of each. Asked for as answers come, and sent at once; an answer that comes while one is
                waited for is yielded behind that.
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
        timeout_s = self._calls.timeout(timeout)
        stream = Stream(self._session, model, version, outputs, ahead, return_errors=return_errors)
        return self._calls.stream(stream, iter(requests), timeout_s)

    def shared_array(self, shape: int | Sequence[int], dtype: npt.DTypeLike = np.float32) -> AnyArray:
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
            raise wrong("shared arrays need the option shared_memory=PATH of --client_shm_socket")
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
        self._calls.pool.close()
        with self._lock:
            threads = self._threads
        if threads is not None:
            # Callbacks of futures are called in one of them, which cannot wait for itself.
            is_own = threading.current_thread().name.startswith(self._thread_prefix)
            threads.shutdown(wait=not is_own, cancel_futures=True)
        if self._session.shared is not None:
            self._session.shared.close()

    def __enter__(self) -> Self:
        """The client."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()
