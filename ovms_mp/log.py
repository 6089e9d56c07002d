# SPDX-License-Identifier: Apache-2.0
"""The log's form, the same in every process.

The first fields are those of the legacy server's log, which scripts match; then come the process's kind and
pid and the run that it belongs to.
"""

from __future__ import annotations

import logging
import os
import sys

LEVELS = ("TRACE", "DEBUG", "INFO", "WARNING", "ERROR")


def configure_logging(level: str, log_path: str, kind: str, run_id: str) -> None:
    """Send this process's log to stderr, and to ``log_path`` when it is not empty.

    Raises:
        OSError: ``log_path`` cannot be opened for appending.
    """
    form = f"%(asctime)s - %(name)s - %(levelname)s - [{kind} pid={os.getpid()} run={run_id}] %(message)s"
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if log_path:
        handlers.append(logging.FileHandler(log_path))
    # TRACE is the modern server's word; the standard library's lowest named level is the nearest.
    threshold = "DEBUG" if level.upper() == "TRACE" else level.upper()
    logging.basicConfig(level=threshold, format=form, handlers=handlers, force=True)
    # grpc.aio logs every cancelled call at DEBUG through asyncio; nothing of ours.
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    # At DEBUG it prints every header, those with credentials among them.
    logging.getLogger("hpack").setLevel(logging.WARNING)
