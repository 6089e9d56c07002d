# SPDX-License-Identifier: Apache-2.0
"""What a call in the background is handed out as."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from ovms_mp.client.sockets import Cancellation


class PredictFuture(Future[Any]):
    """A future whose call can be given up while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.cancellation = Cancellation()

    def cancel(self) -> bool:
        """Give the call up; false if it has ended."""
        if self.done() and not self.cancelled():
            return False
        self.cancellation.cancel()
        return super().cancel() or self.cancelled()

    def drop(self, task: Future[Any]) -> None:
        """End it if the task that was to settle it will never run, as its client is closed."""
        if task.cancelled() and not self.done():
            self.cancel()
            self.set_running_or_notify_cancel()

    def settle(self, result: object, error: BaseException | None) -> None:
        """End it, unless it was cancelled."""
        if not self.set_running_or_notify_cancel():
            return
        if error is None:
            self.set_result(result)
        else:
            self.set_exception(error)
