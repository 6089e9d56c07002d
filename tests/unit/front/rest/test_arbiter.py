# SPDX-License-Identifier: Apache-2.0
"""gunicorn's own log lines, and a stop while it forks."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys

import pytest
from gunicorn.config import Config

from ovms_mp.front.rest.arbiter import ServerLogger


@pytest.mark.parametrize(
    ("level", "name", "expected"),
    [("INFO", "SIGTERM", "INFO"), ("WARNING", "SIGSEGV", "WARNING"), ("ERROR", "SIGKILL", "WARNING")],
)
def test_it_does_not_guess_why_a_front_ended(
    level: str, name: str, expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    guess = " Perhaps out of memory?" if name == "SIGKILL" else ""
    log = ServerLogger(Config())
    with caplog.at_level("DEBUG", "gunicorn.error"):
        log.error_log.log(logging.getLevelName(level), "Worker (pid:%s) was sent %s!" + guess, 7, name)
        log.error_log.error("Worker (pid:%s) exited with code %s.", 7, 3)

    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        (expected, f"event=front_ended pid=7 signal={name}"),
        ("ERROR", "Worker (pid:7) exited with code 3."),
    ]


_STOPPED_AT_THE_FORK = """
import os, signal, sys
from gunicorn.app.base import BaseApplication
from ovms_mp.front.rest.arbiter import RestArbiter

class Application(BaseApplication):
    def load_config(self):
        self.cfg.set("bind", ["127.0.0.1:0"])
        self.cfg.set("worker_class", "ovms_mp.front.rest.gunicorn_worker.RestWorker")
        self.cfg.set("graceful_timeout", 60)
        self.cfg.set("control_socket_disable", True)
    def load(self):
        raise AssertionError("the front has taken no notice")

read, RestArbiter.beat_descriptor = os.pipe()
# The moment in which a stop was lost: the front has no handlers of its own yet.
os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGTERM))
arbiter = RestArbiter(Application())
arbiter.start()
pid = arbiter.spawn_worker()
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_a_stop_in_the_moment_of_the_fork_is_not_lost() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _STOPPED_AT_THE_FORK], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == [str(-signal.SIGTERM)], done.stderr
