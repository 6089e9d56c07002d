# SPDX-License-Identifier: Apache-2.0
"""Answers that wait for company: those of one turn of the worker's loop go out as one message for each front."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ovms_mp.defects import contain, report
from ovms_mp.wire.codec import encode
from ovms_mp.worker.run.failures import defect_answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.wire.channels import Router
    from ovms_mp.wire.tasks import InferFailed, InferResult


class Outbox:
    """Belongs to the loop."""

    def __init__(self, data: Router) -> None:
        """Begin with nothing; answers leave by ``data``."""
        self._data = data
        self._answers: dict[bytes, list[InferResult | InferFailed]] = {}
        self._leaves_at_s = 0.0

    def add(self, identity: bytes, answer: InferResult | InferFailed, leaves_at_s: float = 0.0) -> None:
        """Have an answer leave by then with what else there is; 0.0 is the end of this turn."""
        self._leaves_at_s = min(self._leaves_at_s, leaves_at_s) if self._answers else leaves_at_s
        self._answers.setdefault(identity, []).append(answer)

    def longest_wait_s(self) -> float | None:
        """How long the loop may wait before :meth:`flush` has something to do; None for ever."""
        return max(0.0, self._leaves_at_s - time.monotonic()) if self._answers else None

    def flush(self, *, is_all: bool) -> None:
        """Send what is due, or all there is."""
        if not self._answers:
            return
        if self._leaves_at_s and not is_all and time.monotonic() < self._leaves_at_s:
            return
        outbox, self._answers = self._answers, {}
        for identity, answers in outbox.items():
            try:
                self._data.send(identity, encode(answers))
            except Exception as error:
                self._send_each(identity, answers, error)

    def _send_each(
        self, identity: bytes, answers: Sequence[InferResult | InferFailed], why: Exception
    ) -> None:
        """Send one by one what could not be sent together; an answer that cannot be sent becomes a failure."""
        has_failed = False
        for answer in answers:
            try:
                self._data.send(identity, encode([answer]))
            except Exception as error:
                has_failed = True
                report("worker.send", error, f"task {answer.task_id}")
                failure = encode([defect_answer(answer)])
                contain("worker.send", "the same", self._data.send, identity, failure)
        if not has_failed:
            report("worker.send", why, "nobody; sent one by one")
