# SPDX-License-Identifier: Apache-2.0
"""Terminal answers: every task that the worker accepts gets exactly one, and those still owed are counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.defects import report
from ovms_mp.wire.version_counters import UNCOUNTED
from ovms_mp.worker.run.failures import defect_answer, failure

if TYPE_CHECKING:
    from ovms_mp.wire.tasks import InferFailed, InferResult, InferTask
    from ovms_mp.wire.version_counters import VersionCounters
    from ovms_mp.worker.run.outbox import Outbox
    from ovms_mp.worker.run.peers import Peers
    from ovms_mp.worker.run.queues import Peer, QueuedTask


class Answers:
    """Belongs to the loop; the counts are read by the heartbeat's thread, too, as reading an int is atomic.

    Attributes:
        accepted: Tasks that were accepted since the start.
        answered: Tasks that have had their answer.
    """

    __slots__ = ("_outbox", "_peers", "accepted", "answered")

    def __init__(self, outbox: Outbox, peers: Peers) -> None:
        """Begin with none.

        Args:
            outbox: Takes the answers.
            peers: Whom answers may go to.
        """
        self._outbox = outbox
        self._peers = peers
        self.accepted = 0
        self.answered = 0

    @property
    def owed(self) -> int:
        """Accepted tasks that have no answer yet."""
        return self.accepted - self.answered

    def give(self, peer: Peer, answer: InferResult | InferFailed, leaves_at_s: float = 0.0) -> None:
        """Answer a task; see :meth:`ovms_mp.worker.run.outbox.Outbox.add` for when the answer leaves."""
        self.answered += 1
        self._outbox.add(peer.identity, answer, leaves_at_s)

    def fail(self, step: str, error: Exception, peer: Peer, task: InferTask) -> None:
        """Answer the one task for which a step raised."""
        report(step, error, f"task {task.task_id}")
        self.give(peer, defect_answer(task))

    def dismiss(self, queued: QueuedTask, counters: VersionCounters = UNCOUNTED) -> bool:
        """Answer a task that nobody wants any more, and count it; whether it was one."""
        if self._peers.is_dead(queued.peer):
            self.answered += 1  # To nobody: its front is dead.
        elif (error := queued.refusal()) is not None:
            self.give(queued.peer, failure(queued.task, error))
        else:
            return False
        count_unstarted(queued, counters)
        return True


def count_unstarted(queued: QueuedTask, counters: VersionCounters) -> None:
    """Count a task that nobody wanted any more when its turn came."""
    # Whose deadline has passed is often cancelled, too: its front has told its client.
    if queued.is_expired:
        counters.stages.expired()
    else:
        counters.stages.cancelled()
