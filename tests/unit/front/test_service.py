# SPDX-License-Identifier: Apache-2.0
"""The service up to the point where a task would be sent: lookups, validation, waiting, and what it leases."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
import pytest

from ovms_mp.errors import (
    ConfigRejected,
    DtypeMismatch,
    InputNameMismatch,
    MalformedPayload,
    ModelNotFound,
    ModelNotReady,
    OutputNameMismatch,
    OvmsError,
    RequestTooLarge,
    ShapeMismatch,
    TensorTooLarge,
    VersionNotFound,
)
from ovms_mp.front.predict_request import PlainRequest
from ovms_mp.front.routing import RoutingTable, VersionRoute
from ovms_mp.front.tensors import GivenTensor, NumberTensor, RawTensor, ResultTensor
from ovms_mp.model.dtypes import DType
from ovms_mp.model.status import State
from ovms_mp.wire.arena import create_arena_file
from ovms_mp.wire.changes import AnyChange, ReloadConfig
from ovms_mp.wire.messages import RoutingSnapshot, StateChanged
from ovms_mp.wire.records import (
    ErrorRecord,
    ModelRecord,
    TensorSpecRecord,
    VersionRecord,
    WorkerRecord,
)
from tests.unit.front.core import MIB, Core
from tests.unit.front.workers import context, decoded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

ResultT = TypeVar("ResultT")
ENDPOINT = "ipc://@nobody"

STATIC = (TensorSpecRecord("a", "FP32", ((2, 2), (3, 3))), TensorSpecRecord("b", "INT64", ((2, 2), (3, 3))))
OUTPUTS = (
    TensorSpecRecord("sum", "FP32", ((2, 2), (3, 3))),
    TensorSpecRecord("product", "FP32", ((2, 2), (3, 3))),
)


def version(
    number: int,
    state: State,
    *,
    error: str = "",
    inputs: tuple[TensorSpecRecord, ...] = STATIC,
    outputs: tuple[TensorSpecRecord, ...] = OUTPUTS,
) -> VersionRecord:
    return VersionRecord(
        version=number,
        state=state,
        error_code=2 if error else 0,
        error_message=error,
        handle=number,
        endpoints=(ENDPOINT,) if state is State.AVAILABLE else (),
        nireq=1,
        detail="",
        inputs=inputs,
        outputs=outputs,
    )


def table(
    *versions: VersionRecord, default: int = 0, epoch: int = 1, is_draining: bool = False
) -> RoutingTable:
    worker = WorkerRecord("worker-0", "CPU", 100, (0,), ENDPOINT)
    snapshot = RoutingSnapshot(epoch, is_draining, (worker,), (), (ModelRecord("m", default, versions),))
    return RoutingTable(snapshot)


class Desk:
    """A service with a real dispatcher on a real arena."""

    def __init__(self, descriptor: int, retry_window_s: float) -> None:
        core = Core(descriptor, ask_change=self.answer_change, retry_window_s=retry_window_s)
        self.leases, self.dispatcher, self.service = core.leases, core.dispatcher, core.service
        self.asked: list[tuple[AnyChange, int]] = []
        self.reloaded = StateChanged(1, False, None)

    async def answer_change(self, change: AnyChange, deadline_ns: int) -> StateChanged:
        self.asked.append((change, deadline_ns))
        return self.reloaded

    async def refusal(
        self, given: dict[str, GivenTensor], output_filter: Sequence[str] = (), **specs: Any
    ) -> OvmsError:
        """With what a predict request is refused; it must leave nothing leased."""
        self.service.replace_table(table(version(1, State.AVAILABLE, **specs), default=1))
        try:
            await self.service.predict("m", 0, decoded(given, output_filter), context(), never)
        except OvmsError as error:
            assert self.leases.statistics().leases == 0
            assert self.dispatcher.statistics().in_flight == 0
            return error
        raise AssertionError("it was not refused")


def never(route: VersionRoute, results: Sequence[ResultTensor]) -> None:
    raise AssertionError("there is nothing to encode")


RunAtDesk: TypeAlias = "Callable[[Callable[[Desk], Awaitable[None]]], None]"


@pytest.fixture
def run() -> Iterator[RunAtDesk]:
    """Runs a test's coroutine at a desk."""
    descriptor = create_arena_file(0, MIB)

    def runner(body: Callable[[Desk], Awaitable[None]], retry_window_s: float = 5.0) -> None:
        async def around() -> None:
            desk = Desk(descriptor, retry_window_s)
            try:
                await body(desk)
            finally:
                desk.dispatcher.close()

        asyncio.run(around())

    yield runner
    os.close(descriptor)


