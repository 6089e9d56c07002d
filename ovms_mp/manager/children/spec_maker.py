# SPDX-License-Identifier: Apache-2.0
"""From the server's configuration to each child's command line."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.child.specs import (
    AccessSpec,
    CommonSpec,
    EngineSpec,
    FetcherSpec,
    FrontLimits,
    GrpcFrontSpec,
    OriginSpec,
    PageSpec,
    ProbeSpec,
    RestSpec,
    Watching,
    WorkerSpec,
)
from ovms_mp.config.server import MEBIBYTE
from ovms_mp.manager.children.kinds import Kind
from ovms_mp.model.metric_names import INFER_REQUESTS_ACTIVE
from ovms_mp.places import usable_cores
from ovms_mp.wire.channels import new_endpoint
from ovms_mp.wire.records import NO_COUNTERS, ArenaHandle, CountersHandle, TraceSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovms_mp.child.specs import CpuShare
    from ovms_mp.config.server import ServerConfig
    from ovms_mp.log_levels import LogLevels
    from ovms_mp.wire.messages import LoadModel


_BODIES_PART = 4
_LEAST_BODIES_BYTES = 64 * MEBIBYTE


@dataclass(frozen=True, slots=True)
class SpecMaker:
    """What is the same for all children of one run.

    Attributes:
        memory_bytes: What the machine, or this process's cgroup, has.
        levels: What is logged at this moment.
        make_endpoint: Makes a new address for a worker's socket.
        counters: Where all children count.
    """

    config: ServerConfig
    run_id: str
    control_endpoint: str
    arenas: tuple[ArenaHandle, ...]
    memory_bytes: int
    levels: Callable[[], LogLevels]
    make_endpoint: Callable[[], str] = new_endpoint
    counters: CountersHandle = NO_COUNTERS

    def worker(
        self, child_id: str, device: str, share: CpuShare, run_page: int = -1, counter_row: int = -1
    ) -> WorkerSpec:
        """An inference worker; its data endpoint is new for every process."""
        return WorkerSpec(
            child_id=child_id,
            kind=Kind.WORKER.value,
            common=self._common(),
            device=device,
            data_endpoint=self.make_endpoint(),
            engine=self._engine(),
            cpu=share,
            run_page=run_page,
            counter_row=counter_row,
            has_metrics=INFER_REQUESTS_ACTIVE in self.config.metrics.names,
        )

    def probe(self, child_id: str, load: LoadModel, share: CpuShare) -> ProbeSpec:
        """The trial of what a worker would be told to load."""
        return ProbeSpec(
            child_id=child_id,
            kind=Kind.PROBE.value,
            common=self._common(),
            handle=load.handle,
            name=load.name,
            version=load.version,
            model_file=load.model_file,
            settings=load.settings,
            cache_directory=load.cache_directory,
            engine=self._engine(),
            cpu=share,
        )

    def fetcher(self, child_id: str) -> FetcherSpec:
        """What downloads models from object stores."""
        return FetcherSpec(child_id=child_id, kind=Kind.FETCHER.value, common=self._common())

    def grpc_front(
        self, child_id: str, listen_descriptors: tuple[int, ...] = (), *, has_port: bool = True
    ) -> GrpcFrontSpec:
        """A gRPC front.

        Args:
            child_id: Its own.
            listen_descriptors: Sockets that it shares with others.
            has_port: Whether it listens on the port by itself, too.
        """
        config = self.config
        hosts = config.grpc.hosts if has_port else ()
        return GrpcFrontSpec(
            child_id=child_id,
            kind=Kind.GRPC.value,
            common=self._common(),
            limits=self._limits(),
            metrics=self.config.metrics.names,
            access=self._access(),
            tls=self.config.tls.files,
            watching=self._watching(),
            has_typed_outputs=config.grpc.output_encoding == "TYPED_FIELDS",
            is_native=config.grpc.front == "native",
            bind_addresses=tuple(f"{_bracketed(address)}:{config.grpc.port}" for address in hosts),
            listen_descriptors=listen_descriptors,
        )

    def arbiter(
        self, child_id: str, listen_descriptors: tuple[int, ...], beat_descriptor: int, levels_descriptor: int
    ) -> RestSpec:
        """The gunicorn arbiter and, through it, the REST fronts."""
        config = self.config
        return RestSpec(
            child_id=child_id,
            kind=Kind.REST.value,
            common=self._common(),
            limits=self._limits(),
            metrics=self.config.metrics.names,
            access=self._access(),
            tls=self.config.tls.files,
            watching=self._watching(),
            listen_descriptors=listen_descriptors,
            beat_descriptor=beat_descriptor,
            levels_descriptor=levels_descriptor,
            rest_workers=config.rest.workers,
            prefix=config.rest.prefix,
            page=self._page(),
            origins=OriginSpec(
                origins=config.access.origins,
                methods=config.access.methods,
                headers=config.access.headers,
                allows_credentials=config.access.allow_credentials,
            ),
            client_timeout_s=config.rest.client_timeout_s,
            stop_grace_s=config.supervision.stop_grace_s,
            stuck_timeout_s=config.supervision.stuck_timeout_s,
        )

    def _page(self) -> PageSpec | None:
        config = self.config
        if not config.rest.has_page:
            return None
        return PageSpec(
            grpc_port=config.grpc.tcp_port,
            is_secure=config.tls.files is not None,
            may_change_state=config.clients.may_change_state,
            cores=tuple(sorted(usable_cores())),
            fleet_file=config.rest.fleet_file,
        )

    def _common(self) -> CommonSpec:
        supervision = self.config.supervision
        return CommonSpec(
            parent_pid=os.getpid(),
            run_id=self.run_id,
            control_endpoint=self.control_endpoint,
            log_levels=self.levels(),
            log_path=self.config.log.path,
            log_format=self.config.log.form,
            heartbeat_interval_s=supervision.heartbeat_interval_s,
            heartbeat_timeout_s=supervision.heartbeat_timeout_s,
            boot_timeout_s=supervision.boot_timeout_s,
            arenas=self.arenas,
            counters=self.counters,
        )

    def _engine(self) -> EngineSpec:
        return EngineSpec(self.config.engine.cpu_extension, self.config.engine.plugins_xml)

    def _watching(self) -> Watching:
        trace = self.config.trace
        return Watching(
            access_log=self.config.log.access,
            trace=TraceSettings() if trace.is_on else None,
            most_spans=trace.most_spans,
        )

    def _limits(self) -> FrontLimits:
        supervision = self.config.supervision
        return FrontLimits(
            request_timeout_s=supervision.request_timeout_s,
            retry_window_s=supervision.retry_window_s,
            max_message_bytes=self.config.limits.max_message_mb * MEBIBYTE,
            max_unpacked_bytes=self.config.limits.max_unpacked_mb * MEBIBYTE,
            max_image_megapixels=self.config.limits.max_image_megapixels,
            max_body_memory_bytes=self._body_memory_bytes(),
            allows_client_shm=self.config.clients.allows_shm,
            max_requests_per_client=self.config.clients.max_requests,
        )

    def _access(self) -> AccessSpec:
        access = self.config.access
        return AccessSpec(
            needs_key=bool(access.api_key_file),
            needs_admin_key=bool(access.admin_api_key_file),
            trusted_proxies=access.proxies,
        )

    def _body_memory_bytes(self) -> int:
        """A front's budget; an automatic one has room for a longest request while the machine has."""
        config = self.config
        if config.limits.max_body_memory_mb:
            return config.limits.max_body_memory_mb * MEBIBYTE
        share = self.memory_bytes // _BODIES_PART
        longest = config.limits.max_message_mb * MEBIBYTE + _LEAST_BODIES_BYTES
        return max(_LEAST_BODIES_BYTES, share // max(1, count_fronts(config)), min(share, longest))


def count_fronts(config: ServerConfig) -> int:
    """How many front processes a server has, each with an arena."""
    return (config.grpc.workers if config.grpc.is_served else 0) + (
        config.rest.workers if config.rest.is_served else 0
    )


def _bracketed(address: str) -> str:
    """An IPv6 address needs brackets before a port can follow."""
    return f"[{address}]" if ":" in address and not address.startswith("[") else address
