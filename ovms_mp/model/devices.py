# SPDX-License-Identifier: Apache-2.0
"""OpenVINO devices: their names, and the device strings that users write. Pure.

The only table of device names and the only parser of device strings: the configuration, the manager's plan of the cores
and the workers' properties ask it, so that they agree on what computes on the CPU. A device that OpenVINO gains is one
line in :data:`OPENVINO_DEVICES`.

A device string is ``CPU``, ``GPU.1``, ``AUTO``, ``AUTO:GPU,CPU``, ``AUTO:-GPU``, ``MULTI:a,b``, ``HETERO:a,b``,
``BATCH:d(n)`` or the name of a contributed plugin; an empty one is AUTO's choice, as in OVMS. Names that are not
OpenVINO's own are kept as they are, because contributed plugins choose theirs. Which devices exist is for OpenVINO to
say, where the model is loaded.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING

from ovms_mp.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

OPENVINO_DEVICES: Mapping[str, str] = MappingProxyType(
    {
        "CPU": "the only CPU device is called CPU, whatever the number of sockets",
        "GPU": (
            "it needs an Intel GPU, the OpenCL loader (libOpenCL.so.1) with Intel's compute runtime (intel-opencl-icd, "
            "level-zero), and /dev/dri in the container"
        ),
        "NPU": (
            "it needs an Intel NPU, its driver (intel_vpu) with intel-driver-compiler-npu, intel-level-zero-npu and "
            "level-zero, and /dev/accel in the container"
        ),
    }
)
"""The devices that OpenVINO brings, each with what it needs, for a machine where it is not available."""

_GONE_AT_2023_0 = "gone since OpenVINO 2023.0; use CPU, GPU, or NPU of a newer processor"
RETIRED_DEVICES: Mapping[str, str] = MappingProxyType(
    {
        "MYRIAD": _GONE_AT_2023_0,
        "HDDL": _GONE_AT_2023_0,
        "VPU": _GONE_AT_2023_0,
        "VPUX": "called NPU now; use NPU",
        "GNA": "gone since OpenVINO 2024.0; use NPU of a newer processor, or CPU",
        "FPGA": "gone since OpenVINO 2020.4; use CPU or GPU",
    }
)
"""Devices that OVMS users may still name, with what became of them; read as "NAME is ..."."""

DEFAULT_DEVICE = "CPU"
_META_DEVICES = frozenset({"AUTO", "MULTI", "HETERO", "BATCH"})
"""They have no hardware of their own."""
_CONTRIBUTED_DEVICES = frozenset({"NVIDIA", "TEMPLATE"})
_NAMES = _META_DEVICES | _CONTRIBUTED_DEVICES | OPENVINO_DEVICES.keys()
_NOT_OPENVINO_S = (
    "OpenVINO has no such device; if it is a contributed plugin, register its library by --plugins_xml"
)
_WORD = re.compile(r"[A-Za-z]+")


def parse_device(value: object) -> str:
    """Read a device string: ``"auto: gpu, cpu"`` becomes ``AUTO:GPU,CPU``, an empty one ``AUTO``.

    Raises:
        ConfigError: Why it is not valid, without the value, which the caller knows.
    """
    if not isinstance(value, str):
        raise ConfigError("a device must be a string")
    text = "".join(value.split())
    if not text.isprintable():
        raise ConfigError("it contains unprintable characters")
    if not text:
        return "AUTO"
    for word in _WORD.findall(text):
        if word.upper() in RETIRED_DEVICES:
            raise ConfigError(f"{word.upper()} is {RETIRED_DEVICES[word.upper()]}")
    return _WORD.sub(_normalised, text)


def _normalised(match: re.Match[str]) -> str:
    word = match[0].upper()
    return word if word in _NAMES else match[0]


def engine_device(device: str) -> str:
    """The device string to give to OpenVINO, which does not know the empty one."""
    return device.strip() or "AUTO"


def meta_device(device: str) -> str:
    """The leading AUTO, MULTI, HETERO or BATCH; empty for a plain device."""
    first = engine_device(device).partition(":")[0].strip().upper()
    return first if first in _META_DEVICES else ""


def named_devices(device: str) -> tuple[str, ...]:
    """The plain devices that a device string asks for: ``AUTO:GPU.1,CPU`` GPU.1 and CPU, ``BATCH:CPU(4)`` CPU."""
    return tuple(
        part for part in _parts(device) if part.upper() not in _META_DEVICES and not part.startswith("-")
    )


def excluded_devices(device: str) -> tuple[str, ...]:
    """The plain devices that a device string excludes: ``AUTO:-GPU`` GPU."""
    return tuple(part[1:] for part in _parts(device) if part.startswith("-"))


def family_of(name: str) -> str:
    """``GPU`` of ``GPU.1``."""
    return name.partition(".")[0]


def may_use_cpu(device: str) -> bool:
    """Whether models on this device may be computed by the CPU: it is named, or AUTO may choose it."""
    if _has_cpu(excluded_devices(device)):
        return False
    named = named_devices(device)
    return _has_cpu(named) or not named


def advice_on(name: str) -> str:
    """What a plain device that is not available would need, or what replaced it."""
    family = family_of(name)
    if family in RETIRED_DEVICES:
        return f"{family} is {RETIRED_DEVICES[family]}"
    return OPENVINO_DEVICES.get(family, _NOT_OPENVINO_S)


def _has_cpu(names: tuple[str, ...]) -> bool:
    return any(family_of(name).upper() == "CPU" for name in names)


def _parts(device: str) -> list[str]:
    parts = re.sub(r"\([^)]*\)", "", device).replace(":", ",").split(",")
    return [part.strip() for part in parts if part.strip()]
