# SPDX-License-Identifier: Apache-2.0
"""The transport-neutral service: predict, status and metadata. Adapters decode before it and encode after it.

A predict request's way through here: find the version, hold the inputs against its specs, lease arena memory,
write the inputs (the one copy in; none for those that a transport has received there), send the task, let the
adapter encode straight from the arena (the one copy out; none where a transport sends from there), let go.
"""

from __future__ import annotations

import asyncio
import functools
import time
from typing import TYPE_CHECKING, TypeVar

from ovms_mp.errors import (
    InputNameMismatch,
    ModelNotReady,
    OutputNameMismatch,
    ShapeMismatch,
    VersionNotFound,
    WorkerLost,
)
from ovms_mp.front.convert import write_tensor
from ovms_mp.front.dispatch import OutputsDidNotFit, RouteWasStale, WorkerGone
from ovms_mp.front.exactness import refuse_inexact
from ovms_mp.front.flow import current_flow
from ovms_mp.front.reload import reload_failure
from ovms_mp.front.routing import RoutingTable, not_found_text
from ovms_mp.front.sizes import refuse_impossible, refuse_results_of_nothing
from ovms_mp.front.tensors import ResultTensor
from ovms_mp.model.dtypes import element_count
from ovms_mp.wire.allocator import aligned
from ovms_mp.wire.messages import InferTask, RoutingSnapshot, TensorRef

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from ovms_mp.front.dispatch import Dispatcher, Lease
    from ovms_mp.front.routing import VersionRoute
    from ovms_mp.front.tensors import GivenTensor
    from ovms_mp.model.status import VersionStatus
    from ovms_mp.model.tensors import TensorSpec
    from ovms_mp.wire.messages import ConfigReloaded

AnswerT = TypeVar("AnswerT")

_MAX_HINTS = 1024
_MAX_ROUTES = 5
_MAX_TRIES = 2
"""A request is sent once, and once more when its worker died: what kills two workers is likely the request."""


