# SPDX-License-Identifier: Apache-2.0
"""``plugin_config`` to OpenVINO's compile properties: legacy names, text values, contradictions, this worker's share.

::

    plugin_config --translate--> properties --check against the device--> + share of the CPU, cache --> compile_model

Imports no openvino: the core comes as an argument. What was seen of OpenVINO 2026.4: AUTO, MULTI and HETERO ignore a
key that they do not know without a word, and hand every other one down to the devices that have it, so that
``NUM_STREAMS`` or ``INFERENCE_NUM_THREADS`` need no ``DEVICE_PROPERTIES``; BATCH and CPU refuse what they do not know.
"""

from __future__ import annotations

import difflib
import json
import logging
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from ovms_mp.errors import DeviceUnavailable
from ovms_mp.model.devices import engine_device, may_use_cpu, meta_device, named_devices
from ovms_mp.worker.engine.cache_directory import odd_entry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import openvino as ov

    from ovms_mp.child.specs import CpuShare
    from ovms_mp.config.model import PropertyValue
    from ovms_mp.wire.records import ModelSettings

_log = logging.getLogger(__name__)

Properties: TypeAlias = "dict[str, PropertyValue | dict[str, dict[str, PropertyValue]]]"

_ADAPTIVE = "ADAPTIVE"
"""Ours: which of the first two runs a task is decided when its turn comes (:mod:`ovms_mp.worker.run.forms`)."""
_HINTS = ("LATENCY", "THROUGHPUT", "CUMULATIVE_THROUGHPUT", _ADAPTIVE)
_TRUE, _FALSE = frozenset({"YES", "TRUE", "ON", "1"}), frozenset({"NO", "FALSE", "OFF", "0"})
_BOOLEANS = frozenset(
    {
        "ALLOW_AUTO_BATCHING",
        "CPU_DENORMALS_OPTIMIZATION",
        "ENABLE_CPU_PINNING",
        "ENABLE_CPU_RESERVATION",
        "ENABLE_HYPER_THREADING",
        "ENABLE_MMAP",
        "ENABLE_RUNTIME_FALLBACK",
        "ENABLE_STARTUP_FALLBACK",
        "PERF_COUNT",
    }
)
_INTEGERS = frozenset(
    {
        "AUTO_BATCH_TIMEOUT",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE",
        "INFERENCE_NUM_THREADS",
        "KEY_CACHE_GROUP_SIZE",
        "NUM_STREAMS",
        "PERFORMANCE_HINT_NUM_REQUESTS",
        "VALUE_CACHE_GROUP_SIZE",
    }
)
_WORDS_FOR_INTEGERS: Mapping[str, tuple[str, ...]] = MappingProxyType({"NUM_STREAMS": ("AUTO", "NUMA")})
_CORE_KEYS = frozenset(
    {"ALLOW_AUTO_BATCHING", "AUTO_BATCH_TIMEOUT", "CACHE_DIR", "CACHE_MODE", "ENABLE_MMAP"}
)
"""Taken by OpenVINO's core for every device, though no device lists them."""
_OF_THREADS = frozenset(
    {"DEVICE_PROPERTIES", "ENABLE_CPU_PINNING", "INFERENCE_NUM_THREADS", "NUM_STREAMS", "PERFORMANCE_HINT"}
)
_KEYS_OF_SEVERAL_DEVICES = frozenset({"DEVICE_PROPERTIES"})


def _streams(key: str, value: PropertyValue) -> tuple[str, PropertyValue]:
    text = str(value).upper()
    if text == "AUTO" or text.endswith("_AUTO"):
        return "PERFORMANCE_HINT", "THROUGHPUT"
    if text.endswith("_NUMA"):
        return "NUM_STREAMS", "NUMA"
    return "NUM_STREAMS", _integer(key, value)


def _threads(key: str, value: PropertyValue) -> tuple[str, PropertyValue]:
    return "INFERENCE_NUM_THREADS", _integer(key, value)


def _binding(key: str, value: PropertyValue) -> tuple[str, PropertyValue]:
    """All forms of binding became one switch; to NUMA nodes or to cores is OpenVINO's choice now."""
    if str(value).upper() in {"NUMA", "CORE", "HYBRID_AWARE"}:
        return "ENABLE_CPU_PINNING", True
    if str(value).upper() == "NONE":
        return "ENABLE_CPU_PINNING", False
    return "ENABLE_CPU_PINNING", _boolean(key, value)


_LEGACY: Mapping[str, Callable[[str, PropertyValue], tuple[str, PropertyValue]]] = MappingProxyType(
    {
        "CPU_THROUGHPUT_STREAMS": _streams,
        "GPU_THROUGHPUT_STREAMS": _streams,
        "CPU_THREADS_NUM": _threads,
        "CPU_BIND_THREAD": _binding,
        "AFFINITY": _binding,
    }
)


