# SPDX-License-Identifier: Apache-2.0
"""Device strings held against the devices of this machine: what is taken, and what is said of what is missing. Pure.

What a device string means is :mod:`ovms_mp.model.devices`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass

from ovms_mp.errors import DeviceUnavailable
from ovms_mp.model.devices import (
    advice_on,
    engine_device,
    excluded_devices,
    family_of,
    meta_device,
    named_devices,
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
