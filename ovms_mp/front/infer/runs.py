# SPDX-License-Identifier: Apache-2.0
"""One run of a task to its answer, and further ones where that can help: another worker, more room for the outputs."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import CoroutineType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from ovms_mp.errors import Draining, VersionNotFound, WorkerLost
from ovms_mp.front.infer.outcomes import OutputsDidNotFit, WorkerEnd, WorkerGone
from ovms_mp.front.infer.sizes import refuse_results_of_nothing
from ovms_mp.front.tensors import ResultTensor, rows_of
from ovms_mp.wire.tasks import InferTask

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.clock import Clock
    from ovms_mp.front.infer.convictions import Convictions
    from ovms_mp.front.infer.dispatch import Dispatcher
    from ovms_mp.front.infer.leases import Lease, Leases
    from ovms_mp.front.infer.output_room import OutputRoom
    from ovms_mp.front.routing import VersionRoute
    from ovms_mp.wire.records import TensorRef

AnswerT = TypeVar("AnswerT")

Coming: TypeAlias = asyncio.Future[AnswerT] | Coroutine[Any, Any, AnswerT]  # Any: what coroutines yield.
"""An answer that an encoder has a thread make, or must do something else for before it may be sent."""
_COMING = (asyncio.Future, CoroutineType)


class Runner:
    """Runs tasks whose inputs are written."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        leases: Leases,
        convictions: Convictions,
        room: OutputRoom,
        routable: Callable[[str, int], Awaitable[VersionRoute]],
        clock_ns: Clock,
    ) -> None:
        """Prepare.

        Args:
            dispatcher: Carries tasks to workers.
            leases: Where more room for outputs is leased.
            convictions: Requests that crash workers are refused.
            room: Learns how much room outputs need.
            routable: Finds a version that can be sent tasks, when the worker of a task has gone.
            clock_ns: Monotonic time.
        """
        self._dispatcher = dispatcher
        self._leases = leases
        self._convictions = convictions
        self._room = room
        self._routable = routable
        self._clock_ns = clock_ns

    async def run(
        self,
        route: VersionRoute,
        task: InferTask,
        leases: tuple[Lease, ...],
        shapes: tuple[tuple[int, ...], ...],
        wanted: frozenset[str] | None,
        encode: Callable[[VersionRoute, Sequence[ResultTensor]], AnswerT | Coming[AnswerT]],
        context: CallContext,
    ) -> AnswerT:
        """Send the task, again where that can help, encode its outputs, and count the answer.

        Args:
            route: Where to.
            task: What; its inputs are written.
            leases: What it reads and writes, that with the outputs' region first; the caller's.
            shapes: Of its inputs.
            wanted: Names of the outputs to encode; None for all.
            encode: Makes the answer of them, or promises it.
            context: Of the call; learns when what was done.

        Raises:
            RouteWasStale: The version was unloaded before the task ran.
            OvmsError: One of the failures in :mod:`ovms_mp.errors`.
        """
        output_lease: Lease | None = None
        lost: list[WorkerEnd] = []
        try:
            while True:
                if task.handle in self._convictions.by_handle:
                    self._convictions.check(task, route.title)
                held = leases if output_lease is None else (*leases, output_lease)
                try:
                    result = await self._dispatcher.infer(route, task, held)
                except WorkerGone as gone:
                    route, task = await self._move(route, task, gone.end, lost)
                except OutputsDidNotFit as short:
                    if output_lease is not None:
                        self._leases.release(output_lease)
                    output_lease = None
                    self._room.check(route, short.needed_nbytes)
                    output_lease = self._leases.lease(short.needed_nbytes)
                    # Only what fits is worth remembering.
                    self._room.learn(route, shapes, short.needed_nbytes)
                    task = _again(task, self._dispatcher.new_task_id(), output=output_lease)
                else:
                    context.received_ns = self._clock_ns()
                    context.queue_ns, context.infer_ns = result.queue_ns, result.infer_ns
                    context.batch_size = shapes[0][0] if shapes and shapes[0] else 1
                    refs = result.outputs
                    if task.inputs and not task.inputs[0].nbytes:
                        refuse_results_of_nothing(shapes, refs)
                    lease = leases[0] if output_lease is None else output_lease
                    encoded: Any = encode(route, self._results(route, refs, wanted, lease))
                    # Any: what is promised may be promised again.
                    answer: AnswerT = await _made(encoded) if isinstance(encoded, _COMING) else encoded
                    context.encoded_ns = self._clock_ns()
                    route.counters.answered(
                        context.decoded_ns,
                        context.sent_ns,
                        context.received_ns,
                        context.encoded_ns,
                        result.queue_ns,
                        result.infer_ns,
                        context.batch_size,
                    )
                    return answer
        finally:
            if output_lease is not None:
                self._leases.release(output_lease)

    async def _move(
        self, route: VersionRoute, task: InferTask, end: WorkerEnd | None, lost: list[WorkerEnd]
    ) -> tuple[VersionRoute, InferTask]:
        """Where to send a task whose worker has gone, and the task for there.

        Raises:
            OvmsError: It is not sent again.
        """
        if end is not None:
            lost.append(end)
            self._convictions.refuse_if_guilty(task, lost, route.title)
        successor = await self._successor(route)
        return successor, _again(
            task,
            self._dispatcher.new_task_id(),
            handle=successor.handle,
            is_suspect=task.is_suspect or any(end.has_crashed for end in lost),
        )

    async def _successor(self, route: VersionRoute) -> VersionRoute:
        """The same version on another worker, or on the one that follows the dead one when there is no other."""
        if self._dispatcher.is_closed:
            raise Draining("the server is stopping") from None
        try:
            return await self._routable(route.model_name, route.version)
        except VersionNotFound:
            raise WorkerLost(f"the worker died and version {route.version} is not served any more") from None

    def _results(
        self,
        route: VersionRoute,
        refs: Sequence[TensorRef],
        wanted: frozenset[str] | None,
        lease: Lease,
    ) -> list[ResultTensor]:
        memory = self._leases.memory
        results = [
            ResultTensor(
                spec.name,
                spec.dtype,
                ref.shape,
                memory[ref.offset_bytes : ref.offset_bytes + ref.nbytes],
                lease,
            )
            for spec, ref in zip(route.outputs, refs, strict=True)
            if wanted is None or spec.name in wanted
        ]
        matrices = route.text_matrices
        if not matrices:
            return results
        return [rows_of(result) if result.name in matrices else result for result in results]


async def _made(answer: Any) -> Any:  # Any: as above.
    """An answer that an encoder has promised."""
    while isinstance(answer, _COMING):
        # A thread goes on when the client gives up, so it holds the leases of what it reads.
        answer = await (asyncio.shield(answer) if isinstance(answer, asyncio.Future) else answer)
    return answer


def _again(
    task: InferTask,
    task_id: int,
    *,
    handle: int | None = None,
    output: Lease | None = None,
    is_suspect: bool | None = None,
) -> InferTask:
    """The task under a new id, for another worker or with another output region."""
    return InferTask(
        task_id,
        task.handle if handle is None else handle,
        task.inputs,
        task.output_offset_bytes if output is None else output.offset_bytes,
        task.output_nbytes if output is None else output.nbytes,
        task.deadline_ns,
        task.flow,
        task.is_suspect if is_suspect is None else is_suspect,
        task.priority,
    )