def translate(plugin_config: Mapping[str, PropertyValue], device: str) -> tuple[Properties, tuple[str, ...]]:
    """Today's properties for what a user wrote, and notices for the log about what was changed.

    Legacy names become today's, text becomes numbers and truth values where the property wants those, and a model with
    neither hint nor streams gets ``PERFORMANCE_HINT=LATENCY``, as OVMS does.

    Raises:
        DeviceUnavailable: A value does not fit its key, or two keys contradict each other.
    """
    properties: Properties = {}
    written: dict[str, str] = {}
    notices: list[str] = []
    for given, value in plugin_config.items():
        key, new_value = _translated(given, value)
        if key in written:
            raise DeviceUnavailable(
                f"plugin_config: Tried to set the same key twice in plugin config: {written[key]} and {given} both "
                f"mean {key} of {engine_device(device)}; leave one out"
            )
        if key != given:
            notices.append(f"plugin_config: {given}={value} is {key}={new_value} today")
        written[key] = given
        properties[key] = new_value
    if {"NUM_STREAMS", "PERFORMANCE_HINT"} <= properties.keys():
        raise DeviceUnavailable(
            f"plugin_config: {_as_given(written, 'NUM_STREAMS', properties)} and "
            f"{_as_given(written, 'PERFORMANCE_HINT', properties)} contradict each other: the hint chooses a number of "
            "streams, and OpenVINO would take the number and leave the hint without effect; leave one out"
        )
    if not {"NUM_STREAMS", "PERFORMANCE_HINT"} & properties.keys():
        properties["PERFORMANCE_HINT"] = "LATENCY"
    if properties.get("PERFORMANCE_HINT") == _ADAPTIVE:
        if not _is_cpu(device):
            raise DeviceUnavailable(
                f"plugin_config: PERFORMANCE_HINT=ADAPTIVE is for the device CPU and target_device is {device!r}; take "
                "LATENCY or THROUGHPUT"
            )
        properties["PERFORMANCE_HINT"] = "LATENCY"
    return properties, tuple(notices)


def is_adaptive(settings: ModelSettings) -> bool:
    """Whether a version may have a second form for concurrent requests: on the CPU, unless its form is fixed."""
    if not settings.adaptive_bytes or not _is_cpu(settings.device):
        return False
    keys = {_today(key) for key in settings.plugin_config}
    return not {"NUM_STREAMS", "PERFORMANCE_HINT"} & keys or is_named_adaptive(settings)


def is_named_adaptive(settings: ModelSettings) -> bool:
    """Whether the user has asked for it by name."""
    return any(
        _today(key) == "PERFORMANCE_HINT" and str(value).upper() == _ADAPTIVE
        for key, value in settings.plugin_config.items()
    )


def leaves_threads_open(settings: ModelSettings) -> bool:
    """Whether how many threads a run has, and where, is ours to choose: on the CPU, without a word of the user."""
    if not _is_cpu(settings.device):
        return False
    named = _OF_THREADS & {_today(key) for key in settings.plugin_config}
    return not named or (named == {"PERFORMANCE_HINT"} and is_named_adaptive(settings))


def with_hint(plugin_config: Mapping[str, PropertyValue], hint: str) -> dict[str, PropertyValue]:
    """The same with another hint."""
    others = {key: value for key, value in plugin_config.items() if _today(key) != "PERFORMANCE_HINT"}
    return others | {"PERFORMANCE_HINT": hint}


def _is_cpu(device: str) -> bool:
    return engine_device(device) == "CPU"


def compile_properties(
    core: ov.Core, settings: ModelSettings, cpu: CpuShare, cache_directory: str
) -> dict[str, object]:
    """What to compile a version with: the user's properties, this worker's share of the CPU, the cache.

    The user's word goes before ours. Notices go to the log.

    Args:
        core: The process's core.
        settings: The version's.
        cpu: This worker's part of the machine.
        cache_directory: Where compiled models are kept, or empty; left out where shapes are ``auto``, unless the
            settings allow it.

    Raises:
        DeviceUnavailable: The device has no such property, a value does not fit, or two keys contradict each other.
    """
    properties, notices = translate(settings.plugin_config, settings.device)
    for notice in notices:
        _log.info("event=compile_properties notice=%r", notice)
    supported = supported_properties(core, settings.device)
    if supported:
        refuse_unsupported(settings.plugin_config, settings.device, supported)
        if "PERFORMANCE_HINT" not in supported and "PERFORMANCE_HINT" not in settings.plugin_config:
            properties.pop("PERFORMANCE_HINT", None)
    merged: dict[str, object] = dict(properties)
    if may_use_cpu(settings.device):
        merged = _cpu_defaults(properties, cpu) | merged
    if cache_directory and (settings.allow_cache or not settings.inputs.is_auto):
        odd = odd_entry(cache_directory)
        if odd:
            _log.warning("event=cache_not_used directory=%s: %s in it is not a file", cache_directory, odd)
        else:
            merged.setdefault("CACHE_DIR", cache_directory)
    return merged


