# SPDX-License-Identifier: Apache-2.0
"""The life of a gRPC front process: session, server, drain, exit."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

import uvloop

from ovms_mp.errors import ExitCode, OvmsError
from ovms_mp.front.grpc.server import create_server
from ovms_mp.front.grpc.servicer import TfsServicer
from ovms_mp.front.session import FrontSession
from ovms_mp.wire.process import run_child
from ovms_mp.wire.specs import GrpcFrontSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

_log = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> int:
    """Run the front; its exit code."""
    return run_child(arguments, GrpcFrontSpec, lambda _: "grpc", _run)


def _run(spec: GrpcFrontSpec) -> int:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(spec))


async def _serve(spec: GrpcFrontSpec) -> int:
    session = FrontSession(spec, spec.child_id)
    try:
        await session.start()
        methods = TfsServicer(session.service, has_typed_outputs=spec.has_typed_outputs).methods()
        server = create_server(methods, spec.bind_addresses, spec.limits.max_message_bytes)
        await server.start()
    except OvmsError as error:
        _log.error("event=boot_failed error=%s", error)
        session.report_boot_failure(error)
        return ExitCode.BOOT_FAILED
    session.report_ready()
    await session.drain_requested.wait()
    # GOAWAY to every client, then calls in flight end by themselves or with the grace period.
    grace_s = max(0.0, (session.drain_deadline_ns - time.monotonic_ns()) / 1e9)
    await server.stop(grace_s)
    await session.finish()
    return ExitCode.CLEAN
