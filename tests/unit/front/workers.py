# SPDX-License-Identifier: Apache-2.0
"""The workers' end of the data channel, played by the test itself: real sockets, no process, answers on demand."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from ovms_mp.front.call_context import CallContext, Target
from ovms_mp.front.predict_request import PlainRequest
from ovms_mp.front.routing import RoutingTable
from ovms_mp.model.status import State
from ovms_mp.wire.channels import Router, new_endpoint
from ovms_mp.wire.codec import decode_to_worker, encode
from ovms_mp.wire.messages import RoutingSnapshot
from ovms_mp.wire.records import ModelRecord, VersionRecord, WorkerRecord
from ovms_mp.wire.tasks import AttachRegion, CancelTask, DetachRegion, InferFailed, InferResult, InferTask

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ovms_mp.front.predict_request import Decode
    from ovms_mp.front.tensors import GivenTensor
    from ovms_mp.wire.records import Conviction, DeathRecord, TensorSpecRecord

WITHIN_S = 10.0


class PlayedWorker:
    """Takes tasks and answers them when told."""

    def __init__(self) -> None:
        self.endpoint = new_endpoint()
        self._router = Router(self.endpoint)
        self._front = b""
        self.tasks: list[InferTask] = []
        self.cancelled: list[int] = []
        self.groups: list[int] = []  # Items of each message.
        self.regions: list[AttachRegion | DetachRegion] = []

    def look(self) -> int:
        """Take what has come; the number of tasks that are not answered."""
        while (received := self._router.receive()) is not None:
            self._front, payload = received
            batch = decode_to_worker(payload)
            self.groups.append(len(batch))
            for item in batch:
                if isinstance(item, CancelTask):
                    self.cancelled.append(item.task_id)
                elif isinstance(item, InferTask):
                    self.tasks.append(item)
                else:
                    self.regions.append(item)
        return len(self.tasks)

    def answer(
        self, *, error_name: str = "", error_message: str = "", needed_nbytes: int = 0, infer_ns: int = 0
    ) -> None:
        """Answer all tasks: with no outputs, or with a failure."""
        answers = [
            InferFailed(task.task_id, error_name, error_message, needed_nbytes)
            if error_name or needed_nbytes
            else InferResult(task.task_id, (), 0, infer_ns)
            for task in self.tasks
        ]
        self.tasks.clear()
        self._router.send(self._front, encode(answers))

    def send(self, payload: bytes) -> None:
        """Send whatever it is."""
        self._router.send(self._front, payload)

    def close(self) -> None:
        """Die."""
        self._router.close()


async def tasks_come(*expected: tuple[PlayedWorker, int]) -> None:
    """Wait until each worker has that many unanswered tasks."""
    counts = [count for _, count in expected]
    await eventually(lambda: [worker.look() for worker, _ in expected] == counts)


class Nobody:
    """Has sent no headers from nowhere."""

    metadata: Sequence[tuple[str, str | bytes]] = ()
    peer = certificate_name = ""
    target = Target("POST", "/path")


def context(deadline_ns: int = 0, flow: int = 0) -> CallContext:
    """A call."""
    return CallContext(deadline_ns, flow, "tfs", "Predict", Nobody())


def decoded(given: Mapping[str, GivenTensor], output_filter: Sequence[str] = ()) -> Decode:
    """A request that is here and decoded already, whatever the route."""

    async def decode(_: object) -> PlainRequest:
        return PlainRequest(given, output_filter)

    return decode


async def eventually(predicate: Callable[[], bool]) -> None:
    """Wait until it is true; the event loop goes on meanwhile."""
    give_up_at = time.monotonic() + WITHIN_S
    while not predicate():
        assert time.monotonic() < give_up_at
        await asyncio.sleep(0.001)


def table(
    workers: Sequence[PlayedWorker],
    serving: Sequence[PlayedWorker],
    *,
    handle: int = 1,
    nireq: int = 4,
    inputs: tuple[TensorSpecRecord, ...] = (),
    outputs: tuple[TensorSpecRecord, ...] = (),
    deaths: tuple[DeathRecord, ...] = (),
    convictions: tuple[Conviction, ...] = (),
) -> RoutingTable:
    """A snapshot with version 1 of model m."""
    record = VersionRecord(
        version=1,
        state=State.AVAILABLE if serving else State.LOADING,
        error_code=0,
        error_message="",
        handle=handle,
        endpoints=tuple(worker.endpoint for worker in serving),
        nireq=nireq,
        detail="",
        inputs=inputs,
        outputs=outputs,
    )
    records = tuple(
        WorkerRecord(f"worker-{index}", "CPU", 100 + index, (index,), worker.endpoint)
        for index, worker in enumerate(workers)
    )
    models = (ModelRecord("m", 1, (record,)),)
    return RoutingTable(RoutingSnapshot(1, False, records, (), models, deaths, convictions))