def given(dtype: DType, *shape: int) -> GivenTensor:
    return RawTensor(dtype, shape, memoryview(bytes(dtype.nbytes(shape))))


A, B = given(DType.FP32, 2, 3), given(DType.INT64, 2, 3)


# Names of inputs and outputs.


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"a": A, "c": B},
            "input tensor alias not found in signature: ['a', 'c']. Inputs expected to be in the set {['a', 'b']}."
            " input 'b' is missing",
        ),
        (
            {"a": A},
            "input tensor alias not found in signature: ['a']. Inputs expected to be in the set {['a', 'b']}."
            " input 'b' is missing",
        ),
        (
            {},
            "input tensor alias not found in signature: []. Inputs expected to be in the set {['a', 'b']}."
            " inputs 'a', 'b' are missing",
        ),
        (
            {"a": A, "b": B, "c": B},
            "input tensor alias not found in signature: ['a', 'b', 'c']. "
            "Inputs expected to be in the set {['a', 'b']}.",
        ),
    ],
)
def test_names_of_inputs(run: Any, tensors: dict[str, GivenTensor], message: str) -> None:
    async def body(desk: Desk) -> None:
        error = await desk.refusal(tensors)
        assert type(error) is InputNameMismatch
        assert error.message == message

    run(body)


def test_names_of_outputs(run: Any) -> None:
    async def body(desk: Desk) -> None:
        error = await desk.refusal({"a": A, "b": B}, ["sum", "Sum"])
        assert type(error) is OutputNameMismatch
        assert error.message == (
            "output tensor alias not found in signature: 'Sum'. Outputs expected to be in the set ['sum', 'product']."
        )

    run(body)


# Shapes.

IMAGE = (TensorSpecRecord("x", "FP32", ((1, 1), (3, 3), (224, 224), (224, 224))),)
RANGE = (TensorSpecRecord("x", "FP32", ((2, 4), (3, 3))),)
SCALAR = (TensorSpecRecord("x", "FP32", ()),)
FLAT = (TensorSpecRecord("x", "FP32", ((10, 10),)),)


@pytest.mark.parametrize(
    ("inputs", "shape", "message"),
    [
        (
            IMAGE,
            (2, 3, 224, 224),
            "Input batch size is incorrect. Obtained batch size 2, required batch size 1 (input 'x')",
        ),
        (
            IMAGE,
            (1, 3, 224, 223),
            "The input data is incorrect. Obtained shape [1, 3, 224, 223], required shape [1, 3, 224, 224] (input 'x')",
        ),
        (
            IMAGE,
            (2, 3, 224, 223),
            "The input data is incorrect. Obtained shape [2, 3, 224, 223], required shape [1, 3, 224, 224] (input 'x')",
        ),
        (
            IMAGE,
            (3, 224, 224),
            "The input data is incorrect. Obtained shape [3, 224, 224], required shape [1, 3, 224, 224] (input 'x')",
        ),
        (
            IMAGE,
            (),
            "The input data is incorrect. Obtained shape [], required shape [1, 3, 224, 224] (input 'x')",
        ),
        (
            FLAT,
            (5,),
            "Input batch size is incorrect. Obtained batch size 5, required batch size 10 (input 'x')",
        ),
        (
            RANGE,
            (2, 4),
            "The input data is incorrect. Obtained shape [2, 4], required shape [2..4, 3] (input 'x')",
        ),
        (SCALAR, (1,), "The input data is incorrect. Obtained shape [1], required shape [] (input 'x')"),
    ],
)
def test_shapes(run: Any, inputs: tuple[TensorSpecRecord, ...], shape: tuple[int, ...], message: str) -> None:
    async def body(desk: Desk) -> None:
        error = await desk.refusal({"x": given(DType.FP32, *shape)}, inputs=inputs)
        assert type(error) is ShapeMismatch
        assert error.message == message

    run(body)


def test_a_batch_out_of_range_says_what_it_was_and_what_it_may_be(run: Any) -> None:
    async def body(desk: Desk) -> None:
        error = await desk.refusal({"x": given(DType.FP32, 5, 3)}, inputs=RANGE)
        assert error.message.startswith(
            "Input batch size is incorrect. Obtained batch size 5, required batch size "
        )
        assert "2..4" in error.message

    run(body)


# Values and memory.


