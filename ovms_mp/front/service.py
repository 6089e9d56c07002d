# SPDX-License-Identifier: Apache-2.0
"""The transport-neutral service: predict, status and metadata. Adapters decode before it and encode after it.

A predict request's way through here: find the version, hold the inputs against its specs, lease arena memory,
write the inputs (the one copy in; none for those that a transport has received there), send the task, let the
adapter encode straight from the arena (the one copy out; none where a transport sends from there), let go.
"""

from __future__ import annotations

import asyncio
import functools
import sys
import time
from typing import TYPE_CHECKING, TypeVar

from ovms_mp.errors import (
    Draining,
    ModelNotReady,
    VersionNotFound,
    WorkerCrashed,
    WorkerLost,
)
from ovms_mp.front.convert import write_tensor
from ovms_mp.front.convictions import Convictions, crashed_text
from ovms_mp.front.dispatch import OutputsDidNotFit, RouteWasStale, WorkerGone
from ovms_mp.front.exactness import refuse_inexact
from ovms_mp.front.output_room import OutputRoom
from ovms_mp.front.reload import reload_failure
from ovms_mp.front.routing import RoutingTable, not_found_text
from ovms_mp.front.sizes import refuse_impossible, refuse_results_of_nothing
from ovms_mp.front.tensors import ResultTensor
from ovms_mp.front.validation import match_filter, match_inputs, refuse_blown_up
from ovms_mp.model.dtypes import element_count
from ovms_mp.wire.allocator import aligned
from ovms_mp.wire.messages import InferTask, RoutingSnapshot
from ovms_mp.wire.records import TensorRef

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.dispatch import Dispatcher, Lease, WorkerEnd
    from ovms_mp.front.predict_request import Decode, PredictRequest
    from ovms_mp.front.routing import VersionRoute
    from ovms_mp.front.tensors import GivenTensor
    from ovms_mp.model.status import VersionStatus
    from ovms_mp.model.tensors import TensorSpec
    from ovms_mp.wire.messages import ConfigReloaded
    from ovms_mp.wire.records import Conviction

AnswerT = TypeVar("AnswerT")

_LONGEST_TIMEOUT_NS = 86_400 * 10**9
"""As long as --request_timeout_s may be: a day."""
_MAX_ROUTES = 5
_MAX_LOST_RUNS = 2
"""Workers that may end while they run one request, if nothing says that it was the request's fault."""


