# SPDX-License-Identifier: Apache-2.0
"""The fetcher's life: it takes fetches from the manager, does each in a thread of its own, and tells how it goes.

::

    Hello --> Welcome --> Ready --> (Fetch --> FetchProgress ... --> FetchDone)* --> Drain --> exit 0
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from typing import TYPE_CHECKING

from ovms_mp.child.heartbeat import HeartbeatThread
from ovms_mp.child.levels import follow_levels
from ovms_mp.child.process import run_child, with_control_link
from ovms_mp.child.specs import FetcherSpec
from ovms_mp.fetcher.job import Job
from ovms_mp.fetcher.opening import StoreOpener
from ovms_mp.fetcher.secrets import ScrubbingFilter, Secrets
from ovms_mp.wire.messages import Drain, Fetch, FetchProgress, LevelsChanged, Ready

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ovms_mp.child.control import ControlLink
    from ovms_mp.wire.messages import FetchDone

_log = logging.getLogger(__name__)

_LOOK_S = 0.05
"""How often to look for fetches that have ended, while there are any."""
_TELL_S = 1.0
_IDLE_S = 3600.0
_TALKATIVE = ("boto3", "botocore", "s3transfer", "urllib3", "google", "azure", "charset_normalizer")
"""Libraries that log at DEBUG what they send, credentials among it, and at INFO what nobody needs."""


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run the fetcher; its exit code."""
    return run_child(
        arguments,
        FetcherSpec,
        lambda _: "fetcher",
        lambda spec: with_control_link(spec, lambda spec, control: _serve(spec, control, environment)),
    )


def _serve(spec: FetcherSpec, control: ControlLink, environment: Mapping[str, str]) -> None:
    secrets = Secrets(environment)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    for handler in logging.root.handlers:
        handler.addFilter(ScrubbingFilter(secrets))
    control.say_hello()
    heartbeat = HeartbeatThread(
        spec.common.control_endpoint,
        control.child_id,
        spec.common.heartbeat_interval_s,
        lambda: (0, 0, 0.0),
    )
    heartbeat.start()
    try:
        control.send(Ready())
        Fetcher(control, StoreOpener(environment), secrets).run()
    finally:
        heartbeat.stop()


class Fetcher:
    """The main thread's loop; the only one that talks to the manager."""

    def __init__(self, control: ControlLink, opener: StoreOpener, secrets: Secrets) -> None:
        self._control = control
        self._opener = opener
        self._secrets = secrets
        self._jobs: dict[int, Job] = {}
        self._done: queue.SimpleQueue[FetchDone] = queue.SimpleQueue()

    def run(self) -> None:
        """Until the manager has nothing more to fetch."""
        told_at = time.monotonic()
        while True:
            message = self._control.wait(_LOOK_S if self._jobs else _IDLE_S)
            if isinstance(message, Fetch):
                self._begin(message)
            elif isinstance(message, LevelsChanged):
                follow_levels(message, self._control)
            elif isinstance(message, Drain):
                return
            self._report_ended()
            if time.monotonic() - told_at >= _TELL_S:
                told_at = time.monotonic()
                self._report_progress()

    def _begin(self, fetch: Fetch) -> None:
        job = self._jobs[fetch.job] = Job(fetch, self._opener, self._secrets)
        threading.Thread(
            target=lambda: self._done.put(job.run()), name=f"fetch-{fetch.job}", daemon=True
        ).start()

    def _report_ended(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                done = self._done.get_nowait()
                del self._jobs[done.job]
                self._control.send(done)

    def _report_progress(self) -> None:
        for number, job in self._jobs.items():
            if (measured := job.progress.take()) is not None:
                self._control.send(FetchProgress(number, *measured))
