# SPDX-License-Identifier: Apache-2.0
"""``plugin_config`` to compile properties: translation and contradictions, and what a device lets pass."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import pytest

from ovms_mp.child.specs import CpuShare
from ovms_mp.errors import DeviceUnavailable
from ovms_mp.model.input_settings import BatchSize, InputSettings, InputShape
from ovms_mp.wire.records import ModelSettings
from ovms_mp.worker.engine.device_names import candidates, is_present
from ovms_mp.worker.engine.properties import compile_properties, supported_properties, translate

Value = str | int | float | bool
LATENCY: dict[str, object] = {"PERFORMANCE_HINT": "LATENCY"}

TRANSLATED: dict[str, tuple[dict[str, Value], dict[str, object]]] = {
    "nothing": ({}, LATENCY),
    "hint": ({"PERFORMANCE_HINT": "THROUGHPUT"}, {"PERFORMANCE_HINT": "THROUGHPUT"}),
    "hint in small letters": ({"PERFORMANCE_HINT": "latency"}, LATENCY),
    "streams": ({"NUM_STREAMS": 4}, {"NUM_STREAMS": 4}),
    "streams as text": ({"NUM_STREAMS": "4"}, {"NUM_STREAMS": 4}),
    "streams as a float": ({"NUM_STREAMS": 4.0}, {"NUM_STREAMS": 4}),
    "streams as a word": ({"NUM_STREAMS": "auto"}, {"NUM_STREAMS": "AUTO"}),
    "threads as text": ({"INFERENCE_NUM_THREADS": "2"}, LATENCY | {"INFERENCE_NUM_THREADS": 2}),
    "pinning as text": ({"ENABLE_CPU_PINNING": "NO"}, LATENCY | {"ENABLE_CPU_PINNING": False}),
    "pinning as another text": ({"ENABLE_CPU_PINNING": "true"}, LATENCY | {"ENABLE_CPU_PINNING": True}),
    "pinning as a number": ({"ENABLE_CPU_PINNING": 0}, LATENCY | {"ENABLE_CPU_PINNING": False}),
    "timeout as text": ({"AUTO_BATCH_TIMEOUT": "200"}, LATENCY | {"AUTO_BATCH_TIMEOUT": 200}),
    "what we do not know": ({"SOME_KEY": "2"}, LATENCY | {"SOME_KEY": "2"}),
    "legacy automatic streams": (
        {"CPU_THROUGHPUT_STREAMS": "CPU_THROUGHPUT_AUTO"},
        {"PERFORMANCE_HINT": "THROUGHPUT"},
    ),
    "legacy automatic streams of a GPU": (
        {"GPU_THROUGHPUT_STREAMS": "GPU_THROUGHPUT_AUTO"},
        {"PERFORMANCE_HINT": "THROUGHPUT"},
    ),
    "legacy streams": ({"CPU_THROUGHPUT_STREAMS": "8"}, {"NUM_STREAMS": 8}),
    "legacy streams as a number": ({"GPU_THROUGHPUT_STREAMS": 2}, {"NUM_STREAMS": 2}),
    "legacy streams by NUMA node": (
        {"CPU_THROUGHPUT_STREAMS": "CPU_THROUGHPUT_NUMA"},
        {"NUM_STREAMS": "NUMA"},
    ),
    "legacy threads": ({"CPU_THREADS_NUM": "3"}, LATENCY | {"INFERENCE_NUM_THREADS": 3}),
    "legacy binding": ({"CPU_BIND_THREAD": "YES"}, LATENCY | {"ENABLE_CPU_PINNING": True}),
    "legacy binding to nodes": ({"CPU_BIND_THREAD": "NUMA"}, LATENCY | {"ENABLE_CPU_PINNING": True}),
    "no legacy binding": ({"CPU_BIND_THREAD": "NO"}, LATENCY | {"ENABLE_CPU_PINNING": False}),
    "affinity": ({"AFFINITY": "NONE"}, LATENCY | {"ENABLE_CPU_PINNING": False}),
    "oldest names": (
        {"KEY_CPU_THROUGHPUT_STREAMS": "2", "KEY_CPU_BIND_THREAD": "NO"},
        {"NUM_STREAMS": 2, "ENABLE_CPU_PINNING": False},
    ),
    "properties of devices": (
        {"DEVICE_PROPERTIES": '{"CPU": {"NUM_STREAMS": 2}}'},
        LATENCY | {"DEVICE_PROPERTIES": {"CPU": {"NUM_STREAMS": 2}}},
    ),
}

REFUSED: dict[str, tuple[dict[str, Value], list[str]]] = {
    "streams and hint": (
        {"NUM_STREAMS": 2, "PERFORMANCE_HINT": "LATENCY"},
        ["NUM_STREAMS=2 and PERFORMANCE_HINT=LATENCY contradict each other", "leave one out"],
    ),
    "legacy streams and hint": (
        {"CPU_THROUGHPUT_STREAMS": 2, "PERFORMANCE_HINT": "LATENCY"},
        ["CPU_THROUGHPUT_STREAMS (today NUM_STREAMS=2) and PERFORMANCE_HINT=LATENCY contradict"],
    ),
    "both forms of streams": (
        {"CPU_THROUGHPUT_STREAMS": "2", "NUM_STREAMS": 2},
        ["Tried to set the same key twice in plugin config: CPU_THROUGHPUT_STREAMS and NUM_STREAMS"],
    ),
    "both forms of the hint": (
        {"CPU_THROUGHPUT_STREAMS": "CPU_THROUGHPUT_AUTO", "PERFORMANCE_HINT": "LATENCY"},
        ["Tried to set the same key twice", "PERFORMANCE_HINT"],
    ),
    "streams of two devices": (
        {"CPU_THROUGHPUT_STREAMS": "1", "GPU_THROUGHPUT_STREAMS": "2"},
        ["Tried to set the same key twice", "GPU_THROUGHPUT_STREAMS"],
    ),
    "both forms of threads": (
        {"CPU_THREADS_NUM": 1, "INFERENCE_NUM_THREADS": 2},
        ["Tried to set the same key twice", "INFERENCE_NUM_THREADS of CPU"],
    ),
    "both forms of binding": (
        {"CPU_BIND_THREAD": "NO", "ENABLE_CPU_PINNING": False},
        ["Tried to set the same key twice", "ENABLE_CPU_PINNING"],
    ),
    "with and without KEY_": (
        {"KEY_PERF_COUNT": "YES", "PERF_COUNT": "YES"},
        ["Tried to set the same key twice"],
    ),
    "streams that are no number": (
        {"NUM_STREAMS": "many"},
        ["NUM_STREAMS='many' does not fit; accepted: an integer of at least 0 or AUTO or NUMA"],
    ),
    "half a stream": ({"NUM_STREAMS": 1.5}, ["NUM_STREAMS=1.5 does not fit"]),
    "true streams": ({"NUM_STREAMS": True}, ["NUM_STREAMS=True does not fit"]),
    "negative streams": ({"NUM_STREAMS": -2}, ["NUM_STREAMS=-2 does not fit"]),
    "endless threads": ({"INFERENCE_NUM_THREADS": float("inf")}, ["INFERENCE_NUM_THREADS=inf does not fit"]),
    "unclear pinning": ({"ENABLE_CPU_PINNING": "perhaps"}, ["accepted: YES, NO, true or false"]),
    "unknown hint": (
        {"PERFORMANCE_HINT": "FAST"},
        ["accepted: one of LATENCY, THROUGHPUT, CUMULATIVE_THROUGHPUT"],
    ),
    "legacy threads that are no number": ({"CPU_THREADS_NUM": "all"}, ["CPU_THREADS_NUM='all' does not fit"]),
    "properties of devices that are no JSON": (
        {"DEVICE_PROPERTIES": "{CPU:"},
        ["an object of objects as JSON"],
    ),
    "properties of devices that are no objects": (
        {"DEVICE_PROPERTIES": '{"CPU": 2}'},
        ["an object of objects"],
    ),
}


@pytest.mark.parametrize("name", TRANSLATED)
def test_translated(name: str) -> None:
    given, expected = TRANSLATED[name]

    properties, notices = translate(given, "CPU")

    assert properties == expected
    assert {key: type(value) for key, value in properties.items()} == {
        key: type(value) for key, value in expected.items()
    }
    renamed = [key for key in given if key not in properties]
    assert len(notices) == len(renamed)
    assert all(key in notice for key, notice in zip(renamed, notices, strict=True))


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    given, expected = REFUSED[name]

    with pytest.raises(DeviceUnavailable) as caught:
        translate(given, "CPU")

    assert [part for part in expected if part not in caught.value.message] == [], caught.value.message


@dataclass
class FakeCore:
    """Devices with the keys that they list; the real one has its test below."""

    devices: dict[str, dict[str, str]]

    @property
    def available_devices(self) -> list[str]:
        return [name for name in self.devices if name not in {"AUTO", "BATCH"}]

    def get_property(self, device: str, key: str) -> dict[str, str]:
        if device not in self.devices:
            raise RuntimeError(f"{key}: no {device}")
        return self.devices[device]


RW = dict.fromkeys(("PERFORMANCE_HINT", "NUM_STREAMS", "INFERENCE_NUM_THREADS", "ENABLE_CPU_PINNING"), "RW")
CORE = FakeCore(
    {
        "CPU": RW | {"FULL_DEVICE_NAME": "RO"},
        "GPU": {"PERFORMANCE_HINT": "RW", "GPU_ONLY": "RW"},
        "AUTO": {"PERFORMANCE_HINT": "RW", "MODEL_PRIORITY": "RW"},
        "BATCH": {"AUTO_BATCH_TIMEOUT": "RW"},
        "NVIDIA": {"NVIDIA_ONLY": "RW"},
    }
)


def properties(
    device: str = "CPU",
    plugin_config: dict[str, Value] | None = None,
    *,
    inputs: InputSettings = InputSettings(),  # noqa: B008  # frozen
    allow_cache: bool = False,
    cpu: CpuShare = CpuShare(),  # noqa: B008  # frozen
    cache: str = "",
) -> dict[str, object]:
    settings = ModelSettings(device, 0, plugin_config or {}, inputs, allow_cache, 1, 1)
    return compile_properties(CORE, settings, cpu, cache)


@pytest.mark.parametrize(
    ("device", "key"),
    [
        ("CPU", "NO_SUCH"),
        ("CPU", "FULL_DEVICE_NAME"),
        ("CPU", "MODEL_PRIORITY"),
        ("CPU", "GPU_ONLY"),
        ("CPU", "DEVICE_PROPERTIES"),
        ("AUTO:GPU", "NUM_STREAMS"),
        ("BATCH:CPU(4)", "MODEL_PRIORITY"),
        ("GPU", "CPU_THREADS_NUM"),
        ("AUTO:XYZ,CPU", "NO_SUCH"),
    ],
)
def test_unsupported_keys_are_named_with_the_supported_ones(device: str, key: str) -> None:
    with pytest.raises(DeviceUnavailable) as caught:
        properties(device, {key: "{}" if key == "DEVICE_PROPERTIES" else "1"})

    assert (
        f"Plugin config contains unsupported keys: {key} is not supported by {device}" in caught.value.message
    )
    assert "supported: ALLOW_AUTO_BATCHING, " in caught.value.message


def test_a_misspelt_key_is_answered_with_the_nearest() -> None:
    with pytest.raises(DeviceUnavailable, match=r"did you mean NUM_STREAMS\?"):
        properties("CPU", {"NUM_STREAM": 2})


@pytest.mark.parametrize(
    ("device", "key", "value"),
    [
        ("AUTO", "GPU_ONLY", 1),
        ("AUTO", "NUM_STREAMS", 1),
        ("AUTO:GPU,CPU", "NUM_STREAMS", 1),
        ("AUTO", "MODEL_PRIORITY", "HIGH"),
        ("", "MODEL_PRIORITY", "HIGH"),
        ("AUTO:XYZ,CPU", "NUM_STREAMS", 1),
        ("BATCH:CPU(4)", "AUTO_BATCH_TIMEOUT", 200),
        ("BATCH:CPU(4)", "NUM_STREAMS", 2),
        ("CPU", "CACHE_MODE", "OPTIMIZE_SPEED"),
        ("XYZ", "WHAT_NOBODY_KNOWS", 1),
    ],
)
def test_keys_of_every_named_device_count(device: str, key: str, value: Value) -> None:
    assert properties(device, {key: value})[key] == value


def test_the_default_hint_is_left_out_where_the_device_has_none() -> None:
    assert properties("NVIDIA") == {}
    assert properties("GPU") == LATENCY


@pytest.mark.parametrize(
    "device", ["CPU", "AUTO", "", "AUTO:GPU,CPU", "MULTI:GPU,CPU", "HETERO:CPU", "BATCH:CPU(4)"]
)
def test_the_share_of_the_cpu(device: str) -> None:
    given = properties(device, cpu=CpuShare((0, 1), threads=2, is_pinning_safe=False))

    assert given == LATENCY | {"INFERENCE_NUM_THREADS": 2, "ENABLE_CPU_PINNING": False}


@pytest.mark.parametrize("device", ["GPU", "AUTO:GPU", "AUTO:-CPU", "NVIDIA"])
def test_no_share_where_the_cpu_does_not_compute(device: str) -> None:
    given = properties(device, cpu=CpuShare((0,), threads=1, is_pinning_safe=False))

    assert not given.keys() & {"INFERENCE_NUM_THREADS", "ENABLE_CPU_PINNING"}


@pytest.mark.parametrize(
    "plugin_config",
    [
        {"INFERENCE_NUM_THREADS": 7, "ENABLE_CPU_PINNING": True},
        {"CPU_THREADS_NUM": "7", "CPU_BIND_THREAD": "YES"},
    ],
)
def test_the_users_word_goes_before_the_share(plugin_config: dict[str, Value]) -> None:
    given = properties("CPU", plugin_config, cpu=CpuShare((0,), threads=1, is_pinning_safe=False))

    assert given == LATENCY | {"INFERENCE_NUM_THREADS": 7, "ENABLE_CPU_PINNING": True}


def test_the_users_word_for_one_device_goes_before_the_share() -> None:
    text = '{"CPU": {"INFERENCE_NUM_THREADS": 7}}'

    given = properties("AUTO", {"DEVICE_PROPERTIES": text}, cpu=CpuShare((0,), threads=1))

    assert "INFERENCE_NUM_THREADS" not in given


def test_a_share_without_limits_sets_nothing() -> None:
    assert properties("CPU", cpu=CpuShare((0, 1))) == LATENCY


AUTO_SHAPE, AUTO_BATCH = (
    InputSettings(shapes=(InputShape("", None),)),
    InputSettings(batch_size=BatchSize(None)),
)


@pytest.mark.parametrize(
    ("inputs", "allow_cache", "is_cached"),
    [
        (InputSettings(), False, True),
        (AUTO_SHAPE, False, False),
        (AUTO_BATCH, False, False),
        (AUTO_SHAPE, True, True),
    ],
)
def test_cache(inputs: InputSettings, allow_cache: bool, is_cached: bool) -> None:
    given = properties("CPU", inputs=inputs, allow_cache=allow_cache, cache="/var/cache/models")

    assert given == LATENCY | ({"CACHE_DIR": "/var/cache/models"} if is_cached else {})


@pytest.mark.parametrize(
    "device", ["MULTI:CPU,XYZ", "HETERO:XYZ,CPU", "MULTI:CPU.0,CPU", "AUTO:XYZ", "AUTO:XYZ,NPU"]
)
def test_a_missing_device_that_cannot_be_done_without_is_refused(device: str) -> None:
    with pytest.raises(DeviceUnavailable, match=r"(XYZ|CPU\.0) is not available on this machine"):
        candidates(device, ("CPU", "GPU"))


@pytest.mark.parametrize(
    ("device", "existing", "taken", "missing"),
    [
        ("AUTO:GPU,CPU", ("CPU",), ("AUTO:CPU",), ["GPU"]),
        ("AUTO:CPU,GPU", ("CPU",), ("AUTO:CPU",), ["GPU"]),
        ("AUTO:GPU,CPU", ("CPU", "GPU"), ("AUTO:GPU,CPU", "AUTO:GPU", "AUTO:CPU"), []),
        ("AUTO:CPU,GPU", ("CPU", "GPU"), ("AUTO:CPU,GPU", "AUTO:CPU", "AUTO:GPU"), []),
        (
            "AUTO:XYZ,GPU.1,NPU,CPU",
            ("CPU", "GPU.0", "GPU.1"),
            ("AUTO:GPU.1,CPU", "AUTO:GPU.1", "AUTO:CPU"),
            ["XYZ", "NPU"],
        ),
        ("AUTO:CPU.0,CPU", ("CPU",), ("AUTO:CPU",), ["CPU.0"]),
        ("AUTO:GPU,CPU,-NPU", ("CPU",), ("AUTO:CPU,-NPU",), ["GPU"]),
        ("AUTO:-GPU", ("CPU",), ("AUTO:-GPU",), []),
        ("AUTO", ("CPU",), ("AUTO",), []),
        ("", ("CPU",), ("AUTO",), []),
        ("MULTI:GPU,CPU", ("CPU", "GPU"), ("MULTI:GPU,CPU",), []),
        ("GPU", ("CPU",), ("GPU",), []),
        ("BATCH:GPU(4)", ("CPU",), ("BATCH:GPU(4)",), []),
    ],
)
def test_autos_list_is_one_of_candidates(
    device: str, existing: tuple[str, ...], taken: tuple[str, ...], missing: list[str]
) -> None:
    chosen = candidates(device, existing)

    assert chosen.devices == taken
    assert (f"goes without {', '.join(missing)} and takes {taken[0]}" in chosen.notice) == bool(missing)


def test_no_cache_without_a_directory() -> None:
    assert properties("CPU") == LATENCY


def test_the_users_cache_goes_first() -> None:
    assert properties("CPU", {"CACHE_DIR": "/own"}, cache="/ours")["CACHE_DIR"] == "/own"


def test_supported_is_unknown_where_a_device_is_missing() -> None:
    assert supported_properties(CORE, "XYZ") == frozenset()
    assert supported_properties(CORE, "MULTI:CPU,XYZ") == frozenset()
    assert "NUM_STREAMS" in supported_properties(CORE, "AUTO:XYZ,CPU")


@pytest.mark.parametrize(
    ("name", "existing", "expected"),
    [
        ("CPU", ("CPU",), True),
        ("CPU.1", ("CPU",), False),
        ("CPU.0", ("CPU",), False),
        ("GPU", ("CPU", "GPU.0", "GPU.1"), True),
        ("GPU.1", ("CPU", "GPU.0", "GPU.1"), True),
        ("GPU.2", ("CPU", "GPU.0", "GPU.1"), False),
        ("GPU.0", ("CPU", "GPU"), True),
        ("GPU.1", ("CPU", "GPU"), False),
        ("NPU", ("CPU", "GPU"), False),
    ],
)
def test_present_devices(name: str, existing: tuple[str, ...], expected: bool) -> None:
    assert is_present(name, existing) is expected


def test_imports_no_openvino() -> None:
    code = "import sys, ovms_mp.worker.engine.properties; sys.exit('openvino' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
