# SPDX-License-Identifier: Apache-2.0
"""Device strings: what is read, what is none, and what each of them names."""

from __future__ import annotations

import pytest

from ovms_mp.errors import ConfigError
from ovms_mp.model.devices import (
    OPENVINO_DEVICES,
    RETIRED_DEVICES,
    advice_on,
    engine_device,
    may_use_cpu,
    meta_device,
    named_devices,
    parse_device,
)


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("", "AUTO"),
        ("  ", "AUTO"),
        ("cpu", "CPU"),
        ("gpu.0", "GPU.0"),
        ("auto:gpu.1,-npu", "AUTO:GPU.1,-NPU"),
        ("Batch:GPU(16)", "BATCH:GPU(16)"),
        ("MULTI: GPU , CPU", "MULTI:GPU,CPU"),
        ("nvidia", "NVIDIA"),
        ("myDevice", "myDevice"),
        ("HETERO:myDevice,cpu", "HETERO:myDevice,CPU"),
        ("CPUX", "CPUX"),
    ],
)
def test_devices(text: str, device: str) -> None:
    assert parse_device(text) == device


@pytest.mark.parametrize("pattern", ["{}", "{}.1", "MULTI:{},CPU", "HETERO:cpu,{}", "{}_SW"])
@pytest.mark.parametrize("name", RETIRED_DEVICES)
def test_retired_devices_are_refused_wherever_they_stand(name: str, pattern: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is .*; use "):
        parse_device(pattern.format(name.lower()))


@pytest.mark.parametrize("value", [0, None, ["CPU"], "CPU\x00", "\x1b[2J"])
def test_what_is_no_device(value: object) -> None:
    with pytest.raises(ConfigError):
        parse_device(value)


@pytest.mark.parametrize(
    ("device", "named", "meta", "uses_cpu"),
    [
        ("CPU", ("CPU",), "", True),
        ("", (), "AUTO", True),
        ("AUTO", (), "AUTO", True),
        ("AUTO:GPU.1,CPU", ("GPU.1", "CPU"), "AUTO", True),
        ("AUTO:-GPU", (), "AUTO", True),
        ("AUTO:-CPU", (), "AUTO", False),
        ("GPU.0", ("GPU.0",), "", False),
        ("BATCH:GPU.1(16)", ("GPU.1",), "BATCH", False),
        ("HETERO:GPU,CPU", ("GPU", "CPU"), "HETERO", True),
        ("MULTI:BATCH:GPU(4),CPU", ("GPU", "CPU"), "MULTI", True),
        ("CPU.0", ("CPU.0",), "", True),
        ("MULTI:CPU.0,GPU", ("CPU.0", "GPU"), "MULTI", True),
        ("HETERO:GPU,CPU.0", ("GPU", "CPU.0"), "HETERO", True),
        ("BATCH:CPU.0(4)", ("CPU.0",), "BATCH", True),
        ("AUTO:-CPU.0", (), "AUTO", False),
        ("AUTO:GPU,-CPU", ("GPU",), "AUTO", False),
        ("cpu", ("cpu",), "", True),
        ("auto: gpu, cpu", ("gpu", "cpu"), "AUTO", True),
        ("CPUX", ("CPUX",), "", False),
    ],
)
def test_device_strings(device: str, named: tuple[str, ...], meta: str, uses_cpu: bool) -> None:
    assert (named_devices(device), meta_device(device), may_use_cpu(device)) == (named, meta, uses_cpu)


def test_the_empty_device_is_autos_choice() -> None:
    assert (engine_device(""), engine_device(" "), engine_device("GPU.1")) == ("AUTO", "AUTO", "GPU.1")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("GPU.1", "libOpenCL.so.1"),
        ("NPU", "intel-level-zero-npu"),
        ("MYRIAD", "MYRIAD is gone since OpenVINO 2023.0; use CPU, GPU"),
        ("HDDL", "HDDL is gone since OpenVINO 2023.0"),
        ("GNA", "GNA is gone since OpenVINO 2024.0"),
        ("FPGA", "use CPU or GPU"),
        ("VPUX", "VPUX is called NPU now"),
        ("NVIDIA", "--plugins_xml"),
    ],
)
def test_advice_on_what_is_missing(name: str, expected: str) -> None:
    assert expected in advice_on(name)


@pytest.mark.parametrize("name", OPENVINO_DEVICES)
def test_a_device_of_the_table_is_read_in_any_case_and_has_advice(name: str) -> None:
    assert parse_device(f"auto:{name.lower()}.1") == f"AUTO:{name}.1"
    assert advice_on(f"{name}.1") == OPENVINO_DEVICES[name]
