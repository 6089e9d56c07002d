# SPDX-License-Identifier: Apache-2.0
"""Rows of the settings table about the engine: infer requests, properties, devices."""

from __future__ import annotations

from typing import Any

from tests.support.settings_rows import PLUS_ONE, Fails, OnDevice, RefusedFile, Row, Serves, adds


def _tiny(*detail: str, nireq: int | None = None) -> Serves:
    return adds(1, 1, 10, detail=detail, nireq=nireq)


REQUESTS = (
    Row(name="nireq_absent", expected=_tiny("nireq=1", "hint=LATENCY", nireq=1)),
    Row(name="nireq_0", settings={"nireq": 0}, expected=_tiny("nireq=1", nireq=1)),
    Row(name="nireq_3", settings={"nireq": 3}, expected=_tiny("nireq=3", nireq=3)),
    Row(
        name="nireq_0_of_two_streams",
        settings={"nireq": 0, "plugin_config": {"NUM_STREAMS": "2"}},
        expected=_tiny("nireq=2", "streams=2", nireq=2),
    ),
)


def _plugin(name: str, config: dict[str, Any] | str, expected: Serves | Fails) -> Row:
    return Row(name=f"plugin_{name}", settings={"plugin_config": config}, expected=expected)


PLUGIN_CONFIGS = (
    _plugin("old_streams", {"CPU_THROUGHPUT_STREAMS": "2"}, _tiny("streams=2", "nireq=2", nireq=2)),
    _plugin("old_streams_number", {"CPU_THROUGHPUT_STREAMS": 2}, _tiny("streams=2", nireq=2)),
    _plugin("old_streams_auto", {"CPU_THROUGHPUT_STREAMS": "CPU_THROUGHPUT_AUTO"}, _tiny("hint=THROUGHPUT")),
    _plugin("old_threads", {"CPU_THREADS_NUM": "1"}, _tiny("threads=1")),
    _plugin("old_bind_no", {"CPU_BIND_THREAD": "NO"}, PLUS_ONE),
    _plugin("old_bind_yes", {"CPU_BIND_THREAD": "YES"}, PLUS_ONE),
    _plugin(
        "old_all",
        {"CPU_THROUGHPUT_STREAMS": "1", "CPU_THREADS_NUM": "1", "CPU_BIND_THREAD": "NO"},
        _tiny("streams=1", "threads=1", nireq=1),
    ),
    _plugin(
        "old_and_new",
        {"CPU_THROUGHPUT_STREAMS": "2", "NUM_STREAMS": "2"},
        Fails(("CPU_THROUGHPUT_STREAMS", "NUM_STREAMS")),
    ),
    _plugin("streams_text", {"NUM_STREAMS": "2"}, _tiny("streams=2", nireq=2)),
    _plugin("streams_number", {"NUM_STREAMS": 2}, _tiny("streams=2", nireq=2)),
    _plugin("as_text", '{"NUM_STREAMS": "2"}', _tiny("streams=2", nireq=2)),
    _plugin("threads_text", {"INFERENCE_NUM_THREADS": "1"}, _tiny("threads=1")),
    _plugin("threads_number", {"INFERENCE_NUM_THREADS": 1}, _tiny("threads=1")),
    _plugin("pinning_false", {"ENABLE_CPU_PINNING": False}, PLUS_ONE),
    _plugin("pinning_text", {"ENABLE_CPU_PINNING": "false"}, PLUS_ONE),
    _plugin("throughput", {"PERFORMANCE_HINT": "THROUGHPUT"}, _tiny("hint=THROUGHPUT")),
    _plugin(
        "throughput_of_one",
        {"PERFORMANCE_HINT": "THROUGHPUT", "PERFORMANCE_HINT_NUM_REQUESTS": "1"},
        _tiny("hint=THROUGHPUT", "streams=1", nireq=1),
    ),
    _plugin("latency", {"PERFORMANCE_HINT": "LATENCY"}, _tiny("hint=LATENCY", nireq=1)),
    _plugin("precision", {"INFERENCE_PRECISION_HINT": "f32"}, PLUS_ONE),
    _plugin(
        "streams_and_hint",
        {"NUM_STREAMS": "2", "PERFORMANCE_HINT": "THROUGHPUT"},
        Fails(("NUM_STREAMS", "PERFORMANCE_HINT")),
    ),
    _plugin("unknown_key", {"NUMBER_OF_STREAMS": "2"}, Fails(("NUMBER_OF_STREAMS", "NUM_STREAMS", "CPU"))),
    _plugin("unknown_value", {"PERFORMANCE_HINT": "FASTEST"}, Fails(("PERFORMANCE_HINT", "FASTEST"))),
    _plugin("old_streams_of_gpu", {"GPU_THROUGHPUT_STREAMS": "2"}, _tiny("streams=2", nireq=2)),
)


