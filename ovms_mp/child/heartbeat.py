# SPDX-License-Identifier: Apache-2.0
"""Heartbeats. Sent by every child but gunicorn's arbiter, which writes to a pipe instead."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ovms_mp.defects import contain
from ovms_mp.wire.channels import Dealer
from ovms_mp.wire.codec import encode
from ovms_mp.wire.messages import Heartbeat

if TYPE_CHECKING:
    from collections.abc import Callable


class HeartbeatThread(threading.Thread):
    """Reports progress to the manager, whatever the main thread is doing.

    From a thread, so that a long inference or a large copy does not look like death.

    A stopped process (SIGSTOP) stops this thread with it. A process whose main loop hangs keeps beating, but
    its progress counter stands still while work is in flight, which the manager tells apart from idleness.
    """

    def __init__(
        self, endpoint: str, child_id: str, interval_s: float, measure: Callable[[], tuple[int, int, float]]
    ) -> None:
        """Prepare; :meth:`start` begins to send.

        Args:
            endpoint: The manager's control endpoint.
            child_id: The sender.
            interval_s: Time between heartbeats.
            measure: Gives (progress, in_flight, oldest_run_s); called from this thread.
        """
        super().__init__(name="heartbeat", daemon=True)
        self._endpoint = endpoint
        self._child_id = child_id
        self._interval_s = interval_s
        self._measure = measure
        self._stopping = threading.Event()

    def run(self) -> None:
        """Send heartbeats until :meth:`stop`."""
        with Dealer(self._endpoint) as dealer:
            while True:
                contain("heartbeat", "this beat", self._beat, dealer)
                if self._stopping.wait(self._interval_s):
                    return

    def _beat(self, dealer: Dealer) -> None:
        dealer.send(encode(Heartbeat(self._child_id, *self._measure())))

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._stopping.set()
        self.join(timeout=self._interval_s + 1.0)
