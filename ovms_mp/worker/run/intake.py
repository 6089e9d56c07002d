# SPDX-License-Identifier: Apache-2.0
"""Tasks on their way in: from the fronts' messages to the queue of their version."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ovms_mp.defects import contain, report
from ovms_mp.errors import OvmsError, VersionNotFound
from ovms_mp.wire.codec import decode_to_worker, salvage_to_worker
from ovms_mp.wire.tasks import CancelTask, InferTask
from ovms_mp.worker.run.failures import defect_answer, failure
from ovms_mp.worker.run.queues import LEAST_UNWANTED, QueuedTask

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ovms_mp.wire.channels import Router
    from ovms_mp.wire.tasks import ToWorker
    from ovms_mp.worker.run.answers import Answers
    from ovms_mp.worker.run.outbox import Outbox
    from ovms_mp.worker.run.peers import Peers
    from ovms_mp.worker.run.queues import Peer
    from ovms_mp.worker.run.served import ServedVersion
    from ovms_mp.worker.run.shaping import Shaping


class Intake:
    """Reads the data channel. Belongs to the loop."""

    def __init__(
        self,
        data: Router,
        peers: Peers,
        versions: Mapping[int, ServedVersion],
        shaping: Shaping,
        answers: Answers,
        outbox: Outbox,
    ) -> None:
        """Read nothing yet.

        Args:
            data: Where tasks come from.
            peers: The fronts.
            versions: What is served, by handle.
            shaping: Queues tasks of versions with variants.
            answers: For tasks that are refused.
            outbox: For answers to what was never accepted.
        """
        self._data = data
        self._peers = peers
        self._versions = versions
        self._shaping = shaping
        self._answers = answers
        self._outbox = outbox

    def take_tasks(self) -> None:
        """Queue all tasks that can be read."""
        while (received := self._data.receive()) is not None:
            identity, payload = received
            batch, now_ns = self._decode(identity, payload), time.perf_counter_ns()
            try:
                peer = self._peers.get(identity)
            except Exception as error:
                # Not one of our fronts, or there is no memory to map its arena.
                report("worker.meet", error, f"{len(batch)} tasks of {identity!r}")
                for item in batch:
                    if isinstance(item, InferTask):
                        self._outbox.add(identity, defect_answer(item))
                continue
            if self._peers.is_dead(peer):
                continue  # The front is dead; nobody waits.
            for item in batch:
                if isinstance(item, CancelTask):
                    contain("worker.cancel", f"the end of task {item.task_id}", self._cancel, peer, item)
                    continue
                if not isinstance(item, InferTask):
                    contain("worker.region", f"region {item.number}", self._peers.follow, peer, item)
                    continue
                self._answers.accepted += 1
                try:
                    self._accept(peer, item, now_ns)
                except Exception as error:
                    self._answers.fail("worker.accept", error, peer, item)

    def forget(self, arena: int, epoch: int) -> None:
        """Keep tasks that a dead front has sent from beginning: nobody waits, and its arena is wanted back."""
        for version in self._versions.values():
            for queued in version.pool.ahead() if version.pool is not None else ():
                if queued.peer.arena_index == arena and queued.peer.arena_epoch <= epoch:
                    queued.is_cancelled = True

    def _decode(self, identity: bytes, payload: bytes) -> ToWorker:
        """The tasks that can be decoded; the others are answered."""
        try:
            return decode_to_worker(payload)
        except Exception as error:
            report("worker.decode", error, f"tasks of {identity!r} that cannot be decoded")
        batch, failures = salvage_to_worker(payload)
        for failed in failures:
            self._outbox.add(identity, failed)
        return batch

    def _accept(self, peer: Peer, task: InferTask, now_ns: int) -> None:
        version = self._versions.get(task.handle)
        try:
            if version is None:
                raise VersionNotFound("the version was unloaded while the request was on its way")
            peer.arena.check_range(task.output_offset_bytes, task.output_nbytes)
            queued = QueuedTask(peer, task, sum(ref.nbytes for ref in task.inputs), now_ns)
            if version.family is None:
                evicted = version.take(queued)
            else:
                evicted = self._shaping.push(version, version.family, queued)
            if evicted is not None:
                loser, full = evicted
                self._answers.give(loser.peer, failure(loser.task, full))
        except OvmsError as error:
            self._answers.give(peer, failure(task, error))

    def _cancel(self, peer: Peer, cancel: CancelTask) -> None:
        """Note that nobody waits for a task. One that runs already is answered when it ends.

        PERF: under overload clients give up thousands a second, so none of them is looked for in the queues.
        """
        unwanted = peer.unwanted
        unwanted.ids.add(cancel.task_id)
        if len(unwanted.ids) > unwanted.most:
            unwanted.ids.intersection_update(
                [
                    queued.task.task_id
                    for version in self._versions.values()
                    for queued in (*version.queue.tasks, *(version.pool.ahead() if version.pool else ()))
                    if queued.peer is peer
                ]
            )
            unwanted.most = LEAST_UNWANTED + 2 * len(unwanted.ids)
