# SPDX-License-Identifier: Apache-2.0
"""Device strings: what a ``target_device`` names, and what is said of devices that are not there. Pure.

``CPU``, ``GPU.1``, ``AUTO``, ``AUTO:GPU,CPU``, ``AUTO:-GPU``, ``MULTI:a,b``, ``HETERO:a,b``, ``BATCH:d(n)`` and names
of contributed plugins; empty is AUTO's choice, as in today's OVMS.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

META_DEVICES = frozenset({"AUTO", "MULTI", "HETERO", "BATCH"})
"""They have no hardware of their own."""

_GONE_AT_2023_0 = "OpenVINO dropped it in 2023.0; use NPU, GPU, CPU or AUTO instead"
RETIRED_DEVICES: Mapping[str, str] = MappingProxyType(
    {
        "MYRIAD": _GONE_AT_2023_0,
        "HDDL": _GONE_AT_2023_0,
        "GNA": "OpenVINO dropped it after 2023.2; use NPU or CPU instead",
        "FPGA": "OpenVINO dropped it after 2020.3; use GPU, CPU or AUTO instead",
    }
)
"""Names that old configurations still have, and what replaced them."""

_DRIVERS: Mapping[str, str] = MappingProxyType(
    {
        "GPU": (
            "it needs an Intel GPU, the OpenCL loader (libOpenCL.so.1) with Intel's compute runtime (intel-opencl-icd, "
            "level-zero), and /dev/dri in the container"
        ),
        "NPU": (
            "it needs an Intel NPU, its driver (intel_vpu) with intel-driver-compiler-npu, intel-level-zero-npu and "
            "level-zero, and /dev/accel in the container"
        ),
        "CPU": "the only CPU device is called CPU, whatever the number of sockets",
    }
)
_CONTRIBUTED = (
    "OpenVINO brings no such device; if it is a contributed plugin, register its library by --plugins_xml"
)


def engine_device(device: str) -> str:
    """The device string to give to OpenVINO, which does not know the empty one."""
    return device.strip() or "AUTO"


def named_devices(device: str) -> tuple[str, ...]:
    """The plain devices that a device string asks for: ``AUTO:GPU.1,CPU`` GPU.1 and CPU, ``BATCH:CPU(4)`` CPU."""
    return tuple(part for part in _parts(device) if part not in META_DEVICES and not part.startswith("-"))


def meta_device(device: str) -> str:
    """The leading AUTO, MULTI, HETERO or BATCH; empty for a plain device."""
    first = engine_device(device).partition(":")[0]
    return first if first in META_DEVICES else ""


def family_of(name: str) -> str:
    """``GPU`` of ``GPU.1``."""
    return name.partition(".")[0]


def is_present(name: str, existing: tuple[str, ...]) -> bool:
    """Whether a plain device is among those that OpenVINO lists.

    A machine with one GPU lists ``GPU``, with two ``GPU.0`` and ``GPU.1``; ``GPU`` means the first then, and ``GPU.0``
    the only one.
    """
    if name in existing:
        return True
    if name == family_of(name):
        return any(family_of(found) == name for found in existing)
    return name == f"{family_of(name)}.0" != "CPU.0" and family_of(name) in existing


def may_use_cpu(device: str) -> bool:
    """Whether models on this device may be computed by the CPU."""
    parts = _parts(engine_device(device))
    if "-CPU" in parts:
        return False
    named = named_devices(device)
    return "CPU" in {family_of(name) for name in named} or not named


def missing_device_text(device: str, existing: tuple[str, ...]) -> str:
    """Which device of a device string is not there, and what it would need; empty when all are."""
    for name in named_devices(device):
        if not is_present(name, existing):
            return (
                f"target_device {device!r}: {name} is not available on this machine "
                f"(available: {', '.join(existing) or 'none'}; see `ovms_mp devices`); {advice_on(name)}"
            )
    return ""


def advice_on(name: str) -> str:
    """What a plain device that is not there would need, or what replaced it."""
    family = family_of(name)
    return RETIRED_DEVICES.get(family) or _DRIVERS.get(family) or _CONTRIBUTED


def _parts(device: str) -> list[str]:
    parts = re.sub(r"\([^)]*\)", "", device).replace(":", ",").split(",")
    return [part.strip() for part in parts if part.strip()]
