# SPDX-License-Identifier: Apache-2.0
"""Tasks on their way into the queues, and the count of answers that are owed for them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from ovms_mp.child.specs import CpuShare
from ovms_mp.wire.arena import create_arena_file
from ovms_mp.wire.channels import Dealer, Router, Wakeup, new_endpoint
from ovms_mp.wire.codec import decode_to_front, encode
from ovms_mp.wire.records import ArenaHandle, TensorRef
from ovms_mp.wire.run_page import RunPage
from ovms_mp.wire.tasks import CancelTask, InferFailed, InferTask
from ovms_mp.worker.run.answers import Answers
from ovms_mp.worker.run.intake import Intake
from ovms_mp.worker.run.outbox import Outbox
from ovms_mp.worker.run.peers import Peers
from ovms_mp.worker.run.queues import LEAST_UNWANTED, FirstTasks, VersionQueue
from ovms_mp.worker.run.served import ServedVersion
from ovms_mp.worker.run.shaping import Shaping

if TYPE_CHECKING:
    from collections.abc import Iterator

ARENA_BYTES = 1 << 16
WITHIN_S = 10.0
VERSION = 7


@dataclass
class Worker:
    """What tasks pass before they run, and the front that sends them."""

    front: Dealer
    router: Router
    peers: Peers
    outbox: Outbox
    answers: Answers
    intake: Intake
    version: ServedVersion

    def send(self, *items: object) -> None:
        """Send a batch, and have it taken."""
        self.front.send(encode(list(items)))
        self.router.zmq_socket.poll(int(WITHIN_S * 1000))
        self.intake.take_tasks()

    def failures(self) -> list[tuple[int, str]]:
        """What leaves now: task and error of each answer."""
        self.outbox.flush(is_all=True)
        payload = self.front.wait(WITHIN_S)
        answers = decode_to_front(payload) if payload else []
        assert all(isinstance(answer, InferFailed) for answer in answers)
        return [(answer.task_id, answer.error_name) for answer in answers if isinstance(answer, InferFailed)]


@pytest.fixture
def worker() -> Iterator[Worker]:
    descriptor = create_arena_file(0, ARENA_BYTES)
    endpoint = new_endpoint()
    with Router(endpoint) as router, Dealer(endpoint, b"0:1") as front:
        peers, outbox = Peers((ArenaHandle(descriptor, ARENA_BYTES),)), Outbox(router)
        answers = Answers(outbox, peers)
        version = ServedVersion(VERSION, "m version 1", VersionQueue(3, 1 << 20))
        versions = {VERSION: version}
        shaping = Shaping(versions, answers, Wakeup(), CpuShare(), RunPage(), FirstTasks())
        intake = Intake(router, peers, versions, shaping, answers, outbox)
        yield Worker(front, router, peers, outbox, answers, intake, version)
    os.close(descriptor)


def task(task_id: int, handle: int = VERSION, offset_bytes: int = 0, deadline_ns: int = 0) -> InferTask:
    return InferTask(task_id, handle, (TensorRef(0, 4, (1,)),), offset_bytes, 64, deadline_ns)


def test_tasks_are_queued_and_owed(worker: Worker) -> None:
    worker.send(task(1), task(2))

    assert [queued.task.task_id for queued in worker.version.queue.tasks] == [1, 2]
    assert (worker.answers.accepted, worker.answers.answered, worker.answers.owed) == (2, 0, 2)
    assert worker.outbox.longest_wait_s() is None


def test_what_cannot_be_queued_is_answered(worker: Worker) -> None:
    worker.send(
        task(1, handle=8), task(2, offset_bytes=ARENA_BYTES), *(task(number) for number in (3, 4, 5, 6))
    )

    assert worker.failures() == [(1, "VersionNotFound"), (2, "ProtocolError"), (6, "QueueFull")]
    assert worker.answers.owed == len(worker.version.queue.tasks) == 3


def test_a_cancelled_task_is_dismissed(worker: Worker) -> None:
    worker.send(task(1), task(2))
    worker.send(CancelTask(1), CancelTask(99))

    first, second = (worker.version.queue.pop() for _ in range(2))
    assert first is not None
    assert second is not None
    assert (worker.answers.dismiss(first), worker.answers.dismiss(second)) == (True, False)
    assert worker.failures() == [(1, "CallCancelled")]
    assert worker.answers.owed == 1


def test_cancellations_of_what_is_not_here_any_more_are_forgotten(worker: Worker) -> None:
    worker.send(task(1), CancelTask(1), *(CancelTask(number) for number in range(1000, 9000)))

    queued = worker.version.queue.pop()
    assert queued is not None
    assert worker.answers.dismiss(queued)
    assert len(queued.peer.unwanted.ids) <= 2 * LEAST_UNWANTED


def test_a_task_past_its_deadline_is_dismissed(worker: Worker) -> None:
    worker.send(task(1, deadline_ns=1))

    queued = worker.version.queue.pop()
    assert queued is not None
    assert worker.answers.dismiss(queued)
    assert worker.failures() == [(1, "DeadlineExceeded")]


def test_tasks_of_a_dead_front_are_answered_to_nobody(worker: Worker) -> None:
    worker.send(task(1))
    worker.peers.retire(0, 1)
    worker.send(task(2))

    queued = worker.version.queue.pop()
    assert queued is not None
    assert worker.answers.dismiss(queued)
    assert (worker.answers.accepted, worker.answers.owed) == (1, 0)
    assert worker.outbox.longest_wait_s() is None


def test_what_is_no_task_is_answered_and_owed_to_nobody(worker: Worker) -> None:
    worker.send(task(1))  # The front is known.
    worker.send(["InferTask", 2, "seven"], task(3))

    assert [queued.task.task_id for queued in worker.version.queue.tasks] == [1, 3]
    assert worker.failures() == [(2, "ProtocolError")]


def test_a_step_that_raised_fails_its_task_alone(worker: Worker) -> None:
    worker.send(task(1), task(2))
    queued = worker.version.queue.pop()
    assert queued is not None

    worker.answers.fail("worker.start", RuntimeError("a defect"), queued.peer, queued.task)

    assert worker.failures() == [(1, "InferenceFailed")]
    assert worker.answers.owed == 1
