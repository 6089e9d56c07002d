# SPDX-License-Identifier: Apache-2.0
"""gunicorn, told where its sockets are and how we want its workers.

Runs in the arbiter and is inherited by what it forks.

Nothing heavy is imported before the fork and nothing with threads or descriptors of its own: no zmq, no
numpy, no application. gunicorn's control socket, ``max_requests`` and SIGHUP are not used: the first makes a
file in the home directory, the others drop requests. Of gunicorn's signals only those that stop it, and SIGUSR1 for
the log, keep their meaning: how many workers there are, and of which program, is for the manager to say.
"""

from __future__ import annotations

import logging
import os
import signal
from functools import cached_property
from typing import TYPE_CHECKING

import gunicorn.workers.base
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger
from gunicorn.workers.workertmp import WorkerTmp

from ovms_mp.child.lifetime import STOP_SIGNALS, die_with_parent, release_log_signals
from ovms_mp.defects import contain
from ovms_mp.front.rest.levels_pipe import LevelsPipe
from ovms_mp.log import configure_logging, reopen_logs

if TYPE_CHECKING:
    from collections.abc import Callable

    from gunicorn.config import Config
    from gunicorn.workers.base import Worker

    from ovms_mp.child.specs import RestSpec
    from ovms_mp.log_levels import LogLevels

KEEP_ALIVE_S = 75
"""How long an idle connection is kept: longer than the 60 s of common proxies, so that they close first."""
_NET_S = 30


class RestArbiter(Arbiter):
    """gunicorn's arbiter with a sign of life for the manager."""

    beat_descriptor = -1
    beat_interval_s = 1.0
    levels_descriptor = -1

    @cached_property
    def _levels(self) -> LevelsPipe:
        return LevelsPipe(self.levels_descriptor)

    def wait_for_signals(self, timeout: float = 1.0) -> list[int]:
        """Called once each turn of the arbiter's loop; turns are as quick as the manager wants the beats."""
        # The manager empties the pipe at every beat; a full one means that it is gone, and so are we soon.
        # What a beat raises would else end the arbiter, and it all REST fronts.
        contain("arbiter.beat", "this beat", self._beat)
        contain("arbiter.levels", "these levels", self._levels.follow)
        signals: list[int] = super().wait_for_signals(min(timeout, self.beat_interval_s))
        return signals

    def _beat(self) -> None:
        os.write(self.beat_descriptor, b".")

    def init_signals(self) -> None:
        """Take signals from now on, also those that came while this process was starting."""
        super().init_signals()
        release_log_signals()

    def spawn_worker(self) -> int:
        """Fork a REST front.

        What stops it waits until it has handlers of its own: those that it inherits would put the signal into a queue
        that nobody reads any more, and the stop would wait for it to the end of the grace period.
        """
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            pid: int = super().spawn_worker()
            return pid
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def handle_hup(self) -> None:
        """Reopen the log; gunicorn would replace all workers."""
        self.handle_usr1()

    def handle_usr2(self) -> None:
        """Reopen the log; gunicorn would start a second arbiter beside this one."""
        self.handle_usr1()

    def handle_ttin(self) -> None:
        """Nothing; gunicorn would start a worker more."""

    def handle_ttou(self) -> None:
        """Nothing; gunicorn would end a worker."""


class BeatFile(WorkerTmp):
    """The file by whose time stamp a REST front shows gunicorn that it lives: in memory.

    gunicorn's own is in the temporary directory, of which there may be none.
    """

    def __init__(self, cfg: Config) -> None:
        self._tmp = os.fdopen(os.memfd_create("ovms_mp-beat"), "w+b", 0)


def _without_guess(record: logging.LogRecord) -> bool:
    """Say only how a REST front ended: gunicorn guesses why, but the manager may have ended it, and logs its reason."""
    if isinstance(record.msg, str) and record.msg.startswith("Worker (pid:%s) was sent %s!"):
        record.msg = "event=front_ended pid=%s signal=%s"
        if record.levelno > logging.WARNING:
            record.levelno, record.levelname = logging.WARNING, "WARNING"
    return True


class ServerLogger(Logger):
    """gunicorn's log lines in our form: handed to the root logger, no handlers of their own."""

    def setup(self, cfg: Config) -> None:
        """Take no configuration but ours."""
        self.cfg = cfg
        for log in (self.error_log, self.access_log):
            log.handlers.clear()
            log.propagate = True
        self.error_log.addFilter(_without_guess)  # Added once, however often this is called.

    def reopen_files(self) -> None:
        """Take our log files by their names again; arbiter and workers are asked by SIGUSR1."""
        reopen_logs()

    def close_on_exec(self) -> None:
        """Nothing of ours survives an exec."""


class RestApplication(BaseApplication):
    """The application as gunicorn wants it: configuration, and a loader that runs in each worker after the fork."""

    def __init__(self, spec: RestSpec) -> None:
        self._spec = spec
        super().__init__()

    def load_config(self) -> None:
        """Set what we care about; gunicorn's defaults hold otherwise."""
        spec = self._spec
        settings: dict[str, object] = {
            "bind": [f"fd://{descriptor}" for descriptor in spec.listen_descriptors],
            "workers": spec.rest_workers,
            "worker_class": "ovms_mp.front.rest.gunicorn_worker.RestWorker",
            # The manager watches the workers' heartbeats and is quicker; this is the net below it.
            "timeout": max(_NET_S, int(spec.stuck_timeout_s) + 1),
            "graceful_timeout": max(1, int(spec.stop_grace_s)),
            "keepalive": KEEP_ALIVE_S,
            "control_socket_disable": True,
            "logger_class": ServerLogger,
            "loglevel": _gunicorn_level(spec.common.log_levels),
            "proc_name": "ovms_mp-rest",
            "post_fork": _post_fork(spec),
        }
        for name, value in settings.items():
            self.cfg.set(name, value)

    def load(self) -> object:
        """The ASGI application; called in the worker."""
        from ovms_mp.front.rest.app import create_app
        from ovms_mp.front.rest.early import answering_early
        from ovms_mp.front.rest.lifespan import Lifespan

        return answering_early(create_app(Lifespan(self._spec)))

    def run(self) -> None:
        """Run the arbiter; ends the process."""
        # gunicorn has no setting for it.
        gunicorn.workers.base.WorkerTmp = BeatFile
        RestArbiter.beat_descriptor = self._spec.beat_descriptor
        RestArbiter.levels_descriptor = self._spec.levels_descriptor
        RestArbiter.beat_interval_s = self._spec.common.heartbeat_interval_s
        RestArbiter(self).run()


def _gunicorn_level(levels: LogLevels) -> str:
    """In gunicorn's words, which end with ``critical``."""
    return logging.getLevelName(min(levels.threshold, logging.CRITICAL)).lower()


def _post_fork(spec: RestSpec) -> Callable[[Arbiter, Worker], None]:
    def post_fork(arbiter: Arbiter, worker: Worker) -> None:
        die_with_parent(arbiter.pid)
        configure_logging(
            spec.common.log_levels, spec.common.log_path, "rest", spec.common.run_id, spec.common.log_format
        )
        for name in ("uvicorn", "uvicorn.error"):
            # uvicorn's worker class takes the handlers of gunicorn's log, which has none: lines without form.
            log = logging.getLogger(name)
            log.handlers.clear()
            log.propagate = True

    return post_fork
