# SPDX-License-Identifier: Apache-2.0
"""OpenVINO itself: the core, its devices, and how its failures are explained."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import openvino as ov

from ovms_mp.errors import DeviceUnavailable, ModelLoadFailed, OvmsError

if TYPE_CHECKING:
    from collections.abc import Mapping

_ENGINE_TEXT_LIMIT = 600
_META_DEVICES = frozenset({"AUTO", "MULTI", "HETERO", "BATCH"})


def create_core(cpu_extension: str) -> ov.Core:
    """The process's one OpenVINO core.

    SAFETY: the process's CPU affinity must be final before this call; OpenVINO reads it once.

    Raises:
        DeviceUnavailable: The extension library cannot be loaded.
    """
    core = ov.Core()
    if cpu_extension:
        try:
            core.add_extension(cpu_extension)
        except RuntimeError as error:
            raise DeviceUnavailable(f"--cpu_extension {cpu_extension}: {engine_text(error)}") from None
    return core


def engine_text(error: BaseException) -> str:
    """What OpenVINO said, without its source lines, on one line."""
    lines = [line.strip() for line in str(error).splitlines()]
    kept = [line for line in lines if line and not line.startswith("Exception from src/")]
    text = "; ".join(kept) or type(error).__name__
    return text if len(text) <= _ENGINE_TEXT_LIMIT else text[: _ENGINE_TEXT_LIMIT - 3] + "..."


def named_devices(device: str) -> tuple[str, ...]:
    """The plain devices that a device string names: ``AUTO:GPU.1,CPU`` names GPU.1 and CPU, ``BATCH:CPU(4)`` CPU."""
    parts = re.sub(r"\([^)]*\)", "", device).replace(":", ",").split(",")
    return tuple(
        part.strip().lstrip("-") for part in parts if part.strip() and part.strip() not in _META_DEVICES
    )


def explain_compile_failure(
    core: ov.Core, device: str, plugin_config: Mapping[str, object], error: RuntimeError
) -> OvmsError:
    """Turn a failed compilation into the error that names what to change."""
    existing = tuple(core.available_devices)
    for name in named_devices(device):
        family = name.partition(".")[0]
        # A machine with one GPU lists "GPU", with two "GPU.0" and "GPU.1"; both answer to "GPU".
        if name not in existing and not any(found.partition(".")[0] == family for found in existing):
            return DeviceUnavailable(
                f"target_device {device!r}: {name} is not available on this machine "
                f"(available: {', '.join(existing) or 'none'}; see `ovms_mp devices`): {engine_text(error)}"
            )
    unsupported = [key for key in plugin_config if not _is_supported(core, device, key)]
    if unsupported:
        supported = sorted(_supported_properties(core, device))
        return DeviceUnavailable(
            f"plugin_config: {', '.join(unsupported)} is not supported by {device}; "
            f"supported: {', '.join(supported)}: {engine_text(error)}"
        )
    return ModelLoadFailed(f"cannot compile for {device}: {engine_text(error)}")


def _is_supported(core: ov.Core, device: str, key: str) -> bool:
    properties = _supported_properties(core, device)
    return not properties or key in properties


def _supported_properties(core: ov.Core, device: str) -> frozenset[str]:
    names = {device.partition(":")[0], *named_devices(device)}
    found: set[str] = set()
    for name in names:
        try:
            found.update(core.get_property(name, "SUPPORTED_PROPERTIES"))
        except RuntimeError:
            # A device that cannot even say what it supports contributes nothing to the list.
            continue
    return frozenset(found)
