# SPDX-License-Identifier: Apache-2.0
"""From the configuration to each child's command line (``manager/children/spec_maker.py``)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ovms_mp.child.specs import CpuShare, EngineSpec, FrontLimits, ProbeSpec, spec_from_argument
from ovms_mp.config.model import ModelConfig
from ovms_mp.config.observing import LogConfig
from ovms_mp.config.server import EngineConfig, LimitsConfig, ServerConfig, SupervisionConfig
from ovms_mp.config.transports import GrpcConfig, RestConfig
from ovms_mp.log_levels import LogLevels
from ovms_mp.manager.children.spec_maker import SpecMaker
from ovms_mp.manager.models.deployment import Deployment, settings_of
from ovms_mp.wire.records import ArenaHandle

from ..fakes import files

CONFIG = ServerConfig(
    models=(),
    grpc=GrpcConfig(port=9001, bind_address="[::], 127.0.0.1"),
    rest=RestConfig(port=8001, workers=2),
    limits=LimitsConfig(max_message_mb=3, max_unpacked_mb=2, max_body_memory_mb=5),
    supervision=SupervisionConfig(
        boot_timeout_s=7.0,
        heartbeat_interval_s=0.25,
        request_timeout_s=11.0,
        retry_window_s=0.5,
        stop_grace_s=13.0,
        stuck_timeout_s=17.0,
    ),
    engine=EngineConfig(cpu_extension="/ext.so", plugins_xml="/plugins.xml"),
    log=LogConfig(level="DEBUG", path="/log"),
)
ARENAS = (ArenaHandle(5, 1 << 20), ArenaHandle(6, 1 << 20))
SHARE = CpuShare((2, 3), 1, is_pinning_safe=False)
ENGINE = EngineSpec("/ext.so", "/plugins.xml")
LIMITS = FrontLimits(
    request_timeout_s=11.0,
    retry_window_s=0.5,
    max_message_bytes=3 << 20,
    max_unpacked_bytes=2 << 20,
    max_image_megapixels=32,
    max_body_memory_bytes=5 << 20,
)


@pytest.fixture
def maker() -> SpecMaker:
    return SpecMaker(CONFIG, "run7", "ipc://@control", ARENAS, 8 << 30, lambda: LogLevels(verbose=3))


def test_what_all_children_are_told(maker: SpecMaker) -> None:
    common = maker.worker("worker-0.1", "CPU", SHARE).common

    assert (common.parent_pid, common.run_id, common.control_endpoint) == (
        os.getpid(),
        "run7",
        "ipc://@control",
    )
    assert (common.log_levels, common.log_path) == (LogLevels(verbose=3), "/log")
    assert (common.heartbeat_interval_s, common.boot_timeout_s) == (0.25, 7.0)
    assert common.arenas == ARENAS
    assert maker.grpc_front("g").common == maker.arbiter("a", (), 1, 2).common == common


def test_a_worker(maker: SpecMaker) -> None:
    spec = maker.worker("worker-0.1", "AUTO:GPU,CPU", SHARE)

    assert (spec.child_id, spec.kind, spec.device) == ("worker-0.1", "worker", "AUTO:GPU,CPU")
    assert (spec.engine, spec.cpu) == (ENGINE, SHARE)
    assert spec_from_argument(spec.to_argument(), type(spec)) == spec


def test_a_probe(maker: SpecMaker) -> None:
    config = ModelConfig(name="m", base_path=Path("/models"), nireq=2, plugin_config={"A": "b", "C": 1.5})
    settings = settings_of(config, CONFIG.limits)
    deployment = Deployment(7, "m", 3, settings, files("3/model.xml"), cache_directory="/cache/7")
    spec = maker.probe("probe.1", deployment.load_message(), SHARE)

    assert (spec.child_id, spec.kind, spec.common.arenas) == ("probe.1", "probe", ARENAS)
    assert (spec.handle, spec.name, spec.version) == (7, "m", 3)
    assert (spec.model_file, spec.cache_directory) == ("/models/3/model.xml", "/cache/7")
    assert (spec.settings, spec.engine, spec.cpu) == (settings, ENGINE, SHARE)
    assert spec_from_argument(spec.to_argument(), ProbeSpec) == spec


def test_a_successor_takes_its_tasks_elsewhere(maker: SpecMaker) -> None:
    endpoints = {maker.worker("worker-0.1", "CPU", SHARE).data_endpoint for _ in range(20)}

    assert len(endpoints) == 20
    assert all(endpoint.startswith("ipc://@") for endpoint in endpoints)


def test_a_grpc_front(maker: SpecMaker) -> None:
    spec = maker.grpc_front("grpc-0.1")

    assert (spec.kind, spec.limits) == ("grpc", LIMITS)
    assert spec.bind_addresses == ("[::]:9001", "127.0.0.1:9001")


def test_the_arbiter(maker: SpecMaker) -> None:
    spec = maker.arbiter("arbiter.1", (9, 10), 11, 12)

    assert (spec.kind, spec.limits) == ("rest", LIMITS)
    assert (spec.listen_descriptors, spec.rest_workers) == ((9, 10), 2)
    assert (spec.beat_descriptor, spec.levels_descriptor) == (11, 12)
    assert (spec.stop_grace_s, spec.stuck_timeout_s) == (13.0, 17.0)


@pytest.mark.parametrize(
    ("memory_mib", "message_mb", "workers", "expected_mib"),
    [
        (32_768, 1025, 1, 4096),
        (32_768, 1025, 8, 1089),
        (2048, 1025, 1, 512),
        (256, 100, 1, 64),
        (128, 100, 1, 64),
    ],
)
def test_the_automatic_budget_of_bodies(
    memory_mib: int, message_mb: int, workers: int, expected_mib: int
) -> None:
    config = ServerConfig(
        models=(),
        grpc=GrpcConfig(workers=workers),
        rest=RestConfig(port=8001, workers=workers),
        limits=LimitsConfig(max_message_mb=message_mb),
    )
    maker = SpecMaker(config, "run", "ipc://@control", ARENAS, memory_mib << 20, LogLevels)

    assert maker.grpc_front("g").limits.max_body_memory_bytes == expected_mib << 20