def _device(name: str, device: str, expected: Serves | Fails | OnDevice) -> Row:
    return Row(name=f"device_{name}", settings={"target_device": device}, expected=expected)


def _missing(name: str) -> Fails:
    """Which device is missing, which exist, and where to look."""
    return Fails(("target_device", name, "not available", "CPU", "ovms_mp devices"))


DEVICES = (
    _device("cpu", "CPU", PLUS_ONE),
    _device("cpu_small", "cpu", PLUS_ONE),
    _device("auto", "AUTO", _tiny("devices=CPU")),
    _device("auto_cpu", "AUTO:CPU", _tiny("devices=CPU")),
    _device("empty", "", _tiny("devices=CPU")),
    _device("multi", "MULTI:CPU", PLUS_ONE),
    _device("hetero", "HETERO:CPU", PLUS_ONE),
    _device("batch", "BATCH:CPU", PLUS_ONE),
    _device("batch_of_4", "BATCH:CPU(4)", PLUS_ONE),
    _device("gpu", "GPU", OnDevice("GPU", PLUS_ONE, _missing("GPU"))),
    _device("gpu_1", "GPU.1", OnDevice("GPU.1", PLUS_ONE, _missing("GPU.1"))),
    _device("npu", "NPU", OnDevice("NPU", PLUS_ONE, _missing("NPU"))),
    # Where there is no GPU, the candidate that exists is taken.
    _device("auto_gpu_cpu", "AUTO:GPU,CPU", PLUS_ONE),
    _device("hetero_gpu_cpu", "HETERO:GPU,CPU", OnDevice("GPU", PLUS_ONE, _missing("GPU"))),
    _device("multi_gpu_cpu", "MULTI:GPU,CPU", OnDevice("GPU", PLUS_ONE, _missing("GPU"))),
    _device("nvidia", "NVIDIA", OnDevice("NVIDIA", PLUS_ONE, _missing("NVIDIA"))),
    _device("unknown", "XYZ", _missing("XYZ")),
    _device("cpu_9", "CPU.9", _missing("CPU.9")),
)

_PLACE = "$.model_config_list[0].config."
REFUSED_ENGINE = (
    *(
        RefusedFile(f"device_{device}", {"target_device": device}, (_PLACE + "target_device", gone, *instead))
        for device, gone, instead in (
            ("MYRIAD", "MYRIAD", ("CPU", "GPU")),
            ("HDDL", "HDDL", ("CPU", "GPU")),
            ("VPUX", "VPUX", ("NPU",)),
            ("GNA", "GNA", ("NPU",)),
            ("FPGA", "FPGA", ("CPU", "GPU")),
            ("HETERO:FPGA,CPU", "FPGA", ("CPU", "GPU")),
            ("MULTI:MYRIAD.1,CPU", "MYRIAD", ("CPU", "GPU")),
        )
    ),
    RefusedFile("device_number", {"target_device": 1}, (_PLACE + "target_device", "1")),
    RefusedFile("nireq_huge", {"nireq": 100_001}, (_PLACE + "nireq", "100001", "100000")),
    RefusedFile("nireq_text", {"nireq": "4"}, (_PLACE + "nireq", '"4"')),
    RefusedFile(
        "plugin_nested", {"plugin_config": {"DEVICE_PROPERTIES": {"CPU": {}}}}, ("DEVICE_PROPERTIES",)
    ),
    RefusedFile("plugin_text", {"plugin_config": "{NUM_STREAMS}"}, (_PLACE + "plugin_config",)),
    RefusedFile("allow_cache", {"allow_cache": "yes"}, (_PLACE + "allow_cache", '"yes"', "true or false")),
    RefusedFile("base_path_up", {"base_path": "../models"}, (_PLACE + "base_path", "..")),
    RefusedFile(
        "policy",
        {"model_version_policy": {"latests": {}}},
        (_PLACE + "model_version_policy", "latest", "specific", "all"),
    ),
)
