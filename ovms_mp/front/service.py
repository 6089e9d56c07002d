# SPDX-License-Identifier: Apache-2.0
"""The transport-neutral service: predict, status and metadata. Adapters decode before it and encode after it.

A predict request's way through here: find the version, hold the inputs against its specs, lease arena memory,
write the inputs (the one copy in; none for those that a transport has received there), send the task, let the
adapter encode straight from the arena (the one copy out; none where a transport sends from there), let go.
"""

from __future__ import annotations

import asyncio
import functools
import operator
import sys
from typing import TYPE_CHECKING, TypeVar

from ovms_mp.errors import ModelNotReady, OvmsError, VersionNotFound
from ovms_mp.front.aside import run_aside
from ovms_mp.front.images.decoder import ImageDecoder
from ovms_mp.front.infer.inputs import Inputs
from ovms_mp.front.infer.outcomes import RouteWasStale
from ovms_mp.front.infer.output_room import OutputRoom
from ovms_mp.front.infer.runs import Runner
from ovms_mp.front.infer.validation import match_filter, match_inputs
from ovms_mp.front.metrics.calls import follow
from ovms_mp.front.regions.loans import Loan
from ovms_mp.front.reload import reload_failure
from ovms_mp.front.routing import NO_SNAPSHOT, RoutingTable, not_found_text
from ovms_mp.wire.changes import ReloadConfig
from ovms_mp.wire.tasks import InferTask

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.clock import Clock
    from ovms_mp.front.counting import Counting
    from ovms_mp.front.infer.convictions import Convictions
    from ovms_mp.front.infer.dispatch import Dispatcher
    from ovms_mp.front.infer.leases import Lease, Leases
    from ovms_mp.front.infer.runs import Coming
    from ovms_mp.front.predict_request import Decode, PredictRequest
    from ovms_mp.front.readiness import Readiness
    from ovms_mp.front.regions.table import Regions
    from ovms_mp.front.routing import VersionRoute
    from ovms_mp.front.tensors import GivenTensor, ResultTensor
    from ovms_mp.model.status import VersionStatus
    from ovms_mp.model.tensors import TensorSpec
    from ovms_mp.wire.changes import AnyChange
    from ovms_mp.wire.messages import StateChanged

AnswerT = TypeVar("AnswerT")

DEFAULT_MEGAPIXELS = 32
_is_aside = operator.attrgetter("is_aside")

_LONGEST_TIMEOUT_NS = 86_400 * 10**9
"""As long as --request_timeout_s may be: a day."""
_MAX_ROUTES = 5
_LARGEST_FLOW = (1 << 31) - 1


