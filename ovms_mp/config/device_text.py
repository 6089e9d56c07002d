# SPDX-License-Identifier: Apache-2.0
"""OpenVINO device strings as users write them: ``"auto: gpu, cpu"`` becomes ``AUTO:GPU,CPU``. Pure.

``CPU``, ``GPU.1``, ``AUTO``, ``AUTO:GPU,CPU``, ``AUTO:-GPU``, ``MULTI:a,b``, ``HETERO:a,b``, ``BATCH:d(n)`` and names
of contributed plugins; empty is AUTO's choice, as in today's OVMS. The only parser: the manager's plan of the cores and
the workers' properties ask it, so that they agree on what computes on the CPU.

Names that are not OpenVINO's own are left as they are, because contributed plugins choose theirs. Which devices
exist is for OpenVINO to say, where the model is loaded. See :mod:`ovms_mp.config.shape_text` for how errors are told.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING

from ovms_mp.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_DEVICE = "CPU"
_NAMES = frozenset({"CPU", "GPU", "NPU", "AUTO", "MULTI", "HETERO", "BATCH", "NVIDIA", "TEMPLATE"})
_WORD = re.compile(r"[A-Za-z]+")
_META_DEVICES = frozenset({"AUTO", "MULTI", "HETERO", "BATCH"})
"""They have no hardware of their own."""

_GONE_AT_2023_0 = "gone since OpenVINO 2023.0; take CPU, GPU, or NPU of a newer processor"
RETIRED_DEVICES: Mapping[str, str] = MappingProxyType(
    {
        "MYRIAD": _GONE_AT_2023_0,
        "HDDL": _GONE_AT_2023_0,
        "VPU": _GONE_AT_2023_0,
        "VPUX": "called NPU now; take NPU",
        "GNA": "gone since OpenVINO 2024.0; take NPU of a newer processor, or CPU",
        "FPGA": "gone since OpenVINO 2020.4; take CPU or GPU",
    }
)
"""Devices that OVMS users may still name, with what became of them; read as "NAME is ..."."""


def parse_device(value: object) -> str:
    """Read a device string; an empty one leaves the choice to OpenVINO's AUTO.

    Raises:
        ConfigError: Why it is none.
    """
    if not isinstance(value, str):
        raise ConfigError("a device is a text")
    text = "".join(value.split())
    if not text.isprintable():
        raise ConfigError("it has characters that cannot be printed")
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
    """The plain devices that a device string leaves out: ``AUTO:-GPU`` GPU."""
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


def _has_cpu(names: tuple[str, ...]) -> bool:
    return any(family_of(name).upper() == "CPU" for name in names)


def _parts(device: str) -> list[str]:
    parts = re.sub(r"\([^)]*\)", "", device).replace(":", ",").split(",")
    return [part.strip() for part in parts if part.strip()]