class Service:
    """Answers for one front process. All calls come from its event loop."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        request_timeout_s: float,
        retry_window_s: float,
        ask_reload: Callable[[int], Awaitable[ConfigReloaded]],
    ) -> None:
        """Begin with no model.

        Args:
            dispatcher: Carries tasks to the workers.
            request_timeout_s: Deadline of requests that bring none.
            retry_window_s: Longest wait for a version that is about to come.
            ask_reload: Has the manager reload, until a monotonic deadline in ns or 0.
        """
        self._dispatcher = dispatcher
        self._ask_reload = ask_reload
        self._request_timeout_ns = int(request_timeout_s * 1e9)
        self._retry_window_s = retry_window_s
        self._table = RoutingTable(RoutingSnapshot(0, False, (), (), ()))
        self._table_changed = asyncio.Event()
        self._output_hints: dict[tuple[int, tuple[tuple[int, ...], ...]], int] = {}

    def replace_table(self, table: RoutingTable) -> None:
        """Take a new snapshot; whoever waits for a version looks again."""
        self._table = table
        self._dispatcher.keep_links(table.endpoints)
        self._table_changed.set()
        self._table_changed = asyncio.Event()

    @property
    def table(self) -> RoutingTable:
        """The newest snapshot."""
        return self._table

    async def reload(self, deadline_ns: int) -> bool:
        """Have configuration and repositories looked at now; whether that changed anything.

        Returns when it is done, and :attr:`table` shows it.

        Raises:
            OvmsError: See :func:`~ovms_mp.front.reload.reload_failure`; whatever failed, what served before serves on.
        """
        answer = await self._ask_reload(deadline_ns)
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

    async def predict(
        self,
        name: str,
        version: int,
        given: Mapping[str, GivenTensor],
        output_filter: Sequence[str],
        deadline_ns: int,
        encode: Callable[[VersionRoute, Sequence[ResultTensor]], AnswerT],
    ) -> AnswerT:
        """Run one predict request.

        Args:
            name: The model.
            version: Its version; 0 for the default.
            given: Inputs by name; borrowed until the inputs are written.
            output_filter: Names of the outputs to answer with; empty for all.
            deadline_ns: Monotonic moment after which nobody waits; 0 for the server's own limit.
            encode: Makes the answer; the tensors it gets are arena views that end when it returns, unless it holds
                their lease.

        Raises:
            OvmsError: One of the failures in :mod:`ovms_mp.errors`.
        """
        for _ in range(_MAX_ROUTES):
            route = await self.routable(name, version)
            try:
                return await self._predict_on(route, given, output_filter, deadline_ns, encode)
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
        deadline_ns: int,
        encode: Callable[[VersionRoute, Sequence[ResultTensor]], AnswerT],
    ) -> AnswerT:
        tensors = _match_inputs(route, given)
        wanted = _match_filter(route, output_filter)
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
                inputs_nbytes += aligned(nbytes)
        shapes = tuple([tensor.shape for tensor in tensors])
        outputs_nbytes = self._output_nbytes(route, shapes)
        lease = self._dispatcher.lease(inputs_nbytes + outputs_nbytes)
        try:
            refs = self._write_inputs(route.inputs, tensors, offsets, lease)
            task = InferTask(
                self._dispatcher.new_task_id(),
                route.handle,
                refs,
                lease.offset_bytes + inputs_nbytes,
                outputs_nbytes,
                deadline_ns or time.monotonic_ns() + self._request_timeout_ns,
                current_flow.get(),
            )
            return await self._run(route, task, (lease, *placed), shapes, wanted, encode)
        finally:
            self._dispatcher.release(lease)

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
        tries = 1
        try:
            while True:
                held = leases if output_lease is None else (*leases, output_lease)
                try:
                    refs = await self._dispatcher.infer(route, task, held)
                except WorkerGone:
                    if tries == _MAX_TRIES:
                        raise WorkerLost(
                            f"two inference workers died with this request to model {route.model_name!r}"
                        ) from None
                    tries += 1
                    route = await self._successor(route)
                    task = _again(task, self._dispatcher.new_task_id(), handle=route.handle)
                except OutputsDidNotFit as short:
                    if output_lease is not None:
                        self._dispatcher.release(output_lease)
                    output_lease = None
                    output_lease = self._dispatcher.lease(short.needed_nbytes)
                    # Only what fits is worth remembering.
                    self._learn_output_nbytes(route, shapes, short.needed_nbytes)
                    task = _again(task, self._dispatcher.new_task_id(), output=output_lease)
                else:
                    if not task.inputs[0].nbytes:
                        refuse_results_of_nothing(shapes, refs)
                    lease = leases[0] if output_lease is None else output_lease
                    return encode(route, self._results(route.outputs, refs, wanted, lease))
        finally:
            if output_lease is not None:
                self._dispatcher.release(output_lease)

    async def _successor(self, route: VersionRoute) -> VersionRoute:
        """The same version on another worker, or on the one that follows the dead one when there is no other."""
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

    def _output_nbytes(self, route: VersionRoute, shapes: tuple[tuple[int, ...], ...]) -> int:
        """Room for the outputs: exact for static shapes, what was learned for dynamic ones, else a guess."""
        if route.static_output_nbytes is not None:
            return route.static_output_nbytes
        hint = self._output_hints.get((route.handle, shapes))
        if hint is not None:
            return hint
        # The first dimension of an output mostly is the batch, as is the first input's.
        batch = shapes[0][0] if shapes and shapes[0] else 1
        return sum(
            aligned(
                element_count(
                    size if size >= 0 else (batch if axis == 0 else 1) for axis, size in enumerate(spec.dims)
                )
                * spec.dtype.itemsize
            )
            for spec in route.outputs
        )

    def _learn_output_nbytes(
        self, route: VersionRoute, shapes: tuple[tuple[int, ...], ...], needed_nbytes: int
    ) -> None:
        if len(self._output_hints) >= _MAX_HINTS:
            self._output_hints.clear()
        self._output_hints[(route.handle, shapes)] = needed_nbytes


def _again(
    task: InferTask, task_id: int, *, handle: int | None = None, output: Lease | None = None
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
    )


def _match_inputs(route: VersionRoute, given: Mapping[str, GivenTensor]) -> list[GivenTensor]:
    """The given tensors in the model's order.

    Raises:
        InputNameMismatch: One is missing, or one too many.
        ShapeMismatch: One has a shape that the model does not take.
    """
    tensors: list[GivenTensor] = []
    for spec in route.inputs:
        tensor = given.get(spec.name)
        if tensor is None or len(given) != len(route.inputs):
            raise _name_mismatch(route, given)
        if tensor.shape != spec.dims and not spec.accepts(tensor.shape):
            raise _shape_mismatch(spec, tensor.shape)
        tensors.append(tensor)
    if len(given) != len(tensors):
        raise _name_mismatch(route, given)
    return tensors


def _name_mismatch(route: VersionRoute, given: Mapping[str, GivenTensor]) -> InputNameMismatch:
    expected = [spec.name for spec in route.inputs]
    text = (
        f"input tensor alias not found in signature: {list(given)}. Inputs expected to be in the set "
        f"{{{expected}}}."
    )
    missing = [name for name in expected if name not in given]
    if missing:
        text += f" Missing input: {missing}."
    return InputNameMismatch(text)


def _shape_mismatch(spec: TensorSpec, shape: tuple[int, ...]) -> ShapeMismatch:
    """The legacy server's words, then which input it was."""
    if shape and spec.bounds and spec.accepts((spec.bounds[0][0], *shape[1:])):
        low, high = spec.bounds[0]
        required = str(low) if low == high else f"{low}..{high}"
        return ShapeMismatch(
            f"Input batch size is incorrect. Obtained batch size {shape[0]}, required batch size {required} "
            f"(input {spec.name!r})"
        )
    return ShapeMismatch(
        f"The input data is incorrect. Obtained shape {list(shape)}, required shape {spec.shape_text()} "
        f"(input {spec.name!r})"
    )


def _match_filter(route: VersionRoute, output_filter: Sequence[str]) -> frozenset[str] | None:
    """The wanted outputs; None for all.

    Raises:
        OutputNameMismatch: The filter names an output that the model lacks.
    """
    if not output_filter:
        return None
    names = [spec.name for spec in route.outputs]
    for name in output_filter:
        if name not in names:
            raise OutputNameMismatch(
                f"output tensor alias not found in signature: {name!r}. Outputs expected to be in the set {names}."
            )
    return frozenset(output_filter)