class Service:
    """Answers for one front process. All calls come from its event loop."""

    def __init__(
        self,
        leases: Leases,
        convictions: Convictions,
        dispatcher: Dispatcher,
        counting: Counting,
        ask_change: Callable[[AnyChange, int], Awaitable[StateChanged]],
        regions: Regions,
        *,
        request_timeout_s: float,
        retry_window_s: float,
        clock_ns: Clock,
        readiness: Readiness,
        max_message_bytes: int = sys.maxsize,
        max_unpacked_bytes: int = 0,
        max_image_megapixels: int = DEFAULT_MEGAPIXELS,
    ) -> None:
        """Begin with no model.

        Args:
            leases: Of the arena in which inputs and outputs are.
            convictions: Requests that crash workers.
            dispatcher: Carries tasks to the workers.
            counting: Where requests are counted.
            ask_change: Has the manager change the state, until a monotonic deadline in ns or 0.
            regions: Clients' shared memory.
            request_timeout_s: Deadline of requests that bring none.
            retry_window_s: Longest wait for a version that is about to come.
            clock_ns: Monotonic time.
            readiness: Told of each snapshot; for protocols' probes.
            max_message_bytes: Longest outputs of a model whose output shapes are dynamic; half of the arena if that is
                less, so that two such requests do not shut others out.
            max_unpacked_bytes: What a tensor in the compact form may be filled up to; 0 for what the model tells.
            max_image_megapixels: Of an encoded image, in millions.
        """
        self._images = ImageDecoder(max_image_megapixels)
        self._leases = leases
        self._convictions = convictions
        self._dispatcher = dispatcher
        self.counting = counting
        self._has_metrics = counting.has_metrics
        self._ask_change = ask_change
        self.regions = regions
        self.max_message_bytes = max_message_bytes
        self._room = OutputRoom(min(max_message_bytes, len(leases.memory) // 2))
        self._runner = Runner(dispatcher, leases, convictions, self._room, self.routable, clock_ns)
        self._max_unpacked_bytes = max_unpacked_bytes
        self._request_timeout_ns = int(request_timeout_s * 1e9)
        self._retry_window_s = retry_window_s
        self._clock_ns = clock_ns
        self.readiness = readiness
        self._table = RoutingTable(NO_SNAPSHOT)
        self._table_changed = asyncio.Event()

    def replace_table(self, table: RoutingTable) -> None:
        """Take a new snapshot; whoever waits for a version looks again."""
        self._table = table
        self._convictions.learn(table.convictions)
        self._dispatcher.keep_links(table.endpoints, table.deaths)
        self.counting.keep(table.counter_pages())
        self.readiness.replace_table(table)
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
        try:
            return await self.change(ReloadConfig(), context)
        except OvmsError as error:
            raise reload_failure(error) from None

    async def change(self, change: AnyChange, context: CallContext) -> bool:
        """Have the server's state changed; whether that changed anything.

        Returns when every process has it, and :attr:`table` shows it. Who gives up ends the wait, not the change.

        Raises:
            Draining: The server is stopping.
            DeadlineExceeded: It was not done in time.
            OvmsError: It was not done, or not all of it.
        """
        answer = await self._ask_change(change, context.deadline_ns)
        if answer.error is not None:
            raise answer.error.to_error()
        return answer.is_changed

    @property
    def leases(self) -> Leases:
        """Of the arena; for what goes straight there as it arrives."""
        return self._leases

    def loan(self) -> Loan:
        """What a request borrows of clients' shared memory; nothing yet."""
        return Loan(self.regions, self._leases)

    def hold(self, lease: Lease) -> Callable[[], None]:
        """Hold the lease of a result beyond its encoder's return; what is given back lets go of it, once."""
        self._leases.hold(lease)
        return functools.partial(self._leases.release, lease)

    @property
    def is_draining(self) -> bool:
        """Whether the server is stopping."""
        return self._table.is_draining

    async def drain_begins(self) -> None:
        """Return when the server is stopping; whoever waits has a deadline in the server's end."""
        while not self._table.is_draining:
            await self._table_changed.wait()

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
        give_up_at_ns = 0
        while True:
            route = self._table.find(name, version)
            if route.endpoints:
                return route
            now_ns = self._clock_ns()
            give_up_at_ns = give_up_at_ns or now_ns + int(self._retry_window_s * 1e9)
            remaining_s = (give_up_at_ns - now_ns) / 1e9
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
        encode: Callable[[VersionRoute, Sequence[ResultTensor]], AnswerT | Coming[AnswerT]],
    ) -> AnswerT:
        """Run one predict request, and count it if its version is known.

        Args:
            name: The model.
            version: Its version; 0 for the default.
            decode: Reads the request for the version that was found; not called if there is none.
            context: The call.
            encode: Makes the answer, or promises it; the tensors it gets are arena views that end when it
                returns, unless it holds their lease.

        Raises:
            OvmsError: One of the failures in :mod:`ovms_mp.errors`.
        """
        request: PredictRequest | None = None
        specs: Sequence[TensorSpec] = ()
        context.model, context.decoded_ns = name, self._clock_ns()
        try:
            for _ in range(_MAX_ROUTES):
                route = self._followed(context, name, version)
                # What would be refused anyway does not wait for the worker that it has crashed.
                if not route.endpoints and route.handle not in self._convictions.by_handle:
                    route = await self.routable(name, version)
                if request is None or route.inputs != specs:
                    table, specs = self._table, route.inputs
                    try:
                        request = await decode(route)
                    except OvmsError:
                        if self._table is table:
                            raise
                        request = None
                        continue  # What it does not fit may have been replaced while the body was on its way.
                    context.decoded_ns = self._clock_ns()
                    if self._table is not table:
                        continue  # The version may have changed hands while the body was on its way.
                try:
                    return await self._predict_on(route, request, context, encode)
                except RouteWasStale:
                    continue  # The version retired under the request; where another one serves it, that answers.
            raise ModelNotReady(
                f"model {name!r} changes its versions faster than a request can follow; try again"
            )
        except asyncio.CancelledError:
            self._count_cancelled(context)
            raise
        except Exception:
            context.counters.failed(self._clock_ns() - context.decoded_ns)
            raise

    def _followed(self, context: CallContext, name: str, version: int) -> VersionRoute:
        """The version that a request is under way at from now on."""
        route = self._table.find(name, version)
        if self._has_metrics:
            follow(context, route.counters)
        context.version, context.counters = route.version, route.counters
        return route

    def _count_cancelled(self, context: CallContext) -> None:
        """Count a request that its transport has ended: for its deadline, or because its client has gone."""
        now_ns = self._clock_ns()
        if 0 < context.deadline_ns <= now_ns:
            context.counters.failed(now_ns - context.decoded_ns)
        else:
            context.counters.cancelled(now_ns - context.decoded_ns)

    async def _predict_on(
        self,
        route: VersionRoute,
        request: PredictRequest,
        context: CallContext,
        encode: Callable[[VersionRoute, Sequence[ResultTensor]], AnswerT | Coming[AnswerT]],
    ) -> AnswerT:
        tensors = match_inputs(route, request.inputs)
        is_aside = any(map(_is_aside, tensors))
        if is_aside:
            await self._images.settle(route.inputs, tensors)
        wanted = match_filter(route, request.output_filter)
        inputs = Inputs(route.inputs, tensors, len(self._leases.memory), self._max_unpacked_bytes)
        outputs_nbytes = self._room.nbytes(route, inputs.shapes)
        lease = self._leases.lease(inputs.nbytes + outputs_nbytes)
        try:
            if inputs.take_long:
                refs = await run_aside(inputs.write, self._leases.memory, lease)
            else:
                refs = inputs.write(self._leases.memory, lease)
            if is_aside:
                await self._images.fill(route.inputs, tensors)
            context.sent_ns = self._clock_ns()
            task = InferTask(
                self._dispatcher.new_task_id(),
                route.handle,
                refs,
                lease.offset_bytes + inputs.nbytes,
                outputs_nbytes,
                self._deadline(context.deadline_ns, context.sent_ns),
                hash(context.caller) & _LARGEST_FLOW if context.caller else context.flow,
                False,
                context.priority,
            )
            leases = (lease, *inputs.placed)
            return await self._runner.run(route, task, leases, inputs.shapes, wanted, encode, context)
        finally:
            self._leases.release(lease)

    def _deadline(self, deadline_ns: int, now_ns: int) -> int:
        """When nobody waits any more. The one place where clients' deadlines are bounded, for all protocols.

        A gRPC client may name 11,000 years, which is no time that a message between processes can carry. PERF: 0.2 us.
        """
        if not deadline_ns:
            return now_ns + self._request_timeout_ns
        return min(deadline_ns, now_ns + _LONGEST_TIMEOUT_NS)
