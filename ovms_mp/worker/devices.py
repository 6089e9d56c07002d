# SPDX-License-Identifier: Apache-2.0
"""``ovms_mp devices``: what OpenVINO sees on this machine, what is missing, and what AUTO would take.

A short-lived process of its own, as it imports openvino: ``python -m ovms_mp.worker.devices [--model PATH]
[--target_device D] [--plugins_xml FILE] [--cpu_extension FILE]``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import openvino as ov
import openvino.opset13 as ops

from ovms_mp.child.specs import CpuShare, EngineSpec
from ovms_mp.config.device_text import engine_device, family_of
from ovms_mp.errors import ConfigError, ExitCode, OvmsError
from ovms_mp.model.input_settings import InputSettings
from ovms_mp.wire.records import ModelSettings
from ovms_mp.worker.engine.device_names import advice_on
from ovms_mp.worker.engine.engine import compile_for, create_core, engine_text
from ovms_mp.worker.engine.properties import compile_properties
from ovms_mp.worker.load.prepare import prepare_model

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_KNOWN_FAMILIES = ("CPU", "GPU", "NPU")
_MODEL_SUFFIXES = (".xml", ".onnx", ".pdmodel", ".pb", ".tflite")
_AUTO_TEXT = """\
AUTO (and an empty target_device) takes the first of these that is there and supports the model's precision:
  1. a discrete GPU, 2. an integrated GPU, 3. the CPU. An NPU is taken only where it is named, e.g. AUTO:NPU,CPU.
  AUTO:a,b takes the first of a, b; AUTO:-a all but a. With PERFORMANCE_HINT CUMULATIVE_THROUGHPUT it uses all at once.
