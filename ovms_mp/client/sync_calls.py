# SPDX-License-Identifier: Apache-2.0
"""How the client of threads carries its calls out: connections, tries, deadlines."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ovms_mp.client.errors import ClientError
from ovms_mp.client.exchange import Exchange
from ovms_mp.client.options import checked_timeout
from ovms_mp.client.pool import Pool
from ovms_mp.client.sockets import Cancellation

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from ovms_mp.client.calls import Outputs
    from ovms_mp.client.exchange import Operation, Reply
    from ovms_mp.client.options import PredictOptions
    from ovms_mp.client.session import Session
    from ovms_mp.client.sockets import SocketConnection
    from ovms_mp.client.streams import Stream, StreamRequest

T = TypeVar("T")
_END: Any = object()
_SLOW_S = 0.005
"""A request of a stream that takes longer to get shows that none may wait for the next one. PERF: where as many as may
be without an answer have come quicker, they are sent together; one by one they take twice as long."""


class _Source:
    """The requests of a stream, and how quickly they come.

    Where the next one may be a while in coming, none waits for it, and what is answered goes first.
    """

    def __init__(self, requests: Iterator[StreamRequest], ahead: int) -> None:
        self._requests = requests
        self._to_prove = ahead
        """So many more have to come quickly; less than none if one has not."""

    @property
    def is_quick(self) -> bool:
        """Whether all have come quickly so far, and these were many."""
        return not self._to_prove

    def next(self) -> StreamRequest:
        """The next one; ``_END`` if there is none."""
        asked = time.monotonic()
        request = next(self._requests, _END)
        if time.monotonic() - asked > _SLOW_S:
            self._to_prove = -1
        elif self._to_prove > 0:
            self._to_prove -= 1
        return request


class Calls:
    """For any number of threads.

    Attributes:
        pool: The connections.
    """

    def __init__(self, session: Session) -> None:
        """Prepare; nothing is connected.

        Args:
            session: Of the client.
        """
        self._session = session
        self.pool = Pool(session)

    def timeout(self, timeout: float | None) -> float:
        """The seconds that a call may take; None for the client's.

        Raises:
            InvalidRequest: They are none.
        """
        return self._session.options.timeout if timeout is None else checked_timeout(timeout)

    def predict(
        self,
        model: str,
        inputs: Mapping[str, npt.ArrayLike] | npt.ArrayLike,
        options: PredictOptions,
        timeout_s: float,
        cancellation: Cancellation,
    ) -> Outputs:
        """Have a model compute.

        Args:
            model: Its name.
            inputs: By name, or the only one.
            options: Of ``predict``; its timeout means nothing here.
            timeout_s: From now.
            cancellation: Gives it up.

        Raises:
            ClientError: There is no answer, or it is a failure.
        """
        deadline = time.monotonic() + timeout_s
        try:
            return self._answer(model, inputs, options, deadline, timeout_s, cancellation)
        except ClientError as error:
            error.request_id = options.get("request_id", "")
            raise

    def _answer(
        self,
        model: str,
        inputs: Mapping[str, npt.ArrayLike] | npt.ArrayLike,
        options: PredictOptions,
        deadline: float,
        timeout_s: float,
        cancellation: Cancellation,
    ) -> Outputs:
        session, shared = self._session, self._session.shared
        version = options.get("version", 0)
        is_named = isinstance(inputs, Mapping)
        if not is_named:
            name = session.known_input(model, version)
            if name is None:
                about = session.about(session.dialect.metadata, model, version)
                found = self._run(about, deadline, timeout_s, cancellation)
                name = session.learn_input(model, version, found)
            inputs = {name: inputs}  # type: ignore[dict-item]  # no mapping
        given = cast("Mapping[str, npt.ArrayLike]", inputs)
        generation = shared.generation if shared else 0
        try:
            operation = session.operation(model, given, options, timeout_s)
            return self._run(operation, deadline, timeout_s, cancellation)
        except ClientError as error:
            if not is_named:
                session.forget_input(model, version)
            if shared is None or not shared.has_lost(error):
                raise
        shared.register_again(generation, deadline)
        return self._run(
            session.operation(model, given, options, timeout_s), deadline, timeout_s, cancellation
        )

    def ask(self, operation: Operation[T], timeout: float | None) -> T:
        """Have a call answered that nobody else can cancel.

        Raises:
            ClientError: There is no answer, or it is a failure.
        """
        timeout_s = self.timeout(timeout)
        return self._run(operation, time.monotonic() + timeout_s, timeout_s, Cancellation())

    def stream(
        self, stream: Stream, requests: Iterator[StreamRequest], timeout_s: float
    ) -> Iterator[Outputs | ClientError]:
        """Answers of requests that travel in one call.

        Args:
            stream: The call.
            requests: The inputs of each.
            timeout_s: That each answer may take.

        Raises:
            ClientError: A request has failed, or the stream.
        """
        connection = self.pool.take(time.monotonic() + timeout_s)
        try:
            stream.begin(connection.protocol)
            is_last = False
            source = _Source(requests, stream.ahead)
            while True:
                deadline = time.monotonic() + timeout_s
                while (
                    not is_last
                    and stream.unanswered < stream.ahead
                    and (source.is_quick or not stream.has_answer)
                ):
                    request = source.next()
                    deadline = time.monotonic() + timeout_s
                    is_last = request is _END
                    if is_last:
                        stream.finish()
                    else:
                        if not isinstance(request, Mapping) and stream.needs_name:
                            about = stream.about()  # Beside the stream, as there may be one connection only.
                            stream.learn(about.read(self._carry(about, connection, deadline, timeout_s)))
                        stream.send(request)
                        if not source.is_quick:
                            connection.turn(deadline, waits=False)
                while not stream.has_answer:
                    connection.turn(deadline)
                if stream.has_ended:
                    return
                yield stream.take()
        finally:
            stream.cancel()
            if connection.protocol.is_usable:
                connection.finish()
            self.pool.give_back(connection)

    def _run(
        self, operation: Operation[T], deadline: float, timeout_s: float, cancellation: Cancellation
    ) -> T:
        """Have a call answered, with as many tries as are due."""
        tries = 1
        while True:
            try:
                return self._try(operation, deadline, timeout_s, cancellation)
            except ClientError as error:
                cancellation.refuse_cancelled()
                left_s = deadline - time.monotonic()
                pause_s = self._session.options.retries.pause_s(error, tries, left_s)
                if pause_s is None:
                    raise
            self.pool.pause(cancellation, pause_s)
            tries += 1

    def _try(
        self, operation: Operation[T], deadline: float, timeout_s: float, cancellation: Cancellation
    ) -> T:
        connection = self.pool.take(deadline)
        try:
            cancellation.holds(connection)
            try:
                reply = self._carry(operation, connection, deadline, timeout_s)
            finally:
                cancellation.lets_go()
        finally:
            self.pool.give_back(connection)
        return operation.read(reply)

    def _carry(
        self, operation: Operation[T], connection: SocketConnection, deadline: float, timeout_s: float
    ) -> Reply:
        session = self._session
        request = session.with_deadline(operation.request, timeout_s, deadline - time.monotonic())
        exchange = Exchange(request, deadline, most_bytes=session.options.max_answer_bytes)
        connection.run(exchange)
        return exchange.reply()
