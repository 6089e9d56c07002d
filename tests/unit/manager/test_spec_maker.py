# SPDX-License-Identifier: Apache-2.0
"""From the configuration to each child's command line (``manager/specs.py``)."""

from __future__ import annotations

import os

import pytest

from ovms_mp.config import (
    EngineConfig,
    GrpcConfig,
    LimitsConfig,
    LogConfig,
    RestConfig,
    ServerConfig,
    SupervisionConfig,
)
from ovms_mp.manager.specs import SpecMaker
from ovms_mp.wire.specs import ArenaHandle, FrontLimits, spec_from_argument

CONFIG = ServerConfig(
    models=(),
    grpc=GrpcConfig(port=9001, bind_address="[::], 127.0.0.1"),
    rest=RestConfig(port=8001, workers=2),
    limits=LimitsConfig(max_message_mb=3),
    supervision=SupervisionConfig(
        boot_timeout_s=7.0,
        heartbeat_interval_s=0.25,
        request_timeout_s=11.0,
        retry_window_s=0.5,
        stop_grace_s=13.0,
        stuck_timeout_s=17.0,
    ),
    engine=EngineConfig(cpu_extension="/ext.so"),
    log=LogConfig(level="DEBUG", path="/log"),
)
ARENAS = (ArenaHandle(5, 1 << 20), ArenaHandle(6, 1 << 20))
LIMITS = FrontLimits(request_timeout_s=11.0, retry_window_s=0.5, max_message_bytes=3 << 20)


@pytest.fixture
def maker() -> SpecMaker:
    return SpecMaker(CONFIG, "run7", "ipc://@control", ARENAS)


def test_what_all_children_are_told(maker: SpecMaker) -> None:
    common = maker.worker("worker-0.1", "CPU").common

    assert (common.parent_pid, common.run_id, common.control_endpoint) == (
        os.getpid(),
        "run7",
        "ipc://@control",
    )
    assert (common.log_level, common.log_path) == ("DEBUG", "/log")
    assert (common.heartbeat_interval_s, common.boot_timeout_s) == (0.25, 7.0)
    assert common.arenas == ARENAS
    assert maker.grpc_front("g").common == maker.arbiter("a", (), 1).common == common


def test_a_worker(maker: SpecMaker) -> None:
    spec = maker.worker("worker-0.1", "AUTO:GPU,CPU")

    assert (spec.child_id, spec.kind, spec.device) == ("worker-0.1", "worker", "AUTO:GPU,CPU")
    assert spec.cpu_extension == "/ext.so"
    assert spec_from_argument(spec.to_argument(), type(spec)) == spec


def test_a_successor_takes_its_tasks_elsewhere(maker: SpecMaker) -> None:
    endpoints = {maker.worker("worker-0.1", "CPU").data_endpoint for _ in range(20)}

    assert len(endpoints) == 20
    assert all(endpoint.startswith("ipc://@") for endpoint in endpoints)


def test_a_grpc_front(maker: SpecMaker) -> None:
    spec = maker.grpc_front("grpc-0.1")

    assert (spec.kind, spec.limits) == ("grpc", LIMITS)
    assert spec.bind_addresses == ("[::]:9001", "127.0.0.1:9001")


def test_the_arbiter(maker: SpecMaker) -> None:
    spec = maker.arbiter("arbiter.1", (9, 10), 11)

    assert (spec.kind, spec.limits) == ("rest", LIMITS)
    assert (spec.listen_descriptors, spec.beat_descriptor, spec.rest_workers) == ((9, 10), 11, 2)
    assert (spec.stop_grace_s, spec.stuck_timeout_s) == (13.0, 17.0)
