# SPDX-License-Identifier: Apache-2.0
"""The life of a gRPC front process: session, server, drain, exit."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Protocol

import uvloop

from ovms_mp.child.control import ControlLink
from ovms_mp.child.process import run_child
from ovms_mp.child.specs import GrpcFrontSpec
from ovms_mp.codes import ExitCode
from ovms_mp.errors import OvmsError
from ovms_mp.front.grpc.bodies import UnpackedLimits
from ovms_mp.front.methods import by_path
from ovms_mp.front.protocols import all_methods
from ovms_mp.front.served_protocol import MessageParts
from ovms_mp.front.session import FrontSession

if TYPE_CHECKING:
    from collections.abc import Sequence

_log = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> int:
    """Run the front; its exit code."""
    return run_child(arguments, GrpcFrontSpec, lambda _: "grpc", _run)


def _run(spec: GrpcFrontSpec) -> int:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(spec))


class Server(Protocol):
    """What both transports offer."""

    async def stop(self, grace: float) -> None:
        """Take no further calls; end when those in flight have, or after so many seconds."""


async def _start_server(spec: GrpcFrontSpec, session: FrontSession) -> Server:
    leases, service = session.leases, session.service
    parts = MessageParts(
        service=service,
        lease=leases.lease_arriving,
        release=leases.release,
        memory=leases.memory,
        unpacked_limit=UnpackedLimits(lambda: service.table, spec.limits).of_request,
        has_typed_outputs=spec.has_typed_outputs,
        gate=session.gate,
    )
    methods = by_path(all_methods(parts))
    # Either transport is imported only where it carries the calls: grpcio costs 20 MB and some threads.
    if spec.is_native:
        from ovms_mp.front.grpc.native import start_native_server

        addresses: list[str | int] = [*spec.listen_descriptors, *spec.bind_addresses]
        return await start_native_server(
            methods, leases.free_bytes, addresses, spec.limits, session.gate, spec.tls
        )
    from ovms_mp.front.grpc.grpcio import create_server
    from ovms_mp.front.grpc.grpcio_credentials import following_credentials

    credentials = await following_credentials(spec.tls) if spec.tls else None
    server = create_server(methods, spec.bind_addresses, spec.limits, session.gate, credentials)
    await server.start()
    return server


async def _serve(spec: GrpcFrontSpec) -> int:
    control = ControlLink(spec, spec.child_id)
    try:
        session = await FrontSession.open(spec, control)
        server = await _start_server(spec, session)
    except OvmsError as error:
        _log.error("event=boot_failed error=%s", error)
        control.report_boot_failure(error)
        return ExitCode.BOOT_FAILED
    session.report_ready()
    await session.drain_requested.wait()
    # GOAWAY to every client, then calls in flight end by themselves or with the grace period.
    grace_s = max(0.0, (session.drain_deadline_ns - time.monotonic_ns()) / 1e9)
    await server.stop(grace_s)
    await session.finish()
    return ExitCode.CLEAN