MULTI:a,b, HETERO:a,b and BATCH:d(n) are built from the devices above."""


def main(arguments: Sequence[str]) -> int:
    """Print the devices; the exit code."""
    parser = argparse.ArgumentParser(
        prog="ovms_mp devices",
        description="Show the devices that OpenVINO sees on this machine.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model", default="", help="model file, version directory or base path to compile on each"
    )
    parser.add_argument("--target_device", default="", help="only this device, e.g. AUTO:GPU,CPU")
    parser.add_argument("--plugins_xml", default="", help="file that registers further device plugins")
    parser.add_argument("--cpu_extension", default="", help="library with custom operations for the CPU")
    given = parser.parse_args(list(arguments))
    try:
        core = create_core(EngineSpec(cpu_extension=given.cpu_extension, plugins_xml=given.plugins_xml))
        lines = list(_report(core, given.model, given.target_device))
    except OvmsError as error:
        sys.stderr.write(f"ovms_mp devices: {error}\n")
        return ExitCode.USAGE
    sys.stdout.write("\n".join(lines) + "\n")
    return ExitCode.CLEAN


def _report(core: ov.Core, model_path: str, device: str) -> Iterator[str]:
    model = _read(core, _model_file(Path(model_path))) if model_path else None
    yield f"OpenVINO {ov.get_version()}"
    if device:
        yield device
        yield from _plan(core, model or _add_one(), device)
        return
    existing = tuple(core.available_devices)
    for name in existing:
        yield name
        yield f"  full name: {_property(core, name, 'FULL_DEVICE_NAME')}"
        if family_of(name) != "CPU":
            yield f"  type: {_property(core, name, 'DEVICE_TYPE').rpartition('.')[2].lower()}"
        yield f"  optimization capabilities: {_property(core, name, 'OPTIMIZATION_CAPABILITIES')}"
        if model is not None:
            yield from _plan_or_reason(core, model, name)
    for family in _KNOWN_FAMILIES:
        if not any(family_of(name) == family for name in existing):
            yield f"{family} is not available; {advice_on(family)}"
            yield f"  OpenVINO says: {_refusal(core, family)}"
    yield _AUTO_TEXT
    yield f"AUTO now{f', for {model_path}' if model_path else ''}:"
    yield from _plan_or_reason(core, model or _add_one(), "AUTO")


def _refusal(core: ov.Core, device: str) -> str:
    """What OpenVINO says when it is asked to use a device that is not there."""
    try:
        core.compile_model(_add_one(), device)
    except RuntimeError as error:
        return engine_text(error)
    return "nothing; it just compiled a model for it"


def _read(core: ov.Core, model_file: Path) -> ov.Model:
    return prepare_model(core, str(model_file), _settings("")).model


def _plan_or_reason(core: ov.Core, model: ov.Model, device: str) -> Iterator[str]:
    """The plan, or one line that says why there is none."""
    try:
        yield from _plan(core, model, device)
    except OvmsError as error:
        yield f"  {error}"


def _plan(core: ov.Core, model: ov.Model, device: str) -> Iterator[str]:
    """How a device would run a model with the server's defaults.

    Raises:
        OvmsError: It cannot.
    """
    settings = _settings(device)
    properties = compile_properties(core, settings, CpuShare(), "")
    if engine_device(device).startswith("AUTO"):
        # Else AUTO may say CPU only because the GPU is still compiling.
        properties["ENABLE_STARTUP_FALLBACK"] = False
    compiled = compile_for(core, model, device, {}, properties)
    yield f"  computes on: {_text(compiled.get_property('EXECUTION_DEVICES'))}"
    nireq = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
    yield f"  OPTIMAL_NUMBER_OF_INFER_REQUESTS (nireq): {nireq}, with the default PERFORMANCE_HINT LATENCY"
    for name, streams, threads in _streams(compiled):
        yield f"  streams on {name}: {streams}, threads: {threads}"


def _streams(compiled: ov.CompiledModel) -> Iterator[tuple[str, object, object]]:
    """Streams and threads of each device below; AUTO, MULTI and HETERO have none of their own."""
    try:
        per_device = compiled.get_property("DEVICE_PROPERTIES")
    except RuntimeError:
        per_device = {}
    for name, properties in per_device.items():
        yield name, properties.get("NUM_STREAMS", "?"), properties.get("INFERENCE_NUM_THREADS", "-")
    if per_device:
        return
    found = []
    for key in ("NUM_STREAMS", "INFERENCE_NUM_THREADS"):
        try:
            found.append(compiled.get_property(key))
        except RuntimeError:
            found.append("-")
    yield _text(compiled.get_property("EXECUTION_DEVICES")), found[0], found[1]


def _property(core: ov.Core, device: str, key: str) -> str:
    try:
        return _text(core.get_property(device, key))
    except RuntimeError as error:
        return f"unknown ({engine_text(error)})"


def _text(value: object) -> str:
    if isinstance(value, (list, tuple, set)):
        return ", ".join(map(str, value))
    return str(value)


def _settings(device: str) -> ModelSettings:
    """What a model without any settings is compiled with."""
    return ModelSettings(
        device=device,
        nireq=0,
        plugin_config={},
        inputs=InputSettings(),
        allow_cache=False,
        max_queue_tasks=1,
        max_queue_bytes=1,
    )


def _add_one() -> ov.Model:
    """A model to ask AUTO about when none is given."""
    x = ops.parameter([1], np.float32)
    return ov.Model([ops.result(ops.add(x, np.float32(1)))], [x], "add_one")


def _model_file(path: Path) -> Path:
    """The model that a path means: a file, a version directory, or a base path with its greatest version."""
    if not path.exists():
        raise ConfigError(f"--model {path}: there is no such file or directory")
    if path.is_file():
        return path
    try:
        entries = list(path.iterdir())
        versions = [entry for entry in entries if entry.name.isdecimal() and entry.is_dir()]
        if versions:
            greatest = max(versions, key=lambda entry: int(entry.name))
            return _model_in(greatest, greatest.iterdir())
        return _model_in(path, entries)
    except OSError as error:
        raise ConfigError(f"--model {path}: {error.strerror}") from None


def _model_in(directory: Path, entries: Iterable[Path]) -> Path:
    names = sorted(entry.name for entry in entries)
    if "saved_model.pb" in names:
        return directory
    for suffix in _MODEL_SUFFIXES:
        for name in names:
            if name.endswith(suffix) and not name.startswith("."):
                return directory / name
    raise ConfigError(
        f"--model: {directory} holds no model; give a file ({', '.join(_MODEL_SUFFIXES)}), a version directory or a "
        "base path with version directories 1/, 2/, ..."
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
