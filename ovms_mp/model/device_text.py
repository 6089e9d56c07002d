# SPDX-License-Identifier: Apache-2.0
"""OpenVINO device strings as users write them: ``"auto: gpu, cpu"`` becomes ``AUTO:GPU,CPU``. Pure.

Names that are not OpenVINO's own are left as they are, because contributed plugins choose theirs. Which devices
exist is for OpenVINO to say, where the model is loaded. See :mod:`ovms_mp.model.shape_text` for how errors are told.
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

RETIRED_DEVICES: Mapping[str, str] = MappingProxyType(
    {
        "MYRIAD": "gone since OpenVINO 2023.0; take CPU, GPU, or NPU of a newer processor",
        "HDDL": "gone since OpenVINO 2023.0; take CPU, GPU, or NPU of a newer processor",
        "VPU": "gone since OpenVINO 2023.0; take CPU, GPU, or NPU of a newer processor",
        "VPUX": "called NPU now; take NPU",
        "GNA": "gone since OpenVINO 2024.0; take NPU of a newer processor, or CPU",
        "FPGA": "gone since OpenVINO 2020.4; take CPU or GPU",
    }
)
"""Devices that OVMS users may still name, with what became of them."""


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
