# SPDX-License-Identifier: Apache-2.0
"""OpenVINO itself: the core, its devices, and how its failures are explained."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

import openvino as ov

from ovms_mp.errors import DeviceUnavailable, ModelLoadFailed, OvmsError
from ovms_mp.model.devices import engine_device, meta_device, named_devices
from ovms_mp.worker.engine.device_names import candidates, missing_device_text
from ovms_mp.worker.engine.properties import refuse_unsupported, supported_properties
from ovms_mp.worker.engine.stages import COMPILING, begin_stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ovms_mp.child.specs import EngineSpec
    from ovms_mp.config.model import PropertyValue

_log = logging.getLogger(__name__)

_ENGINE_TEXT_LIMIT = 600
_SOURCE_LINE = re.compile(r"^(Exception from |Check '.*' failed at )src/[^ ]+:\d+:?$")


def create_core(engine: EngineSpec) -> ov.Core:
    """The process's one OpenVINO core.

    By itself it maps no file into memory, neither models nor cached blobs: a file that is cut short in place while it
    is mapped kills the process with SIGBUS at the next touch, and one that is overwritten changes the weights of what
    is compiled from it later. Both were seen with OpenVINO 2026.4.
    Files that only this server writes, and never in place, are mapped (:mod:`ovms_mp.worker.load.kept`).
    PERF: 100 MB of weights are read in 80 ms instead of 7 ms, and cannot be dropped and read again by the kernel.

    SAFETY: the process's CPU affinity must be final before this call; OpenVINO reads it once.

    Raises:
        DeviceUnavailable: The extension library or the plugins file cannot be loaded.
    """
    core = _registered_core(engine.plugins_xml)
    core.set_property({"ENABLE_MMAP": False})
    if engine.cpu_extension:
        path = _existing_file("cpu_extension", engine.cpu_extension)
        try:
            core.add_extension(path)
        except RuntimeError as error:
            raise DeviceUnavailable(f"--cpu_extension {engine.cpu_extension}: {engine_text(error)}") from None
    return core


def tell_missing_devices(core: ov.Core, device: str) -> None:
    """Log which of AUTO's candidates are not there; once for a process, as trials and loads only repeat it."""
    try:
        notice = candidates(device, tuple(core.available_devices)).notice
    except DeviceUnavailable:
        return  # Each load says so.
    if notice:
        _log.warning("event=device_missing %s", notice)


def engine_text(error: BaseException) -> str:
    """What OpenVINO said, without its source lines, on one line."""
    lines = [line.strip() for line in str(error).splitlines()]
    kept = [line for line in lines if line and not _SOURCE_LINE.match(line)]
    text = "; ".join(kept) or "; ".join(filter(None, lines)) or type(error).__name__
    return text if len(text) <= _ENGINE_TEXT_LIMIT else text[: _ENGINE_TEXT_LIMIT - 3] + "..."


def hides_failures(compiled: ov.CompiledModel) -> bool:
    """Whether ``infer`` may return as if all was well though the run has failed; a wait after ``start_async`` raises.

    Seen with OpenVINO 2026.4: where the CPU has one stream of one thread, as on a machine of one core, ``infer`` loses
    what the run raises. The outputs are what was in their memory before, and the next run crashes at times. HETERO has
    its devices run so, and like other lists of devices does not tell how many threads they have.
    """
    try:
        if not any("CPU" in device for device in compiled.get_property("EXECUTION_DEVICES")):
            return False
        return bool(
            compiled.get_property("NUM_STREAMS") == compiled.get_property("INFERENCE_NUM_THREADS") == 1
        )
    except RuntimeError:
        return True


def compile_for(
    core: ov.Core,
    model: ov.Model,
    device: str,
    plugin_config: Mapping[str, PropertyValue],
    properties: Mapping[str, object],
) -> ov.CompiledModel:
    """Compile a model for a device string; of AUTO's list for the first one that exists and can.

    Args:
        core: The process's core.
        model: What to compile; it stays as it is.
        device: As the user wrote it.
        plugin_config: The same, for explanations.
        properties: What to compile with.

    Raises:
        DeviceUnavailable: A device or property does not exist here.
        ModelLoadFailed: It cannot be compiled.
    """
    begin_stage(COMPILING)
    chosen = candidates(device, tuple(core.available_devices))
    first_failure: RuntimeError | None = None
    for candidate in chosen.devices:
        try:
            compiled = core.compile_model(model, candidate, dict(properties))
        except RuntimeError as error:
            first_failure = first_failure or error
            if candidate != chosen.devices[-1]:
                _log.warning("event=device_failed device=%s reason=%s", candidate, engine_text(error))
            continue
        if first_failure is not None:
            _log.warning("event=device_taken device=%s instead of %s", candidate, chosen.devices[0])
        return compiled
    raise explain_compile_failure(core, device, plugin_config, first_failure or RuntimeError()) from None


def explain_compile_failure(
    core: ov.Core, device: str, plugin_config: Mapping[str, PropertyValue], error: RuntimeError
) -> OvmsError:
    """Turn a failed compilation into the error that names what to change."""
    existing = tuple(core.available_devices)
    meta = meta_device(device)
    if meta and meta != "AUTO" and not named_devices(device):
        return DeviceUnavailable(
            f"target_device {device!r} names no devices; write e.g. {meta}:{existing[0] if existing else 'GPU'}: "
            f"{engine_text(error)}"
        )
    # Of AUTO's list what is missing was left out, so that is not the reason.
    if meta != "AUTO" and (missing := missing_device_text(device, existing)):
        return DeviceUnavailable(f"{missing}: {engine_text(error)}")
    supported = supported_properties(core, device)
    try:
        if supported:
            refuse_unsupported(plugin_config, device, supported)
    except DeviceUnavailable as refusal:
        return DeviceUnavailable(f"{refusal.message}: {engine_text(error)}")
    return ModelLoadFailed(f"cannot compile for {engine_device(device)}: {engine_text(error)}")


def _registered_core(plugins_xml: str) -> ov.Core:
    if not plugins_xml:
        return ov.Core()
    path = _existing_file("plugins_xml", plugins_xml)
    try:
        return ov.Core(path)
    except RuntimeError as error:
        raise DeviceUnavailable(f"--plugins_xml {plugins_xml}: {engine_text(error)}") from None


def _existing_file(flag: str, given: str) -> str:
    """The file's absolute path. OpenVINO would look for a relative one in several places, its own among them."""
    path = Path(given).absolute()
    if not path.is_file():
        raise DeviceUnavailable(
            f"--{flag} {given}: there is no file {path}; give an absolute path, or one from the directory that the "
            "server is started in"
        )
    return str(path)