class Service:
    """Answers for one front process. All calls come from its event loop."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        request_timeout_s: float,
        retry_window_s: float,
        ask_reload: Callable[[int], Awaitable[ConfigReloaded]],
        announce: Callable[[Conviction], None] = lambda _: None,
        max_message_bytes: int = sys.maxsize,
        max_unpacked_bytes: int = 0,
    ) -> None:
        """Begin with no model.

        Args:
            dispatcher: Carries tasks to the workers.
            request_timeout_s: Deadline of requests that bring none.
            retry_window_s: Longest wait for a version that is about to come.
            ask_reload: Has the manager reload, until a monotonic deadline in ns or 0.
            announce: Tells the manager of a request that crashes workers.
            max_message_bytes: Longest outputs of a model whose output shapes are dynamic; half of the arena if that is
                less, so that two such requests do not shut others out.
            max_unpacked_bytes: What a tensor in the compact form may be filled up to; 0 for what the model tells.
        """
        self._convictions = Convictions(dispatcher.memory, announce)
        dispatcher.judge = self._judge
        self._dispatcher = dispatcher
        self._ask_reload = ask_reload
        self.max_message_bytes = max_message_bytes
        self._room = OutputRoom(min(max_message_bytes, len(dispatcher.memory) // 2))
        self._max_unpacked_bytes = max_unpacked_bytes
        self._request_timeout_ns = int(request_timeout_s * 1e9)
        self._retry_window_s = retry_window_s
        self._table = RoutingTable(RoutingSnapshot(0, False, (), (), ()))
        self._table_changed = asyncio.Event()

    def replace_table(self, table: RoutingTable) -> None:
        """Take a new snapshot; whoever waits for a version looks again."""
        self._table = table
        self._convictions.learn(table.convictions)
        self._dispatcher.keep_links(table.endpoints, table.deaths)
        self._table_changed.set()
        self._table_changed = asyncio.Event()

    @property
    def table(self) -> RoutingTable:
        """The newest snapshot."""
        return self._table

    async def reload(self, context: CallContext) -> bool:
        """Have configuration and repositories looked at now; whether that changed anything.

        Returns when it is done, and :attr:`table` shows it.

        Raises:
            OvmsError: See :func:`~ovms_mp.front.reload.reload_failure`; whatever failed, what served before serves on.
        """
        answer = await self._ask_reload(context.deadline_ns)
        if answer.error is not None:
            raise reload_failure(answer.error.to_error())
        return answer.is_changed

    def hold(self, lease: Lease) -> Callable[[], None]:
        """Hold the lease of a result beyond its encoder's return; what is given back lets go of it, once."""
        self._dispatcher.hold(lease)
        return functools.partial(self._dispatcher.release, lease)

    @property
    def is_draining(self) -> bool:
        """Whether the server is stopping."""
        return self._table.is_draining

    def statuses(self, name: str, version: int) -> Sequence[VersionStatus]:
        """All versions ever seen of a model, or the one asked for.

        Raises:
            ModelNotFound: No such model.
            VersionNotFound: No such version.
        """
        model = self._table.model(name)
        if not version:
            return [route.status for _, route in sorted(model.versions.items())]
        route = model.versions.get(version)
        if route is None:
            raise VersionNotFound(
                f"{not_found_text(name, version)}; known versions: {sorted(model.versions)}"
            )
        return [route.status]

    def described(self, name: str, version: int) -> VersionRoute:
        """A version whose inputs and outputs are known; does not wait for one that is being loaded.

        Raises:
            ModelNotFound: No such model.
            VersionNotFound: No such version.
            ModelNotReady: Its specs are not known yet.
        """
        route = self._table.find(name, version)
        if not route.outputs:
            raise route.unavailable()
        return route

    async def routable(self, name: str, version: int) -> VersionRoute:
        """A version that can be sent tasks.

        Waits a moment for one that is being loaded or whose worker is being replaced.

        Args:
            name: The model.
            version: Its version; 0 for the default.

        Raises:
            ModelNotFound: No such model.
            VersionNotFound: No such version.
            ModelNotReady: Not available, also after the wait.
        """
        give_up_at = 0.0
        while True:
            route = self._table.find(name, version)
            if route.endpoints:
                return route
            give_up_at = give_up_at or time.monotonic() + self._retry_window_s
            remaining_s = give_up_at - time.monotonic()
            if not route.may_come or remaining_s <= 0:
                raise route.unavailable()
            try:
                async with asyncio.timeout(remaining_s):
                    await self._table_changed.wait()
            except TimeoutError:
                raise route.unavailable() from None

    def refuse_misfits(self, name: str, version: int, given: Mapping[str, GivenTensor]) -> None:
        """Raise what ``predict`` would, if a request with inputs of these shapes cannot succeed; needs no values.

        Raises:
            ModelNotFound: No such model.
            VersionNotFound: No such version.
            InputNameMismatch: One is missing, or one too many.
            ShapeMismatch: One has a shape that the model does not take.
        """
        route = self._table.find(name, version)
        if route.outputs:
            match_inputs(route, given)

    async def predict(
        self,
        name: str,
        version: int,
        decode: Decode,
        context: CallContext,
        encode: Callable[[VersionRoute, Sequence[ResultTensor]], AnswerT],
    ) -> AnswerT:
        """Run one predict request.

        Args:
            name: The model.
            version: Its version; 0 for the default.
            decode: Reads the request for the version that was found; not called if there is none.
            context: The call.
            encode: Makes the answer; the tensors it gets are arena views that end when it returns, unless it holds
                their lease.

        Raises:
            OvmsError: One of the failures in :mod:`ovms_mp.errors`.
        """
        request: PredictRequest | None = None
        specs: Sequence[TensorSpec] = ()
        for _ in range(_MAX_ROUTES):
            route = self._table.find(name, version)
            # What would be refused anyway does not wait for the worker that it has crashed.
            if not route.endpoints and route.handle not in self._convictions.by_handle:
                route = await self.routable(name, version)
            if request is None or route.inputs != specs:
                table, specs = self._table, route.inputs
                request = await decode(route)
                if self._table is not table:
                    continue  # The version may have changed hands while the body was on its way.
            try:
                return await self._predict_on(route, request.inputs, request.output_filter, context, encode)
            except RouteWasStale:
                continue  # The version retired under the request; where another one serves it, that answers.
        raise ModelNotReady(
            f"model {name!r} changes its versions faster than a request can follow; try again"
        )

    async def _predict_on(
        self,
        route: VersionRoute,
        given: Mapping[str, GivenTensor],
        output_filter: Sequence[str],
        context: CallContext,
        encode: Callable[[VersionRoute, Sequence[ResultTensor]], AnswerT],
    ) -> AnswerT:
        tensors = match_inputs(route, given)
        wanted = match_filter(route, output_filter)
        inputs_nbytes = 0
        offsets: list[int] = []
        placed: tuple[Lease, ...] = ()
        arena_nbytes = len(self._dispatcher.memory)
        for tensor, spec in zip(tensors, route.inputs, strict=True):
            offsets.append(inputs_nbytes)
            if tensor.lease is not None and tensor.is_in_place_for(spec.dtype):
                placed += (tensor.lease,)
            else:
                nbytes = element_count(tensor.shape) * spec.dtype.itemsize
                if not 0 < nbytes <= arena_nbytes:
                    refuse_impossible(spec, tensor.shape, arena_nbytes)
                if spec.static_nbytes is None:
                    refuse_blown_up(tensor, spec, nbytes, self._max_unpacked_bytes)
                inputs_nbytes += aligned(nbytes)
        shapes = tuple([tensor.shape for tensor in tensors])
        outputs_nbytes = self._room.nbytes(route, shapes)
        lease = self._dispatcher.lease(inputs_nbytes + outputs_nbytes)
        try:
            refs = self._write_inputs(route.inputs, tensors, offsets, lease)
            task = InferTask(
                self._dispatcher.new_task_id(),
                route.handle,
                refs,
                lease.offset_bytes + inputs_nbytes,
                outputs_nbytes,
                self._deadline(context.deadline_ns),
                context.flow,
            )
            return await self._run(route, task, (lease, *placed), shapes, wanted, encode)
        finally:
            self._dispatcher.release(lease)

    def _deadline(self, deadline_ns: int) -> int:
        """When nobody waits any more. The one place where clients' deadlines are bounded, for all protocols.

        A gRPC client may name 11,000 years, which is no time that a message between processes can carry. PERF: 0.2 us.
        """
        now_ns = time.monotonic_ns()
        if not deadline_ns:
            return now_ns + self._request_timeout_ns
        return min(deadline_ns, now_ns + _LONGEST_TIMEOUT_NS)

    def _write_inputs(
        self,
        specs: Sequence[TensorSpec],
        tensors: Sequence[GivenTensor],
        offsets: Sequence[int],
        lease: Lease,
    ) -> tuple[TensorRef, ...]:
        refs: list[TensorRef] = []
        memory = self._dispatcher.memory
        for spec, tensor, offset in zip(specs, tensors, offsets, strict=True):
            start = lease.offset_bytes + offset
            nbytes = element_count(tensor.shape) * spec.dtype.itemsize
            if tensor.lease is not None and tensor.is_in_place_for(spec.dtype):
                start = tensor.lease.offset_bytes
            elif nbytes:
                write_tensor(tensor, spec, memory[start : start + nbytes])
            if spec.exact is not None:
                refuse_inexact(spec, tensor.shape, memory[start : start + nbytes])
            refs.append(TensorRef(start, nbytes, tensor.shape))
        return tuple(refs)

    async def _run(
        self,
        route: VersionRoute,
        task: InferTask,
        leases: tuple[Lease, ...],
        shapes: tuple[tuple[int, ...], ...],
        wanted: frozenset[str] | None,
        encode: Callable[[VersionRoute, Sequence[ResultTensor]], AnswerT],
    ) -> AnswerT:
        """Send the task, again where that can help, and encode its outputs."""
        output_lease: Lease | None = None
        lost: list[WorkerEnd] = []
        try:
            while True:
                if task.handle in self._convictions.by_handle:
                    self._convictions.check(task, route.title)
                held = leases if output_lease is None else (*leases, output_lease)
                try:
                    refs = await self._dispatcher.infer(route, task, held)
                except WorkerGone as gone:
                    if gone.end is not None:
                        lost.append(gone.end)
                        self._refuse_if_guilty(task, lost, route.title)
                    route = await self._successor(route)
                    task = _again(
                        task,
                        self._dispatcher.new_task_id(),
                        handle=route.handle,
                        is_suspect=task.is_suspect or any(end.has_crashed for end in lost),
                    )
                except OutputsDidNotFit as short:
                    if output_lease is not None:
                        self._dispatcher.release(output_lease)
                    output_lease = None
                    self._room.check(route, short.needed_nbytes)
                    output_lease = self._dispatcher.lease(short.needed_nbytes)
                    # Only what fits is worth remembering.
                    self._room.learn(route, shapes, short.needed_nbytes)
                    task = _again(task, self._dispatcher.new_task_id(), output=output_lease)
                else:
                    if task.inputs and not task.inputs[0].nbytes:
                        refuse_results_of_nothing(shapes, refs)
                    lease = leases[0] if output_lease is None else output_lease
                    return encode(route, self._results(route.outputs, refs, wanted, lease))
        finally:
            if output_lease is not None:
                self._dispatcher.release(output_lease)

    def _judge(self, task: InferTask, end: WorkerEnd) -> None:
        """Remember a task that crashed its worker beyond doubt: by itself, or again after it was under suspicion."""
        if end.has_crashed and (end.was_alone or task.is_suspect):
            self._convictions.convict(task, end.reason)

    def _refuse_if_guilty(self, task: InferTask, lost: Sequence[WorkerEnd], title: str) -> None:
        """Decide about a task with which workers ended that were running it; the last one just now.

        Raises:
            WorkerCrashed: The task is at fault.
            WorkerLost: It has been run often enough.
        """
        end = lost[-1]
        if end.has_crashed and (end.was_alone or task.is_suspect):
            raise WorkerCrashed(crashed_text(title, end.reason)) from None
        if len(lost) < _MAX_LOST_RUNS:
            return
        if all(one.was_alone for one in lost):
            # Killed by somebody else each time, who may be the kernel for want of memory.
            self._convictions.convict(task, end.reason)
            raise WorkerCrashed(crashed_text(title, end.reason)) from None
        raise WorkerLost(
            f"{title}: {len(lost)} inference workers died while they ran this request ({end.reason})"
        ) from None

    async def _successor(self, route: VersionRoute) -> VersionRoute:
        """The same version on another worker, or on the one that follows the dead one when there is no other."""
        if self._dispatcher.is_closed:
            raise Draining("the server is stopping") from None
        try:
            return await self.routable(route.model_name, route.version)
        except VersionNotFound:
            raise WorkerLost(f"the worker died and version {route.version} is not served any more") from None

    def _results(
        self,
        specs: Sequence[TensorSpec],
        refs: Sequence[TensorRef],
        wanted: frozenset[str] | None,
        lease: Lease,
    ) -> list[ResultTensor]:
        memory = self._dispatcher.memory
        return [
            ResultTensor(
                spec.name,
                spec.dtype,
                ref.shape,
                memory[ref.offset_bytes : ref.offset_bytes + ref.nbytes],
                lease,
            )
            for spec, ref in zip(specs, refs, strict=True)
            if wanted is None or spec.name in wanted
        ]


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
    )