def test_values_that_the_model_cannot_take_leave_nothing_leased(run: Any) -> None:
    async def body(desk: Desk) -> None:
        bad = NumberTensor(DType.FP64, (2, 3), np.array([0, 1, 2, 3, 4.5, 5]))
        error = await desk.refusal({"a": A, "b": bad})
        assert type(error) is DtypeMismatch
        assert error.message.startswith("input 'b' is INT64; value 4.5 (element 4, sent as FP64)")

    run(body)


def test_tensors_that_do_not_fit_the_arena(run: Any) -> None:
    async def body(desk: Desk) -> None:
        inputs = (TensorSpecRecord("x", "FP32", ((0, -1),)),)
        error = await desk.refusal({"x": given(DType.FP32, MIB // 4)}, inputs=inputs)
        assert type(error) is TensorTooLarge
        # The input, and 64 bytes for each output.
        assert f"need {MIB + 128} bytes" in error.message

    run(body)


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        # A guess where a dimension is free: the batch of the first input for the first, 1 for others.
        ((TensorSpecRecord("y", "FP32", ((0, -1), (1024, 1024))),), MIB + 64 * 4096),
        ((TensorSpecRecord("y", "FP32", ((1, 1), (0, -1))),), MIB + 64),
        (
            (TensorSpecRecord("y", "FP64", ((0, -1),)), TensorSpecRecord("z", "UINT8", ((0, -1),))),
            MIB + 512 + 64,
        ),
    ],
)
def test_room_for_outputs_of_unknown_shape(
    run: Any, outputs: tuple[TensorSpecRecord, ...], expected: int
) -> None:
    async def body(desk: Desk) -> None:
        inputs = (TensorSpecRecord("x", "UINT8", ((0, -1), (0, -1))),)
        error = await desk.refusal({"x": given(DType.UINT8, 64, MIB // 64)}, inputs=inputs, outputs=outputs)
        assert type(error) is TensorTooLarge
        assert f"need {expected} bytes" in error.message

    run(body)


# Lookups.

SEVERAL = table(
    version(1, State.END),
    version(3, State.AVAILABLE),
    version(2, State.LOADING, error="no such file", outputs=()),
    version(4, State.LOADING, outputs=()),
    default=3,
)


def test_statuses_of_all_versions_ever_seen_in_order(run: Any) -> None:
    async def body(desk: Desk) -> None:
        desk.service.replace_table(SEVERAL)
        assert [(status.version, status.state) for status in desk.service.statuses("m", 0)] == [
            (1, State.END),
            (2, State.LOADING),
            (3, State.AVAILABLE),
            (4, State.LOADING),
        ]
        (one,) = desk.service.statuses("m", 2)
        assert (one.error_code, one.error_message) == (2, "no such file")

    run(body)


def test_statuses_of_what_is_not_there(run: Any) -> None:
    async def body(desk: Desk) -> None:
        with pytest.raises(ModelNotFound, match=r"Specific\(m, 0\)"):
            desk.service.statuses("m", 0)
        desk.service.replace_table(SEVERAL)
        with pytest.raises(VersionNotFound) as caught:
            desk.service.statuses("m", 9)
        assert caught.value.message == (
            "Servable not found for request: Specific(m, 9); known versions: [1, 2, 3, 4]"
        )

    run(body)


def test_metadata_needs_known_specs_and_does_not_wait(run: Any) -> None:
    async def body(desk: Desk) -> None:
        desk.service.replace_table(SEVERAL)
        assert desk.service.described("m", 0).version == 3
        with pytest.raises(ModelNotReady, match="no such file"):
            desk.service.described("m", 2)
        with pytest.raises(ModelNotReady, match="state LOADING"):
            desk.service.described("m", 4)
        with pytest.raises(VersionNotFound):
            desk.service.described("m", 1)

    run(body)


def test_draining_is_what_the_snapshot_says(run: Any) -> None:
    async def body(desk: Desk) -> None:
        assert not desk.service.is_draining
        desk.service.replace_table(table(is_draining=True))
        assert desk.service.is_draining

    run(body)


@pytest.mark.parametrize("is_changed", [True, False])
def test_a_reload_says_whether_anything_changed(run: Any, is_changed: bool) -> None:
    async def body(desk: Desk) -> None:
        desk.reloaded = StateChanged(1, is_changed, None)
        assert await desk.service.reload(context(77)) is is_changed
        assert desk.asked == [(ReloadConfig(), 77)]

    run(body)


def test_a_reload_that_failed_is_raised_in_the_clients_words(run: Any) -> None:
    async def body(desk: Desk) -> None:
        desk.reloaded = StateChanged(1, True, ErrorRecord("ConfigError", "$.model_config_list is missing"))
        with pytest.raises(ConfigRejected) as caught:
            await desk.service.reload(context())
        assert caught.value.message == (
            "Reloading config file failed. Check server logs for more info. $.model_config_list is missing"
        )

    run(body)


# Waiting for a version.


def test_what_can_be_served_is_given_at_once(run: Any) -> None:
    async def body(desk: Desk) -> None:
        desk.service.replace_table(SEVERAL)
        assert (await desk.service.routable("m", 0)).version == 3

    run(body)


def test_who_waits_gets_the_version_when_it_comes(run: Any) -> None:
    async def body(desk: Desk) -> None:
        desk.service.replace_table(table(version(1, State.LOADING), default=1))
        waiting = asyncio.ensure_future(desk.service.routable("m", 0))
        await asyncio.sleep(0)
        # A snapshot that changes something else does not end the wait.
        desk.service.replace_table(table(version(1, State.LOADING), default=1, epoch=2))
        for _ in range(3):
            await asyncio.sleep(0)
        assert not waiting.done()
        desk.service.replace_table(table(version(1, State.AVAILABLE), default=1, epoch=3))
        route = await waiting
        assert (route.version, route.endpoints) == (1, (ENDPOINT,))

    run(body)


def test_who_waits_is_told_when_it_fails(run: Any) -> None:
    async def body(desk: Desk) -> None:
        desk.service.replace_table(table(version(1, State.LOADING), default=1))
        waiting = asyncio.ensure_future(desk.service.routable("m", 1))
        await asyncio.sleep(0)
        desk.service.replace_table(table(version(1, State.LOADING, error="it is no model"), default=1))
        with pytest.raises(ModelNotReady, match="it is no model"):
            await waiting

    run(body)


def test_who_waits_is_told_when_it_has_gone(run: Any) -> None:
    async def body(desk: Desk) -> None:
        desk.service.replace_table(table(version(1, State.LOADING), default=1))
        waiting = asyncio.ensure_future(desk.service.routable("m", 1))
        await asyncio.sleep(0)
        desk.service.replace_table(table(version(1, State.END)))
        with pytest.raises(VersionNotFound):
            await waiting

    run(body)


@pytest.mark.parametrize("retry_window_s", [0.0, 0.005])
def test_patience_ends(run: Any, retry_window_s: float) -> None:
    async def body(desk: Desk) -> None:
        desk.service.replace_table(table(version(1, State.LOADING), default=1))
        with pytest.raises(ModelNotReady, match="version 1 of model 'm' is not available: state LOADING"):
            await desk.service.routable("m", 0)

    run(body, retry_window_s)


def test_nobody_waits_for_what_has_failed(run: Any) -> None:
    async def body(desk: Desk) -> None:
        desk.service.replace_table(SEVERAL)
        waiting = asyncio.ensure_future(desk.service.routable("m", 2))
        await asyncio.sleep(0)
        assert waiting.done()
        assert isinstance(waiting.exception(), ModelNotReady)

    run(body)


DYNAMIC = (TensorSpecRecord("a", "FP32", ((0, -1), (10, 10))),)
BOUNDED = (TensorSpecRecord("a", "FP32", ((1, 2_000_000), (10, 10))),)
ROWS = 10_000_000


@pytest.mark.parametrize("dtype", [DType.FP32, DType.FP16, DType.INT64, DType.BOOL], ids=lambda d: d.name)
@pytest.mark.parametrize("count", [0, 1, 1000])
def test_a_few_values_do_not_fill_an_arena(run: RunAtDesk, dtype: DType, count: int) -> None:
    """The compact form is held against what was sent, before anything is leased."""

    async def body(desk: Desk) -> None:
        few: dict[str, GivenTensor] = {"a": NumberTensor(dtype, (ROWS, 10), np.zeros(count, dtype.numpy))}
        error = await desk.refusal(few, inputs=DYNAMIC)
        assert isinstance(error, RequestTooLarge)
        assert "--max_unpacked_mb" in error.message
        assert str(ROWS * 40) in error.message

    run(body)


@pytest.mark.parametrize(
    ("inputs", "shape", "count"),
    [(BOUNDED, (2_000_000, 10), 1), (DYNAMIC, (200_000, 10), 2_000_000), (DYNAMIC, (99_000, 10), 1)],
    ids=["as large as the model's input can be", "all values", "not much"],
)
def test_what_may_be_filled(
    run: RunAtDesk, inputs: tuple[TensorSpecRecord, ...], shape: tuple[int, ...], count: int
) -> None:
    """Here only the arena is too small for it."""

    async def body(desk: Desk) -> None:
        tensor = NumberTensor(DType.FP32, shape, np.zeros(count, np.float32))
        assert isinstance(await desk.refusal({"a": tensor}, inputs=inputs), TensorTooLarge)

    run(body)


def test_misfits_are_known_without_values(run: RunAtDesk) -> None:
    async def body(desk: Desk) -> None:
        service = desk.service
        service.replace_table(table(version(1, State.AVAILABLE), default=1))
        none = np.empty(0, np.float32)
        fitting = {"a": NumberTensor(DType.FP32, (2, 3), none), "b": NumberTensor(DType.INT64, (2, 3), none)}
        service.refuse_misfits("m", 0, fitting)
        with pytest.raises(ShapeMismatch):
            service.refuse_misfits("m", 0, fitting | {"b": NumberTensor(DType.INT64, (2, 4), none)})
        with pytest.raises(InputNameMismatch):
            service.refuse_misfits("m", 0, {"a": fitting["a"]})
        with pytest.raises(ModelNotFound):
            service.refuse_misfits("other", 0, fitting)
        with pytest.raises(VersionNotFound):
            service.refuse_misfits("m", 7, fitting)

    run(body)


async def after(desk: Desk, route: VersionRoute, asked: list[int], *next_table: RoutingTable) -> PlainRequest:
    """A decoder that notes for which version it was asked, and meanwhile the table is replaced."""
    asked.append(route.version)
    for new_table in next_table:
        desk.service.replace_table(new_table)
    return PlainRequest({})


def test_nothing_is_decoded_for_a_model_that_there_is_not(run: Any) -> None:
    async def body(desk: Desk) -> None:
        asked: list[int] = []
        with pytest.raises(ModelNotFound):
            await desk.service.predict("m", 0, lambda route: after(desk, route, asked), context(), never)
        assert asked == []

    run(body)


def test_a_request_is_decoded_once(run: Any) -> None:
    async def body(desk: Desk) -> None:
        asked: list[int] = []
        desk.service.replace_table(table(version(1, State.AVAILABLE), default=1))
        with pytest.raises(InputNameMismatch):
            await desk.service.predict("m", 0, lambda route: after(desk, route, asked), context(), never)
        assert asked == [1]

    run(body)


@pytest.mark.parametrize("is_other", [True, False])
def test_a_version_that_changed_hands_meanwhile_is_looked_up_again(run: Any, is_other: bool) -> None:
    """Its request is read again only if it has other inputs."""

    async def body(desk: Desk) -> None:
        asked: list[int] = []
        inputs = (TensorSpecRecord("c", "FP32", ((1, 1),)),) if is_other else STATIC
        successor = table(version(2, State.AVAILABLE, inputs=inputs), default=2, epoch=2)
        desk.service.replace_table(table(version(1, State.AVAILABLE), default=1))
        with pytest.raises(InputNameMismatch, match="'c'" if is_other else "'a'"):
            await desk.service.predict(
                "m",
                0,
                lambda route: after(desk, route, asked, *([successor] if route.version == 1 else [])),
                context(),
                never,
            )
        assert asked == ([1, 2] if is_other else [1])

    run(body)


@pytest.mark.parametrize("is_replaced", [True, False])
def test_a_request_that_does_not_fit_is_read_again_for_the_version_that_came_meanwhile(
    run: Any, is_replaced: bool
) -> None:
    async def body(desk: Desk) -> None:
        asked: list[int] = []
        successor = table(version(2, State.AVAILABLE), default=2, epoch=2)
        desk.service.replace_table(table(version(1, State.AVAILABLE), default=1))

        async def decode(route: VersionRoute) -> PlainRequest:
            asked.append(route.version)
            if route.version == 1:
                if is_replaced:
                    desk.service.replace_table(successor)
                raise MalformedPayload("not for version 1")
            return PlainRequest({})

        with pytest.raises(InputNameMismatch if is_replaced else MalformedPayload):
            await desk.service.predict("m", 0, decode, context(), never)
        assert asked == ([1, 2] if is_replaced else [1])

    run(body)


def test_who_has_lost_its_version_while_its_body_came_is_told_so(run: Any) -> None:
    async def body(desk: Desk) -> None:
        desk.service.replace_table(table(version(1, State.AVAILABLE), default=1))
        gone = table(version(1, State.END), epoch=2)
        with pytest.raises(VersionNotFound):
            await desk.service.predict("m", 1, lambda route: after(desk, route, [], gone), context(), never)

    run(body)
