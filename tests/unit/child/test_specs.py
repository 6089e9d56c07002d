# SPDX-License-Identifier: Apache-2.0
"""Command lines of children: written and read again, and nothing else read as one."""

from __future__ import annotations

import json

import pytest

from ovms_mp.child.specs import (
    ChildSpec,
    CommonSpec,
    CpuShare,
    EngineSpec,
    FrontLimits,
    GrpcFrontSpec,
    ProbeSpec,
    RestSpec,
    WorkerSpec,
    spec_from_argument,
)
from ovms_mp.errors import BootError
from ovms_mp.log_levels import LogLevels
from ovms_mp.model.input_settings import InputSettings, InputShape
from ovms_mp.wire.records import ArenaHandle, ModelSettings

COMMON = CommonSpec(
    parent_pid=7,
    run_id="0a1b",
    control_endpoint="ipc://@x",
    log_levels=LogLevels(),
    log_path="",
    log_format="EVENTS",
    heartbeat_interval_s=0.5,
    heartbeat_timeout_s=10.0,
    boot_timeout_s=60.0,
    arenas=(ArenaHandle(5, 1 << 30), ArenaHandle(6, 1 << 30)),
)
LIMITS = FrontLimits(
    request_timeout_s=300.0,
    retry_window_s=0.9,
    max_message_bytes=1 << 30,
    max_unpacked_bytes=0,
    max_image_megapixels=32,
    max_body_memory_bytes=2 << 30,
)
SPECS: list[ChildSpec] = [
    WorkerSpec(
        child_id="worker-0.1",
        kind="worker",
        common=COMMON,
        device="AUTO:GPU,CPU",
        data_endpoint="ipc://@y",
        engine=EngineSpec('/opt/"odd" name.so', "/opt/plugins.xml"),
        cpu=CpuShare((0, 2), 2, False),
    ),
    ProbeSpec(
        child_id="probe.1",
        kind="probe",
        common=COMMON,
        handle=3,
        name="m\u00fc",
        version=2,
        model_file="/models/m/2/model.xml",
        settings=ModelSettings(
            "CPU", 0, {"NUM_STREAMS": 2}, InputSettings(shapes=(InputShape("x", None),)), True, 10, 1 << 30
        ),
        cache_directory="/run/cache",
        engine=EngineSpec(),
        cpu=CpuShare(),
    ),
    GrpcFrontSpec(
        child_id="grpc-0.2",
        kind="grpc",
        common=COMMON,
        limits=LIMITS,
        bind_addresses=("[::]:9000", "\u00fc:1"),
        has_typed_outputs=True,
        is_native=True,
    ),
    RestSpec(
        child_id="arbiter.1",
        kind="rest",
        common=COMMON,
        limits=LIMITS,
        listen_descriptors=(9, 10),
        beat_descriptor=11,
        levels_descriptor=12,
        rest_workers=2,
        client_timeout_s=60.0,
        stop_grace_s=30.0,
        stuck_timeout_s=120.0,
    ),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind)
def test_round_trip(spec: ChildSpec) -> None:
    argument = spec.to_argument()

    assert spec_from_argument(argument, type(spec)) == spec
    assert "\0" not in argument


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind)
def test_one_kinds_spec_is_not_anothers(spec: ChildSpec) -> None:
    for other in SPECS:
        if other is not spec:
            with pytest.raises(BootError):
                spec_from_argument(spec.to_argument(), type(other))


@pytest.mark.parametrize("argument", ["", "--help", "{}", "[]", "null", "{", SPECS[0].to_argument() + "}"])
def test_a_child_started_by_hand_says_so(argument: str) -> None:
    with pytest.raises(BootError) as caught:
        spec_from_argument(argument, WorkerSpec)

    assert caught.value.message.startswith("this process is started by the ovms_mp manager, not by hand")
    assert "ovms_mp --help" in caught.value.message


@pytest.mark.parametrize("place", [(), ("common",), ("common", "arenas", 0)])
def test_surplus_and_missing_and_wrong_fields(place: tuple[str | int, ...]) -> None:
    def changed(change: str) -> str:
        document = json.loads(SPECS[0].to_argument())
        body = document
        for step in place:
            body = body[step]
        if change == "surplus":
            body["surplus"] = 1
        elif change == "missing":
            del body[next(iter(body))]
        else:
            body[next(iter(body))] = {"a": 1}
        return json.dumps(document)

    for change in ("surplus", "missing", "wrong"):
        with pytest.raises(BootError):
            spec_from_argument(changed(change), WorkerSpec)
