# SPDX-License-Identifier: Apache-2.0
"""The command line that the echo servers have in common, and their life: ready, then until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from typing import TYPE_CHECKING

import uvloop

from perf.floors import READY_TEXTS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def run_echo(description: str, serve: Callable[[int, int], Awaitable[None]]) -> None:
    """Run a server on uvloop.

    Args:
        description: For ``--help``.
        serve: Serves on a port of 127.0.0.1 until SIGTERM, with answers of so many bytes; -1 echoes the request.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument(
        "--response-bytes", type=int, default=-1, help="size of the answer; -1 echoes the request"
    )
    arguments = parser.parse_args()

    async def begin() -> None:
        await serve(arguments.port, arguments.response_bytes)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(begin())


async def until_stopped(name: str) -> None:
    """Say that the server ``name`` is ready, and return at SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    sys.stdout.write(READY_TEXTS[name] + "\n")
    sys.stdout.flush()
    await stop.wait()
