# SPDX-License-Identifier: Apache-2.0
"""Device strings held against the devices of this machine: what is taken, and what is said of what is missing. Pure.

What a device string means is :mod:`ovms_mp.config.device_text`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from ovms_mp.config.device_text import (
    RETIRED_DEVICES,
    engine_device,
    excluded_devices,
    family_of,
    meta_device,
    named_devices,
)
from ovms_mp.errors import DeviceUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

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


@dataclass(frozen=True, slots=True)
class Candidates:
    """What to give to OpenVINO for a device string.

    Attributes:
        devices: Device strings; the first one is meant, each of the others is to be tried when those before it fail.
        notice: What was left out and why, for people; empty for nothing.
    """

    devices: tuple[str, ...]
    notice: str = ""


def candidates(device: str, existing: tuple[str, ...]) -> Candidates:
    """Hold a device string against the devices that OpenVINO lists.

    AUTO's list is one of candidates: those that exist are taken, in its order. OpenVINO leaves out a name that it does
    not know, but fails where the plugin is there and its driver is not. MULTI and HETERO are told to use all of theirs;
    a missing one there would turn a misspelt name into half the throughput.

    Raises:
        DeviceUnavailable: None of AUTO's candidates exists, or one that MULTI or HETERO name does not.
    """
    meta, named = meta_device(device), named_devices(device)
    if meta not in {"AUTO", "MULTI", "HETERO"} or not named:
        return Candidates((engine_device(device),))
    missing = [name for name in named if not is_present(name, existing)]
    present = [name for name in named if name not in missing]
    if missing and (meta != "AUTO" or not present):
        raise DeviceUnavailable(missing_device_text(device, existing))
    if meta != "AUTO":
        return Candidates((engine_device(device),))
    excluded = [f"-{name}" for name in excluded_devices(device)]
    alone = [[name] for name in present] if len(present) > 1 else []
    devices = tuple(f"AUTO:{','.join([*names, *excluded])}" for names in (present, *alone))
    if not missing:
        return Candidates(devices)
    text = missing_device_text(device, existing)
    return Candidates(devices, f"{text}; AUTO goes without {', '.join(missing)} and takes {devices[0]}")


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
    if family in RETIRED_DEVICES:
        return f"{family} is {RETIRED_DEVICES[family]}"
    return _DRIVERS.get(family) or _CONTRIBUTED