def supported_properties(core: ov.Core, device: str) -> frozenset[str]:
    """Keys that may be set for a device string: its own, and those of every device it names.

    Empty where that cannot be known, as a device is not there; compiling says so then.
    """
    meta = meta_device(device)
    names = named_devices(device) or tuple(core.available_devices)
    keys = set(_CORE_KEYS)
    if meta and meta != "BATCH":
        keys |= _KEYS_OF_SEVERAL_DEVICES
    answered = 0
    for name in filter(None, (meta, *names)):
        try:
            found = core.get_property(name, "SUPPORTED_PROPERTIES")
        except RuntimeError:
            if meta == "AUTO":
                continue  # It goes without a device that is not there.
            return frozenset()
        answered += name != meta
        keys |= {key for key, mutability in found.items() if mutability != "RO"}
    return frozenset(keys) if answered else frozenset()


def refuse_unsupported(
    plugin_config: Mapping[str, PropertyValue], device: str, supported: frozenset[str]
) -> None:
    """Refuse keys that a device lacks.

    Raises:
        DeviceUnavailable: Names them, the nearest that exist, and all that exist.
    """
    unsupported = [key for key in plugin_config if _today(key) not in supported]
    if not unsupported:
        return
    nearest = [
        f"did you mean {match[0]}?"
        for key in unsupported
        if (match := difflib.get_close_matches(_today(key).upper(), supported, 1, 0.75))
    ]
    raise DeviceUnavailable(
        f"plugin_config: Plugin config contains unsupported keys: {', '.join(unsupported)} is not supported by "
        f"{engine_device(device)}; {' '.join([*nearest, 'supported:'])} {', '.join(sorted(supported))}"
    )


def _cpu_defaults(properties: Properties, cpu: CpuShare) -> dict[str, object]:
    """This worker's share, for keys that the user leaves open."""
    chosen = set(properties)
    per_device = properties.get("DEVICE_PROPERTIES")
    if isinstance(per_device, dict):
        # A value for all devices would go before the user's for this one.
        chosen |= set(per_device.get("CPU", {}))
    defaults: dict[str, object] = {}
    if cpu.threads > 0:
        defaults["INFERENCE_NUM_THREADS"] = cpu.threads
    if not cpu.is_pinning_safe:
        defaults["ENABLE_CPU_PINNING"] = False
    return {key: value for key, value in defaults.items() if key not in chosen}


def _today(given: str) -> str:
    """The key's name of today, for looking it up; legacy ones become one that every device with streams has."""
    key = given.removeprefix("KEY_")
    if key in {"CPU_THROUGHPUT_STREAMS", "GPU_THROUGHPUT_STREAMS"}:
        return "NUM_STREAMS"
    if key == "CPU_THREADS_NUM":
        return "INFERENCE_NUM_THREADS"
    return "ENABLE_CPU_PINNING" if key in _LEGACY else key


def _translated(
    given: str, value: PropertyValue
) -> tuple[str, PropertyValue | dict[str, dict[str, PropertyValue]]]:
    key = given.removeprefix("KEY_")
    legacy = _LEGACY.get(key)
    if legacy is not None:
        return legacy(given, value)
    if key in _BOOLEANS:
        return key, _boolean(given, value)
    if key in _INTEGERS:
        words = _WORDS_FOR_INTEGERS.get(key, ())
        text = str(value).upper()
        return key, text if text in words else _integer(given, value, words)
    if key == "PERFORMANCE_HINT":
        text = str(value).upper()
        if text not in _HINTS:
            raise _does_not_fit(given, value, f"one of {', '.join(_HINTS)}")
        return key, text
    if key == "DEVICE_PROPERTIES":
        return key, _device_properties(given, value)
    return key, value


def _integer(key: str, value: PropertyValue, words: tuple[str, ...] = ()) -> int:
    if not isinstance(value, bool):
        try:
            number = int(value)
        except (ValueError, OverflowError):
            number = -1
        if number >= 0 and (isinstance(value, str) or number == value):
            return number
    raise _does_not_fit(key, value, " or ".join(["an integer of at least 0", *words]))


def _boolean(key: str, value: PropertyValue) -> bool:
    text = str(value).upper()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise _does_not_fit(key, value, "YES, NO, true or false")


def _device_properties(key: str, value: PropertyValue) -> dict[str, dict[str, PropertyValue]]:
    """``{"CPU": {"NUM_STREAMS": 2}}`` as text; OpenVINO itself would ignore JSON there without a word."""
    expected = 'an object of objects as JSON text, e.g. {"CPU": {"NUM_STREAMS": 2}}'
    try:
        document = json.loads(str(value))
    except (ValueError, RecursionError):
        raise _does_not_fit(key, value, expected) from None
    if not isinstance(document, dict) or not all(isinstance(entry, dict) for entry in document.values()):
        raise _does_not_fit(key, value, expected)
    found: dict[str, dict[str, PropertyValue]] = document
    return found


def _as_given(written: Mapping[str, str], key: str, properties: Properties) -> str:
    given = written[key]
    return f"{given}={properties[key]}" if given == key else f"{given} (today {key}={properties[key]})"


def _does_not_fit(key: str, value: PropertyValue, accepted: str) -> DeviceUnavailable:
    return DeviceUnavailable(f"plugin_config: {key}={value!r} does not fit; accepted: {accepted}")
