# SPDX-License-Identifier: Apache-2.0
"""What becomes of gunicorn's own log lines."""

from __future__ import annotations

import logging

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
